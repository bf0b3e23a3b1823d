//! A guest that is written into a file, and one that is loaded from there.
//!
//! ```text
//! query-status ─▶ stop ─▶ getfd ─▶ migrate ─▶ query-migrate… ─▶ saved: it stands until its end, or is taken back
//!                   └──────┴─────────┴─────────────┴─ refused, failed or aborted ─▶ cont ─▶ refused
//! ```
//!
//! QEMU gets one descriptor and no path. Whoever asked must be there to hear that it is done: a guest that nobody ends
//! and nobody keeps goes on. Once it was said to be saved only [`Verb::Unsave`] makes it go on.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::hear::run_state;
use super::launch::Step;
use super::monitor::{Monitor, MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::save::Progress;
use crate::privsep::supervisor::{Answer, Verb};
use crate::qmp::Failure;

/// How often QEMU is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// The name of the descriptor in QEMU.
const NAME: &str = "svirt-save";
/// The most that QEMU takes: nothing slows a guest that stands down.
const BANDWIDTH: u64 = (1 << 63) - (1 << 21);

/// Where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Whether the guest runs.
    Asking,
    Stopping,
    /// As fast as it can.
    Hurrying,
    /// QEMU is to tell of each turn through the memory.
    Listening,
    Handing,
    Beginning,
    /// QEMU writes, and is asked how far it is.
    Writing,
    /// It is told to give up.
    Aborting,
    /// It is asked until it has.
    Cancelling,
    /// The guest goes on.
    Resuming,
    /// It is written, and somebody knows.
    Saved,
}

/// The save that goes on.
#[derive(Debug)]
pub(super) struct Saving {
    /// The ticket of whoever asked.
    ticket: u64,
    stage: Stage,
    /// Whether the guest ran.
    runs: bool,
    /// Whether it was to go on, and does not.
    stands: bool,
    fd: Option<OwnedFd>,
    /// Why it is given up.
    refusal: Option<Refusal>,
    /// Whoever wants it taken back, and waits for that.
    unsaver: Option<u64>,
    /// When QEMU is asked again; nothing while an answer is due.
    look: Option<Instant>,
}

impl Saving {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }
}

impl Server {
    /// Whether a guest that is being saved forbids this.
    pub(super) fn forbidden_by_save(&self, verb: &Verb) -> Option<Refusal> {
        let harmless = matches!(
            verb,
            Verb::AbortSave
                | Verb::Console { .. }
                | Verb::Destroy
                | Verb::Display { .. }
                | Verb::Listen
                | Verb::Screenshot { .. }
                | Verb::Status
                | Verb::Unsave { .. }
        );
        let looks = matches!(verb, Verb::Ask(ask) if super::ask::returns(ask));
        (self.saving.is_some() && !harmless && !looks)
            .then(|| refuse("change", "it is being saved", "wait until it is saved, or abort that"))
    }

    /// Begins to save.
    pub(super) fn save_verb(&mut self, client: u64, fds: Vec<OwnedFd>, now: Instant) {
        let Some(fd) = fds.into_iter().next() else {
            let refusal = refuse("save", "it came without the file to write", "svirt-labeller brings one");
            return self.control.answer(client, &Answer::Refused(refusal), now);
        };
        if let Some(rule) = self.busy() {
            let refusal = refuse("save", rule, "try again in a moment");
            return self.control.answer(client, &Answer::Refused(refusal), now);
        }
        let ticket = self.control.wait_for_good(client, Verb::Save, now);
        self.owes_cont = None;
        self.saving = Some(Saving {
            ticket,
            stage: Stage::Asking,
            runs: false,
            stands: false,
            fd: Some(fd),
            refusal: None,
            unsaver: None,
            look: None,
        });
        self.command("query-status", &Value::Null, Purpose::Save);
    }

