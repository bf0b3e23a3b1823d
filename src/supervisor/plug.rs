//! Devices plugged in and out: one at a time, each a row of commands, taken back in reverse where one fails.
//!
//! ```text
//! plug:    add-fd… ─▶ blockdev-add… ─▶ device_add, or tray and medium ─▶ done
//!             └── one fails: everything before it is taken back, then refused
//! unplug:  device_del ─▶ DEVICE_DELETED ─▶ blockdev-del… ─▶ remove-fd… ─▶ done
//! ```
//!
//! What QEMU is told was held to closed lists by the labeller, and is again here. While it runs, the gate lets the calls
//! of [`WINDOW`] through, and nothing else.

use std::collections::VecDeque;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::monitor::{MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::ask::Happening;
use crate::privsep::plug::{PlugSteps, Top, UnplugSteps, check_steps, check_unplug};
use crate::privsep::supervisor::{Answer, Verb};
use crate::qmp::Failure;

/// The longest description that is read, in bytes.
const TEXT_MAX: u64 = 2 << 20;
/// How long QEMU may take over all steps.
const LIMIT: Duration = Duration::from_secs(25);
/// How long a guest may take to let a device go before whoever asked hears that it was asked; libvirt waits as long.
const RELEASE: Duration = Duration::from_secs(5);
/// The launch-only calls that QEMU makes when a disk is plugged in: it looks where its module directory is.
const WINDOW: &[i32] = &[libc::SYS_access as i32, libc::SYS_faccessat as i32, libc::SYS_readlink as i32];

/// One command.
#[derive(Debug)]
struct Step {
    execute: &'static str,
    arguments: Value,
    fd: Option<OwnedFd>,
    /// What takes it back.
    undo: Option<(&'static str, Value)>,
    /// What follows where QEMU refuses it.
    refused: Refused,
}

/// What follows from a refused step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    /// Everything is taken back.
    Fails,
    /// It is as good as done.
    Passes,
    /// It is as good as done where there is no such device.
    PassesWithout,
}

/// The device that is being plugged.
#[derive(Debug)]
pub(super) struct Plugging {
    client: u64,
    steps: VecDeque<Step>,
    running: Option<Step>,
    undo: Vec<(&'static str, Value)>,
    failure: Option<Refusal>,
    /// Whose DEVICE_DELETED is waited for, and until when.
    awaited: Option<(String, Instant)>,
    until: Instant,
}

impl Plugging {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.awaited.as_ref().map_or(self.until, |(_, until)| *until))
    }
}

fn step(execute: &'static str, arguments: Value) -> Step {
    Step { execute, arguments, fd: None, undo: None, refused: Refused::Fails }
}

impl Server {
    /// Begins what root asks.
    pub(super) fn plug_verb(&mut self, client: u64, verb: &Verb, fds: Vec<OwnedFd>, now: Instant) {
        let refuse = |rule: String| {
            let operation = if *verb == Verb::Plug { "plug in" } else { "take out" };
            Answer::Refused(Refusal::new(Layer::Policy, operation, "a device", rule, "try again"))
        };
        if self.plugging.is_some() {
            return self.control.answer(client, &refuse("another device is on its way".into()), now);
        }
        let steps = if *verb == Verb::Plug { plug_steps(fds) } else { unplug_steps(fds) };
        let (steps, awaited) = match steps {
            Ok(steps) => steps,
            Err(rule) => return self.control.answer(client, &refuse(rule), now),
        };
        // Not a ticket of a command: the answer comes when the whole row is done.
        self.control.wait(client, verb.clone(), now);
        let awaited = awaited.map(|alias| (alias, now + RELEASE));
        self.plugging = Some(Plugging {
            client,
            steps,
            running: None,
            undo: Vec::new(),
            failure: None,
            awaited,
            until: now + LIMIT,
        });
        self.gate.book.open_window(WINDOW, now + LIMIT);
        self.plug_next();
    }

    /// Sends the next command, or says how it went.
    fn plug_next(&mut self) {
        let Some(plugging) = &mut self.plugging else { return };
        let Some(mut step) = plugging.steps.pop_front() else { return self.plug_over() };
        let fd = step.fd.take();
        let (execute, arguments) = (step.execute, step.arguments.clone());
        plugging.running = Some(step);
        let sent: Result<(), MonitorError> = match &mut self.monitor {
            Some(monitor) => monitor.command(execute, &arguments, Purpose::Plug, fd),
            None => Err(MonitorError::Closed),
        };
        if let Err(error) = sent {
            self.monitor_lost(&error);
            self.plug_over();
        }
    }

    /// QEMU answered a step.
    pub(super) fn plug_reply(&mut self, outcome: Result<Value, Failure>) {
        let Some(plugging) = &mut self.plugging else { return };
        let Some(step) = plugging.running.take() else { return };
        match outcome {
            Ok(_) => {
                plugging.undo.extend(step.undo);
                if step.execute == "device_del" && plugging.awaited.is_some() {
                    // The guest is asked; the event says when it has let go.
                    return;
                }
            }
            Err(failure) => {
                let gone = failure.class == "DeviceNotFound";
                let passes = match step.refused {
                    Refused::Passes => true,
                    Refused::PassesWithout => gone,
                    Refused::Fails => false,
                };
                if passes {
                    plugging.awaited = None;
                } else if plugging.failure.is_none() {
                    plugging.failure = Some(Refusal::new(
                        Layer::DeviceModel,
                        step.execute.replace(['-', '_'], " "),
                        "a device",
                        failure.to_string(),
                        "see what the definition and the machine allow",
                    ));
                    let undo = std::mem::take(&mut plugging.undo).into_iter().rev();
                    let back = |(execute, arguments)| Step {
                        refused: Refused::Passes,
                        ..self::step(execute, arguments)
                    };
                    plugging.steps = undo.map(back).collect();
                }
            }
        }
        self.plug_next();
    }

