//! A guest's memory that is written into a descriptor while it stands, which is QEMU's own doing, as is that it goes on.
//!
//! ```text
//! getfd ─▶ dump-guest-memory ─▶ query-dump… ─▶ done
//!   └──────────┴────────────────────┴─ refused or failed ─▶ refused
//! ```
//!
//! QEMU gets one descriptor and no path. It does nothing else with the guest meanwhile: it refuses `cont` and `migrate`.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::monitor::{MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::dump::DumpFormat;
use crate::privsep::supervisor::{Answer, Verb};
use crate::qmp::Failure;

/// How often QEMU is asked how far it is.
const LOOK: Duration = Duration::from_millis(100);
/// The name of the descriptor in QEMU.
const NAME: &str = "svirt-dump";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Handing,
    Beginning,
    Writing,
}

/// The dump that goes on.
#[derive(Debug)]
pub(super) struct Dumping {
    /// The ticket of whoever asked.
    ticket: u64,
    stage: Stage,
    format: DumpFormat,
    /// When QEMU is asked again; nothing while an answer is due.
    look: Option<Instant>,
}

impl Dumping {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }
}

impl Server {
    /// Begins to dump.
    pub(super) fn dump_verb(&mut self, client: u64, format: DumpFormat, fds: Vec<OwnedFd>, now: Instant) {
        let busy = self.busy();
        let Some(fd) = fds.into_iter().next().filter(|_| busy.is_none()) else {
            let rule = busy.unwrap_or("it came without the file to write");
            let refusal = refuse(rule, "try again in a moment");
            return self.control.answer(client, &Answer::Refused(refusal), now);
        };
        let ticket = self.control.wait_for_good(client, Verb::Dump { format }, now);
        self.dumping = Some(Dumping { ticket, stage: Stage::Handing, format, look: None });
        let arguments = json!({ "fdname": NAME });
        let sent = match &mut self.monitor {
            Some(monitor) => monitor.command("getfd", &arguments, Purpose::Dump, Some(fd)),
            None => Err(MonitorError::Closed),
        };
        if let Err(error) = sent {
            self.monitor_lost(&error);
        }
    }

    /// QEMU answered a step.
    pub(super) fn dump_reply(&mut self, outcome: Result<Value, Failure>) {
        let Some(dumping) = &mut self.dumping else { return };
        let value = match outcome {
            Ok(value) => value,
            Err(failure) => {
                let remedy = "see which formats this QEMU writes, or take the device that it names out";
                if dumping.stage == Stage::Beginning {
                    // It may not have come so far as to take it.
                    self.command("closefd", &json!({ "fdname": NAME }), Purpose::Lifecycle);
                }
                return self.dump_over(Some(refuse(&failure.to_string(), remedy)));
            }
        };
        let status = value.get("status").and_then(Value::as_str).unwrap_or_default();
        match (dumping.stage, status) {
            (Stage::Handing, _) => {
                dumping.stage = Stage::Beginning;
                let arguments = json!({
                    "paging": false, "protocol": format!("fd:{NAME}"), "detach": true, "format": dumping.format,
                });
                self.command("dump-guest-memory", &arguments, Purpose::Dump);
            }
            (Stage::Beginning, _) | (Stage::Writing, "active") => {
                dumping.stage = Stage::Writing;
                dumping.look = Some(Instant::now() + LOOK);
            }
            (Stage::Writing, "completed") => self.dump_over(None),
            (Stage::Writing, _) => {
                self.dump_over(Some(refuse("QEMU could not write it", "see that the file system has room")));
            }
        }
    }

    /// Tells whoever asked for a dump that it is given up; whether there was one. Who asked ends the pipe, and QEMU goes on
    /// when it finds that: until then nothing else is done.
    pub(super) fn abort_dump(&mut self, now: Instant) -> bool {
        let waiting = self.dumping.as_ref().and_then(|dumping| self.control.waiting(dumping.ticket));
        let Some((client, _)) = waiting else { return false };
        let refusal = refuse("somebody aborted it", "dump it again");
        self.control.answer(client, &Answer::Refused(refusal), now);
        true
    }

    fn dump_over(&mut self, refusal: Option<Refusal>) {
        let Some(dumping) = self.dumping.take() else { return };
        if let Some((client, _)) = self.control.waiting(dumping.ticket) {
            let answer = refusal.map_or(Answer::Done, Answer::Refused);
            self.control.answer(client, &answer, Instant::now());
        }
    }

    /// Asks QEMU again.
    pub(super) fn dump_tick(&mut self, now: Instant) {
        let Some(dumping) = &mut self.dumping else { return };
        if self.monitor.is_none() {
            return self.dump_over(Some(refuse("the monitor is lost", "end the domain")));
        }
        if dumping.look.take_if(|at| *at <= now).is_some() {
            self.command("query-dump", &Value::Null, Purpose::Dump);
        }
    }
}

fn refuse(rule: &str, remedy: &str) -> Refusal {
    Refusal::new(Layer::DeviceModel, "dump the memory of", "the domain", rule, remedy)
}
