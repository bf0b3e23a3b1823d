//! What clients of the control socket ask, and how it is answered.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::control::Request;
use super::hear::run_state;
use super::launch::Step;
use super::monitor::{Monitor, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::supervisor::{Answer, MONITOR_LOST, Status, Verb};
use crate::qmp::Failure;

/// How long QEMU may take to go after `quit`.
const QUIT_LIMIT: Duration = Duration::from_secs(1);

impl Server {
    /// Does one request, or sends it on to QEMU.
    pub(super) fn request(&mut self, request: Request) {
        let now = Instant::now();
        let Request { client, verb, fds, root } = request;
        if let Verb::Console { alias, force } = verb {
            return self.attach(client, alias.as_deref(), force);
        }
        if verb == Verb::Listen {
            return self.control.listen(client, now);
        }
        if let Some(refusal) = self.forbidden_by_save(&verb) {
            return self.control.answer(client, &Answer::Refused(refusal), now);
        }
        if matches!(verb, Verb::Dump { .. } | Verb::Save | Verb::Unsave { .. }) && !root {
            return self.control.answer(client, &Answer::Refused(not_root(&verb)), now);
        }
        let reachable = self.monitor.as_ref().is_some_and(Monitor::is_ready);
        let started = self.launch.step() == Step::Running;
        match (verb, reachable && started) {
            (Verb::Destroy, true) => {
                let ticket = self.control.wait(client, Verb::Destroy, now);
                self.kill_at = Some(now + QUIT_LIMIT);
                self.command("quit", &Value::Null, Purpose::Client(ticket));
            }
            (Verb::Destroy, false) if self.has_labeller() => {
                self.control.wait(client, Verb::Destroy, now);
                self.kill_at = Some(now);
            }
            (Verb::Status, false) => {
                let state = if started { "monitor-lost" } else { "starting" };
                let status = self.status(state.into());
                self.control.answer(client, &Answer::Status(status), now);
            }
            (verb @ (Verb::Plug | Verb::Unplug), true) => self.plug_verb(client, &verb, fds, now),
            (Verb::Screenshot { device, head }, true) => self.picture_verb(client, device, head, now),
            (Verb::Display { protocol, skip_auth }, true) => {
                self.display_verb(client, protocol, skip_auth, now)
            }
            (Verb::Dump { format }, true) => self.dump_verb(client, format, fds, now),
            (Verb::Save, true) => self.save_verb(client, fds, now),
            (Verb::Unsave { resume }, true) => self.unsave_verb(client, resume, now),
            (Verb::AbortSave, true) => self.abort_save(client, now),
            (verb, true) => self.forward(client, verb, now),
            (verb, false) => {
                let refusal = unreachable(&verb, started);
                self.control.answer(client, &Answer::Refused(refusal), now);
            }
        }
    }

    fn forward(&mut self, client: u64, verb: Verb, now: Instant) {
        let ticket = self.control.wait(client, verb.clone(), now);
        let purpose = Purpose::Client(ticket);
        match verb {
            Verb::Ask(ask) => self.ask(client, &ask, ticket),
            Verb::Pause => self.command("stop", &Value::Null, purpose),
            Verb::Shutdown => {
                self.stay_at_poweroff(false);
                self.command("system_powerdown", &Value::Null, purpose);
            }
            Verb::Resume => match self.gate.book.sealed() {
                Some(proof) => self.resume(proof, purpose),
                None => self.control.answer(client, &Answer::Refused(unreachable(&verb, false)), now),
            },
            Verb::Status
            | Verb::AbortSave
            | Verb::Console { .. }
            | Verb::Destroy
            | Verb::Display { .. }
            | Verb::Dump { .. }
            | Verb::Listen
            | Verb::Plug
            | Verb::Save
            | Verb::Screenshot { .. }
            | Verb::Unplug
            | Verb::Unsave { .. } => {
                self.command("query-status", &Value::Null, purpose);
            }
        }
    }

    /// QEMU answered what a client asked.
    pub(super) fn answered(&mut self, ticket: u64, outcome: Result<Value, Failure>) {
        // A client that gave up waits no longer.
        let Some((client, verb)) = self.control.waiting(ticket) else { return };
        let answer = match (verb, outcome) {
            // Done is said when QEMU is gone.
            (Verb::Destroy, Ok(_)) => return,
            (Verb::Status, Ok(value)) => Answer::Status(self.status(run_state(&value))),
            (Verb::Ask(ask), Ok(value)) if super::ask::returns(&ask) => super::ask::returned(value),
            (_, Ok(_)) => Answer::Done,
            (verb, Err(failure)) => Answer::Refused(Refusal::new(
                Layer::DeviceModel,
                word(&verb),
                "the domain",
                failure.to_string(),
                "see the state of the domain with `svirt list`",
            )),
        };
        self.control.answer(client, &answer, Instant::now());
    }

    fn status(&self, state: String) -> Status {
        let book = &self.gate.book;
        Status {
            state,
            sealed: book.sealed().is_some(),
            notifications: book.passed(),
            refused: book.refused(),
            consoles: self.consoles.iter().map(|c| (c.alias.clone(), c.pty_path.clone())).collect(),
        }
    }

    fn attach(&mut self, client: u64, alias: Option<&str>, force: bool) {
        let now = Instant::now();
        let wanted = |alias: &str| self.consoles.iter().position(|console| console.alias == alias);
        // A channel, the guest agent's say, is nobody's console unless it is asked for by name.
        let first = || self.consoles.iter().position(|console| !is_channel(&console.alias));
        let index = alias.map_or_else(first, wanted);
        let Some(console) = index.and_then(|index| self.consoles.get_mut(index)) else {
            let all = self.consoles.iter().map(|console| console.alias.as_str());
            let refusal = no_console(alias, all.filter(|other| alias.is_some() || !is_channel(other)));
            return self.control.answer(client, &Answer::Refused(refusal), now);
        };
        let answer = Answer::Attached { alias: console.alias.clone() };
        let (Some((socket, typed)), Ok(mut greeting)) =
            (self.control.take(client), serde_json::to_vec(&answer))
        else {
            return;
        };
        greeting.push(b'\n');
        if let Err(socket) = console.attach(socket, &greeting, &typed, force) {
            let refusal = Refusal::new(
                Layer::Lease,
                "attach to",
                format!("console {}", console.alias),
                "another client is attached",
                "end that one, or take it away with --force",
            );
            self.control.dismiss(socket, &Answer::Refused(refusal), now);
        }
    }
}

fn is_channel(alias: &str) -> bool {
    alias.starts_with("channel")
}

fn word(verb: &Verb) -> &'static str {
    match verb {
        Verb::Ask(ask) => ask.word(),
        Verb::Listen => "listen to",
        Verb::AbortSave => "abort the save of",
        Verb::Plug => "plug a device into",
        Verb::Save | Verb::Unsave { .. } => "save",
        Verb::Unplug => "take a device out of",
        Verb::Console { .. } => "attach to",
        Verb::Destroy => "destroy",
        Verb::Display { .. } => "open a display of",
        Verb::Screenshot { .. } => "take a picture of",
        Verb::Dump { .. } => "dump the memory of",
        Verb::Pause => "pause",
        Verb::Resume => "resume",
        Verb::Shutdown => "shut down",
        Verb::Status => "ask",
    }
}

fn not_root(verb: &Verb) -> Refusal {
    Refusal::new(Layer::Policy, word(verb), "the domain", "only the labeller asks for it", "ask svirtd")
}

fn unreachable(verb: &Verb, started: bool) -> Refusal {
    let (rule, remedy) = if started {
        (MONITOR_LOST, "`svirt stop --force` ends the domain")
    } else {
        ("it is still starting", "wait until it runs")
    };
    Refusal::new(Layer::DeviceModel, word(verb), "the domain", rule, remedy)
}

fn no_console<'a>(alias: Option<&str>, all: impl Iterator<Item = &'a str>) -> Refusal {
    let all: Vec<&str> = all.collect();
    let shown: String = alias.unwrap_or("").chars().filter(|c| !c.is_control()).take(64).collect();
    let (rule, remedy) = if all.is_empty() {
        ("the domain has no console".to_owned(), "add a <serial> or <console> to its definition")
    } else {
        (format!("its consoles are {}", all.join(", ")), "name one of them")
    };
    Refusal::new(Layer::Definition, "attach to", format!("console {shown}"), rule, remedy)
}