    /// Goes on once the guest has let the device go.
    pub(super) fn plug_event(&mut self, happening: &Happening) {
        let Some(plugging) = &mut self.plugging else { return };
        let Some((alias, _)) = &plugging.awaited else { return };
        match happening {
            Happening::DeviceDeleted { alias: gone } if gone == alias => {
                plugging.awaited = None;
                // Where the event comes before its command's answer, that goes on.
                if plugging.running.is_none() {
                    self.plug_next();
                }
            }
            Happening::DeviceKept { alias: kept } if kept == alias => {
                plugging.awaited = None;
                plugging.steps.clear();
                plugging.failure = Some(Refusal::new(
                    Layer::DeviceModel,
                    "take out",
                    format!("device {kept}"),
                    "the guest keeps it",
                    "let the guest stop using it first",
                ));
                self.plug_over();
            }
            _ => {}
        }
    }

    /// Gives up what takes too long.
    pub(super) fn plug_tick(&mut self, now: Instant) {
        let Some(plugging) = &mut self.plugging else { return };
        if plugging.awaited.as_ref().is_some_and(|(_, until)| *until <= now) && plugging.running.is_none() {
            let client = plugging.client;
            self.plugging = None;
            self.gate.book.close_window();
            self.control.answer(client, &Answer::Pending, now);
        } else if plugging.until <= now {
            plugging.failure.get_or_insert_with(|| {
                Refusal::new(
                    Layer::DeviceModel,
                    "plug",
                    "a device",
                    "QEMU does not answer",
                    "try again later",
                )
            });
            self.plug_over();
        }
    }

    fn plug_over(&mut self) {
        let Some(plugging) = self.plugging.take() else { return };
        self.gate.book.close_window();
        let unknown = plugging.running.is_some() || self.monitor.is_none();
        let answer = match plugging.failure {
            // What QEMU did not answer it may have done.
            _ if unknown => Answer::Pending,
            Some(refusal) => Answer::Refused(refusal),
            None => Answer::Done,
        };
        self.control.answer(plugging.client, &answer, Instant::now());
    }
}

/// The row of commands, and whose going is waited for.
type Row = (VecDeque<Step>, Option<String>);

fn read<T: serde::de::DeserializeOwned>(fd: OwnedFd) -> Result<T, String> {
    let file = std::fs::File::from(fd);
    let mut text = Vec::new();
    file.take(TEXT_MAX).read_to_end(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn plug_steps(fds: Vec<OwnedFd>) -> Result<Row, String> {
    let mut fds = fds.into_iter();
    let steps: PlugSteps = read(fds.next().ok_or("it has no description")?)?;
    check_steps(&steps).map_err(|error| error.to_string())?;
    let fds: Vec<OwnedFd> = fds.collect();
    if fds.len() != steps.sets.len() {
        return Err("its descriptors are not as many as its sets".into());
    }
    let mut row = VecDeque::new();
    for (grant, fd) in steps.sets.iter().zip(fds) {
        let arguments = json!({ "fdset-id": grant.set, "opaque": grant.slot.as_str() });
        let undo = Some(("remove-fd", json!({ "fdset-id": grant.set })));
        row.push_back(Step { fd: Some(fd), undo, ..step("add-fd", arguments) });
    }
    for node in &steps.nodes {
        let arguments: Value = serde_json::from_str(node).map_err(|error| error.to_string())?;
        let undo = arguments.get("node-name").map(|name| ("blockdev-del", json!({ "node-name": name })));
        row.push_back(Step { undo, ..step("blockdev-add", arguments) });
    }
    match &steps.top {
        Top::Device { object } => {
            row.push_back(step(
                "device_add",
                serde_json::from_str(object).map_err(|error| error.to_string())?,
            ));
        }
        Top::Medium { node, force } => {
            tray(&mut row, &steps.alias, *force);
            if let Some(node) = node {
                let arguments = json!({ "id": steps.alias, "node-name": node });
                row.push_back(step("blockdev-insert-medium", arguments));
            }
            row.push_back(step("blockdev-close-tray", json!({ "id": steps.alias })));
        }
    }
    Ok((row, None))
}

/// An empty drive has no medium to remove, and an open tray stays open.
fn tray(row: &mut VecDeque<Step>, alias: &str, force: bool) {
    row.push_back(step("blockdev-open-tray", json!({ "id": alias, "force": force })));
    let remove = step("blockdev-remove-medium", json!({ "id": alias }));
    row.push_back(Step { refused: Refused::Passes, ..remove });
}

fn unplug_steps(fds: Vec<OwnedFd>) -> Result<Row, String> {
    let steps: UnplugSteps = read(fds.into_iter().next().ok_or("it has no description")?)?;
    check_unplug(&steps).map_err(|error| error.to_string())?;
    let mut row = VecDeque::new();
    if steps.medium {
        tray(&mut row, &steps.alias, steps.force);
        row.push_back(step("blockdev-close-tray", json!({ "id": steps.alias })));
    } else {
        let remove = step("device_del", json!({ "id": steps.alias }));
        row.push_back(Step { refused: Refused::PassesWithout, ..remove });
    }
    // What was taken out in part before is gone already.
    let gone = |execute, arguments| Step { refused: Refused::Passes, ..step(execute, arguments) };
    row.extend(steps.nodes.iter().map(|node| gone("blockdev-del", json!({ "node-name": node }))));
    row.extend(steps.sets.iter().map(|set| gone("remove-fd", json!({ "fdset-id": set }))));
    Ok((row, (!steps.medium).then(|| steps.alias.clone())))
}