    /// What goes on that nothing else may come between, besides a save.
    pub(super) fn busy(&self) -> Option<&'static str> {
        if self.plugging.is_some() {
            Some("another device is on its way")
        } else if self.dumping.is_some() {
            Some("its memory is written down")
        } else if self.pictures.is_busy() {
            Some("a picture of a display is being taken")
        } else {
            None
        }
    }

    /// Ends a save or a dump that goes on.
    pub(super) fn abort_save(&mut self, client: u64, now: Instant) {
        let begun = self.saving.as_ref().is_some_and(|saving| saving.stage != Stage::Saved);
        let answer = if begun {
            self.give_up(refuse("save", "somebody aborted it", "save it again"));
            Answer::Done
        } else if self.abort_dump(now) {
            Answer::Done
        } else {
            Answer::Refused(refuse("abort", "nothing is being saved or dumped", "see `virsh domjobinfo`"))
        };
        self.control.answer(client, &answer, now);
    }

    /// Takes back whatever there is of a save, also of one that an earlier supervisor began.
    pub(super) fn unsave_verb(&mut self, client: u64, resume: bool, now: Instant) {
        let ticket = self.control.wait_for_good(client, Verb::Unsave { resume }, now);
        match &mut self.saving {
            Some(saving) if saving.stage != Stage::Saved => {
                saving.unsaver = Some(ticket);
                self.give_up(refuse("save", "the labeller took it back", "save it again"));
            }
            _ => {
                self.saving = Some(Saving {
                    ticket: 0,
                    stage: Stage::Aborting,
                    // After a save of its own this one knows better than who asks.
                    runs: self.owes_cont.unwrap_or(resume),
                    stands: false,
                    fd: None,
                    refusal: Some(refuse("save", "the labeller took it back", "save it again")),
                    unsaver: Some(ticket),
                    look: None,
                });
                self.command("migrate_cancel", &Value::Null, Purpose::Save);
            }
        }
    }

    /// Notes why it is given up; what QEMU is doing now is waited for.
    fn give_up(&mut self, refusal: Refusal) {
        let Some(saving) = &mut self.saving else { return };
        saving.refusal.get_or_insert(refusal);
        if saving.stage == Stage::Writing && saving.look.take().is_some() {
            saving.stage = Stage::Aborting;
            self.command("migrate_cancel", &Value::Null, Purpose::Save);
        }
    }

    /// QEMU answered a step.
    pub(super) fn save_reply(&mut self, outcome: Result<Value, Failure>) {
        let Some(saving) = &mut self.saving else { return };
        let stage = saving.stage;
        let value = match outcome {
            Ok(value) => value,
            // A migration that there is not cannot be cancelled, which is as good.
            Err(_) if stage == Stage::Aborting => Value::Null,
            Err(failure) if stage == Stage::Resuming => {
                let rule = format!("and the guest does not go on: {failure}");
                if let Some(refusal) = &mut saving.refusal {
                    refusal.rule = format!("{}, {rule}", refusal.rule);
                }
                saving.stands = true;
                return self.save_over();
            }
            Err(failure) => {
                let rule = failure.to_string();
                saving.refusal.get_or_insert_with(|| {
                    refuse("save", &rule, "take the device that it names out of the domain, or shut it down")
                });
                return self.go_back();
            }
        };
        let given_up = saving.refusal.is_some();
        match stage {
            Stage::Asking => {
                saving.runs = run_state(&value) == "running";
                let next = if saving.runs { Stage::Stopping } else { Stage::Hurrying };
                if given_up {
                    saving.runs = false;
                    return self.go_back();
                }
                self.save_step(next);
            }
            Stage::Stopping | Stage::Hurrying | Stage::Listening | Stage::Handing if given_up => {
                self.go_back()
            }
            Stage::Stopping => self.save_step(Stage::Hurrying),
            Stage::Hurrying => self.save_step(Stage::Listening),
            Stage::Listening => self.save_step(Stage::Handing),
            Stage::Handing => self.save_step(Stage::Beginning),
            Stage::Beginning => {
                saving.stage = Stage::Writing;
                saving.look = Some(Instant::now() + LOOK);
                if let Some(refusal) = saving.refusal.take() {
                    self.give_up(refusal);
                }
            }
            Stage::Aborting => {
                saving.stage = Stage::Cancelling;
                saving.look = Some(Instant::now());
            }
            Stage::Writing | Stage::Cancelling => self.looked(&value),
            Stage::Resuming => self.save_over(),
            Stage::Saved => {}
        }
    }

    /// Sends what begins a stage.
    fn save_step(&mut self, stage: Stage) {
        let Some(saving) = &mut self.saving else { return };
        saving.stage = stage;
        let fd = saving.fd.take_if(|_| stage == Stage::Handing);
        let (execute, arguments) = match stage {
            Stage::Stopping => ("stop", Value::Null),
            Stage::Hurrying => ("migrate-set-parameters", json!({ "max-bandwidth": BANDWIDTH })),
            Stage::Listening => {
                let events = json!([{ "capability": "events", "state": true }]);
                ("migrate-set-capabilities", json!({ "capabilities": events }))
            }
            Stage::Handing => ("getfd", json!({ "fdname": NAME })),
            Stage::Beginning => ("migrate", json!({ "uri": format!("fd:{NAME}") })),
            _ => ("query-migrate", Value::Null),
        };
        let sent = match &mut self.monitor {
            Some(monitor) => monitor.command(execute, &arguments, Purpose::Save, fd),
            None => Err(MonitorError::Closed),
        };
        if let Err(error) = sent {
            self.monitor_lost(&error);
        }
    }

    /// QEMU said how far it is.
    fn looked(&mut self, value: &Value) {
        let Some(saving) = &mut self.saving else { return };
        let word = |key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default();
        match (saving.stage, word("status")) {
            (_, "setup" | "active" | "device" | "pre-switchover" | "wait-unplug" | "cancelling") => {
                saving.look = Some(Instant::now() + LOOK);
                if saving.stage == Stage::Writing
                    && let Some(refusal) = saving.refusal.take()
                {
                    self.give_up(refusal);
                }
            }
            (Stage::Writing, "completed") if saving.refusal.is_none() => {
                if self.control.waiting(saving.ticket).is_none() {
                    // Nobody would keep it.
                    saving.refusal = Some(refuse("save", "whoever asked for it is gone", "save it again"));
                    return self.go_back();
                }
                saving.stage = Stage::Saved;
                let ticket = saving.ticket;
                self.answer_save(ticket, &Answer::Saved(Progress::of(value)));
            }
            _ => {
                let said = clean(word("error-desc"));
                let rule = if said.is_empty() { "QEMU could not write it".into() } else { said };
                saving.refusal.get_or_insert_with(|| {
                    refuse("save", &rule, "see that the file system has room, and what QEMU said")
                });
                self.go_back();
            }
        }
    }

    /// The guest goes on as it was.
    fn go_back(&mut self) {
        let Some(saving) = &mut self.saving else { return };
        saving.look = None;
        let proof = self.gate.book.sealed();
        match proof.filter(|_| saving.runs) {
            Some(proof) => {
                saving.stage = Stage::Resuming;
                self.resume(proof, Purpose::Save);
            }
            None => {
                saving.stands = saving.runs;
                self.save_over();
            }
        }
    }

    fn save_over(&mut self) {
        let Some(saving) = self.saving.take() else { return };
        let refusal = saving.refusal.unwrap_or_else(|| refuse("save", "it was given up", "save it again"));
        self.owes_cont = Some(saving.stands);
        if let Some(unsaver) = saving.unsaver {
            let answer = if saving.stands { Answer::Refused(refusal.clone()) } else { Answer::Done };
            self.answer_save(unsaver, &answer);
        }
        self.answer_save(saving.ticket, &Answer::Refused(refusal));
    }

    fn answer_save(&mut self, ticket: u64, answer: &Answer) {
        if let Some((client, _)) = self.control.waiting(ticket) {
            self.control.answer(client, answer, Instant::now());
        }
    }

    /// Asks QEMU again, and gives up what nobody waits for.
    pub(super) fn save_tick(&mut self, now: Instant) {
        let Some(saving) = &mut self.saving else { return };
        if self.monitor.is_none() && saving.stage != Stage::Saved {
            saving.refusal.get_or_insert_with(|| refuse("save", "the monitor is lost", "end the domain"));
            return self.save_over();
        }
        if saving.look.is_none_or(|at| at > now) {
            return;
        }
        let alone = saving.stage == Stage::Writing && self.control.waiting(saving.ticket).is_none();
        if alone {
            return self.give_up(refuse("save", "whoever asked for it is gone", "save it again"));
        }
        saving.look = None;
        self.command("query-migrate", &Value::Null, Purpose::Save);
    }

    /// Has QEMU load the guest; nothing of it runs before that is done.
    pub(super) fn load(&mut self, fd: i32) {
        self.command("migrate-incoming", &json!({ "uri": format!("fd:{fd}") }), Purpose::StartLoad);
    }

    /// Asks again whether the guest is loaded.
    pub(super) fn load_tick(&mut self, now: Instant) {
        if self.launch.step() == Step::Loading && self.load_look.take_if(|at| *at <= now).is_some() {
            self.command("query-status", &Value::Null, Purpose::StartLoaded);
        }
    }

    /// QEMU has said that it loads, or in which state it is.
    pub(super) fn look_at_load(&mut self) {
        self.load_look = self.monitor.as_ref().is_some_and(Monitor::is_ready).then(|| Instant::now() + LOOK);
    }
}

fn refuse(operation: &str, rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::DeviceModel, operation, "the domain", rule, remedy)
}

/// A device model's own words.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(400).collect()
}
