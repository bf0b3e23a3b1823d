//! Devices plugged in and out: one at a time, each a row of commands, taken back in reverse where one fails.
//!
//! ```text
//! plug:    add-fd… ─▶ blockdev-add… and device_add, or tray and medium ─▶ done
//!          getfd ─▶ netdev_add and device_add ─▶ done
//!             └── one fails: everything that was done is taken back, then refused
//! unplug:  device_del ─▶ DEVICE_DELETED ─▶ blockdev-del… ─▶ remove-fd…, or netdev_del ─▶ done
//!                                                               └── kept open, for the guest stands ─▶ not known; closed at RESUME
//! ```
//!
//! What QEMU is told was held to closed lists by the labeller, and is again here. While a command runs that may load a
//! module, the gate lets the calls of [`WINDOW`] through, and nothing else.

mod row;

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub(super) use row::Held;
use row::{LOOK, Outcome, Refused, Row, Sending, Step, step};

use super::monitor::{Monitor, MonitorError, Purpose};
use super::serve::Server;
use crate::base::{Layer, Refusal};
use crate::privsep::ask::Happening;
use crate::privsep::plug::{PlugSteps, Top, UnplugSteps, backend, check_steps, check_unplug};
use crate::privsep::supervisor::{Answer, Verb};
use crate::qmp::Failure;

/// The longest description that is read, in bytes.
const TEXT_MAX: u64 = 2 << 20;
/// Room for what a disk of a few layers has, so that it is read at once.
const TEXT_USUAL: usize = 8 << 10;
/// How long QEMU may take over all steps.
const LIMIT: Duration = Duration::from_secs(25);
/// How long a guest may take to let a device go before whoever asked hears that it was asked; libvirt waits as long.
const RELEASE: Duration = Duration::from_secs(5);
/// The launch-only calls that QEMU makes when a disk is plugged in: it looks where its module directory is.
const WINDOW: &[i32] = &[libc::SYS_access as i32, libc::SYS_faccessat as i32, libc::SYS_readlink as i32];

/// The most nodes that are told as one: how long QEMU takes to read those grows with the square of their depth.
const NESTED_MAX: usize = 16;

/// The device that is being plugged.
#[derive(Debug)]
pub(super) struct Plugging {
    client: u64,
    /// Which row it is: an answer to a command of an earlier one is not for this.
    ticket: u64,
    row: Row,
    until: Instant,
}

impl Plugging {
    /// When something is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        Some(self.row.patience().map_or(self.until, |until| until.min(self.until)))
    }
}

impl Server {
    /// Begins what root asks.
    pub(super) fn plug_verb(&mut self, client: u64, verb: &Verb, fds: Vec<OwnedFd>, now: Instant) {
        let refuse = |rule: String| {
            let operation = if *verb == Verb::Plug { "plug in" } else { "take out" };
            Answer::Refused(Refusal::new(Layer::Policy, operation, "a device", rule, "try again"))
        };
        if let Some(rule) = self.busy() {
            return self.control.answer(client, &refuse(rule.into()), now);
        }
        let row = if *verb == Verb::Plug { plug_steps(fds) } else { unplug_steps(fds, now, &self.kept_open) };
        let row = match row {
            Ok(row) => row,
            Err(rule) => return self.control.answer(client, &refuse(rule), now),
        };
        // Not a ticket of a command: the answer comes when the whole row is done.
        let ticket = self.control.wait(client, verb.clone(), now);
        self.plugging = Some(Plugging { client, ticket, row, until: now + LIMIT });
        self.plug_next();
    }

    /// Sends what can be sent, or says how it went.
    fn plug_next(&mut self) {
        let Some(plugging) = &mut self.plugging else { return };
        if plugging.row.is_over() {
            return self.plug_over();
        }
        let purpose = Purpose::Plug(plugging.ticket);
        let mut sent: Result<(), MonitorError> = Ok(());
        while let Some(Sending { execute, arguments, fd, window }) = plugging.row.next() {
            if window {
                self.gate.book.open_window(WINDOW, plugging.until);
            }
            sent = sent.and_then(|()| match &mut self.monitor {
                Some(monitor) => monitor.queue(execute, &arguments, purpose, fd),
                None => Err(MonitorError::Closed),
            });
        }
        let sent = sent.and_then(|()| self.monitor.as_mut().map_or(Ok(()), Monitor::write));
        if let Err(error) = sent {
            self.monitor_lost(&error);
            self.plug_over();
        }
    }

    /// QEMU answered a step of the row with this ticket.
    pub(super) fn plug_reply(&mut self, ticket: u64, outcome: Result<Value, Failure>) {
        let Some(plugging) = self.plugging.as_mut().filter(|it| it.ticket == ticket) else { return };
        plugging.row.answered(outcome);
        // All calls that QEMU made for a step are answered before it answers.
        if !plugging.row.window() {
            self.gate.book.close_window();
        }
        self.plug_next();
    }

    /// Goes on once the guest has let the device go.
    pub(super) fn plug_event(&mut self, happening: &Happening) {
        let Some(plugging) = &mut self.plugging else { return };
        match happening {
            Happening::DeviceDeleted { alias } if plugging.row.deleted(alias) => self.plug_next(),
            Happening::DeviceKept { alias } if plugging.row.kept(alias) => self.plug_over(),
            _ => {}
        }
    }

    /// Gives up what takes too long.
    pub(super) fn plug_tick(&mut self, now: Instant) {
        if self.plugging.as_ref().and_then(Plugging::deadline).is_some_and(|until| until <= now) {
            self.plug_over();
        }
    }

    /// Remembers what QEMU keeps open although it was told to close it.
    fn note_open(&mut self, row: &Row) {
        let (held, keeps) = row.held();
        self.kept_open.retain(|other| (&other.alias, other.medium) != (&held.alias, held.medium));
        self.kept_open.extend(keeps.then(|| held.clone()));
    }

    /// The guest goes on: what QEMU keeps open is closed now, and whoever asks for it to be taken out again hears that.
    pub(super) fn close_kept(&mut self) {
        let sets: Vec<u32> = self.kept_open.iter().flat_map(|held| held.sets.clone()).collect();
        for set in sets {
            self.command("remove-fd", &json!({ "fdset-id": set }), Purpose::Lifecycle);
        }
    }

    fn plug_over(&mut self) {
        let Some(plugging) = self.plugging.take() else { return };
        self.gate.book.close_window();
        self.note_open(&plugging.row);
        let answer = match plugging.row.outcome() {
            _ if self.monitor.is_none() => Answer::Pending,
            Outcome::Unknown => Answer::Pending,
            Outcome::Refused(refusal) => Answer::Refused(refusal),
            Outcome::Done => Answer::Done,
        };
        self.control.answer(plugging.client, &answer, Instant::now());
    }
}

fn read<T: serde::de::DeserializeOwned>(fd: OwnedFd) -> Result<T, String> {
    let file = std::fs::File::from(fd);
    let mut text = Vec::with_capacity(TEXT_USUAL);
    file.take(TEXT_MAX).read_to_end(&mut text).map_err(|error| error.to_string())?;
    serde_json::from_slice(&text).map_err(|error| error.to_string())
}

fn plug_steps(fds: Vec<OwnedFd>) -> Result<Row, String> {
    let mut fds = fds.into_iter();
    let steps: PlugSteps = read(fds.next().ok_or("it has no description")?)?;
    check_steps(&steps).map_err(|error| error.to_string())?;
    let fds: Vec<OwnedFd> = fds.collect();
    let own = usize::from(matches!(steps.top, Top::Interface { .. }));
    if fds.len() != steps.sets.len() + own {
        return Err("its descriptors are not as many as its sets".into());
    }
    let mut row = VecDeque::new();
    let mut fds = fds.into_iter();
    for (grant, fd) in steps.sets.iter().zip(fds.by_ref()) {
        let arguments = json!({ "fdset-id": grant.set });
        let undo = Some(("remove-fd", json!({ "fdset-id": grant.set })));
        row.push_back(Step { fd: Some(fd), undo, ..step("add-fd", arguments) });
    }
    for arguments in nodes(&steps.nodes)? {
        let undo = arguments.get("node-name").map(|name| ("blockdev-del", json!({ "node-name": name })));
        row.push_back(Step { undo, window: true, ..step("blockdev-add", arguments) });
    }
    match &steps.top {
        Top::Device { object } => {
            row.push_back(device(object, &steps.alias)?);
        }
        Top::Medium { node, force } => {
            tray(&mut row, &steps.alias, *force);
            if let Some(node) = node {
                let arguments = json!({ "id": steps.alias, "node-name": node });
                row.push_back(step("blockdev-insert-medium", arguments));
            }
            row.push_back(step("blockdev-close-tray", json!({ "id": steps.alias })));
        }
        Top::Interface { tap, object, .. } => {
            interface(&mut row, &steps.alias, *tap, fds.next());
            row.push_back(device(object, &steps.alias)?);
        }
    }
    let medium = matches!(steps.top, Top::Medium { .. });
    let sets = steps.sets.iter().map(|grant| grant.set).collect();
    // A guest's tray is no link of a chain.
    let row = if medium { Row::new(row) } else { Row::chain(row) };
    Ok(row.about(Held { alias: steps.alias, medium, sets }))
}

/// What a start says of a device although QEMU takes it for granted is left out.
fn device(object: &str, alias: &str) -> Result<Step, String> {
    let mut arguments: Value = serde_json::from_str(object).map_err(|error| error.to_string())?;
    if let Some(arguments) = arguments.as_object_mut()
        && arguments.get("channel") == Some(&json!(0))
    {
        arguments.remove("channel");
    }
    let undo = Some(("device_del", json!({ "id": alias })));
    Ok(Step { undo, window: true, ..step("device_add", arguments) })
}

/// What `blockdev-add` is told of these nodes.
fn nodes(nodes: &[String]) -> Result<Vec<Value>, String> {
    if nodes.len() <= NESTED_MAX {
        return Ok(whole(nodes)?.into_iter().collect());
    }
    let read = |node: &String| serde_json::from_str(node).map_err(|error| error.to_string());
    nodes.iter().map(read).collect()
}

/// All nodes as one: the topmost, each written where the one over it names it. QEMU reads its monitor byte by byte, at
/// several microseconds each, so that one command takes half as long as one for each node; and it takes all nodes back
/// where one of them fails.
fn whole(nodes: &[String]) -> Result<Option<Value>, String> {
    let mut below: BTreeMap<String, Value> = BTreeMap::new();
    let mut top = None;
    for node in nodes {
        let mut node: serde_json::Map<String, Value> =
            serde_json::from_str(node).map_err(|error| error.to_string())?;
        for key in ["file", "backing"] {
            let named = node.get_mut(key).filter(|named| named.is_string());
            if let Some(named) = named {
                let name = named.as_str().unwrap_or_default();
                let mut node = below.remove(name).ok_or_else(|| format!("node {name} is not there"))?;
                // Of a node that is written into another QEMU takes this for granted, and of one by itself the opposite.
                if let Some(node) = node.as_object_mut() {
                    node.entry("discard").or_insert_with(|| "ignore".into());
                }
                *named = node;
            }
        }
        // What a start says although QEMU takes it for granted, of a node and of what is written into it.
        if node.get("read-only") == Some(&Value::Bool(false)) {
            node.remove("read-only");
        }
        let name = node.get("node-name").and_then(Value::as_str).unwrap_or_default().to_owned();
        top = Some(name.clone());
        below.insert(name, Value::Object(node));
    }
    let whole = top.and_then(|top| below.remove(&top));
    if below.is_empty() { Ok(whole) } else { Err("a node is under no other".into()) }
}

/// The back-end of an interface takes the descriptor of its own name, which nobody else can name then.
fn interface(row: &mut VecDeque<Step>, alias: &str, tap: bool, fd: Option<OwnedFd>) {
    let name = backend(alias);
    let undo = Some(("closefd", json!({ "fdname": name })));
    row.push_back(Step { fd, undo, ..step("getfd", json!({ "fdname": name })) });
    let arguments = if tap {
        json!({ "type": "tap", "id": name, "fd": name })
    } else {
        json!({ "type": "stream", "id": name, "server": false, "addr": { "type": "fd", "str": name } })
    };
    let undo = Some(("netdev_del", json!({ "id": name })));
    row.push_back(Step { undo, ..step("netdev_add", arguments) });
}

/// An open tray stays open.
fn tray(row: &mut VecDeque<Step>, alias: &str, force: bool) {
    row.push_back(step("blockdev-open-tray", json!({ "id": alias, "force": force })));
    // QEMU does nothing where there is none, and refuses where the guest holds the tray shut.
    row.push_back(step("blockdev-remove-medium", json!({ "id": alias })));
}

fn unplug_steps(fds: Vec<OwnedFd>, now: Instant, open: &[Held]) -> Result<Row, String> {
    let steps: UnplugSteps = read(fds.into_iter().next().ok_or("it has no description")?)?;
    check_unplug(&steps).map_err(|error| error.to_string())?;
    let mut row = VecDeque::new();
    // A medium that is gone and only kept open is nothing that the guest's tray could hold.
    let kept = open.iter().any(|held| held.medium && held.alias == steps.alias);
    if steps.medium && !kept {
        tray(&mut row, &steps.alias, steps.force);
        row.push_back(step("blockdev-close-tray", json!({ "id": steps.alias })));
    }
    if !steps.medium {
        let remove = step("device_del", json!({ "id": steps.alias }));
        row.push_back(Step { refused: Refused::PassesWithout, ..remove });
    }
    // What was taken out in part before is gone already; what is in use is not.
    let gone = |execute, arguments| Step { refused: Refused::PassesWithout, ..step(execute, arguments) };
    row.extend(steps.nodes.iter().map(|node| gone("blockdev-del", json!({ "node-name": node }))));
    row.extend(steps.sets.iter().map(|set| gone("remove-fd", json!({ "fdset-id": set }))));
    if steps.interface {
        let name = backend(&steps.alias);
        row.push_back(gone("netdev_del", json!({ "id": name })));
        // One that was handed over and never taken.
        row.push_back(gone("closefd", json!({ "fdname": name })));
    }
    if !steps.sets.is_empty() {
        row.push_back(step(LOOK, Value::Null));
    }
    let held = Held { alias: steps.alias.clone(), medium: steps.medium, sets: steps.sets };
    let mut row = Row::new(row).about(held);
    if !steps.medium {
        row.awaits(steps.alias, now + RELEASE);
    }
    Ok(row)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::memfd;

    fn text(value: &Value) -> OwnedFd {
        memfd::sealed("plug", value.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn the_window_is_for_what_may_load_a_module() {
        let node = r#"{"driver":"file","node-name":"a","filename":"/dev/fdset/9","locking":"off"}"#;
        let device = r#"{"driver":"virtio-blk-pci","id":"d","drive":"a"}"#;
        let steps = json!({ "alias": "d", "sets": [{ "slot": "a", "set": 9 }], "nodes": [node],
            "top": { "top": "device", "object": device } });
        let mut row = plug_steps(vec![text(&steps), text(&json!(0))]).unwrap();
        assert!(!row.window());
        assert_eq!(sent(&mut row), [("add-fd", false)]);
        row.answered(Ok(json!({})));
        // They are on their way together, and the window is open until the last is answered.
        assert_eq!(sent(&mut row), [("blockdev-add", true), ("device_add", true)]);
        row.answered(Ok(json!({})));
        assert!(row.window() && !row.is_over());
        row.answered(Ok(json!({})));
        assert!(!row.window() && row.is_over());
        assert!(unplugs_without_a_window(true) && unplugs_without_a_window(false));
    }

    /// What is sent now, and whether it opens the window.
    fn sent(row: &mut Row) -> Vec<(&'static str, bool)> {
        std::iter::from_fn(|| row.next()).map(|sending| (sending.execute, sending.window)).collect()
    }

    fn unplugs_without_a_window(medium: bool) -> bool {
        let steps = json!({ "alias": "d", "medium": medium, "force": true, "nodes": ["a"], "sets": [9] });
        let mut row = unplug_steps(vec![text(&steps)], Instant::now(), &[]).unwrap();
        let mut all = 0;
        while !row.is_over() {
            let now = sent(&mut row);
            assert!(now.len() == 1 && !now.iter().any(|(_, window)| *window), "{now:?}");
            row.answered(Ok(json!({})));
            row.deleted("d");
            all += 1;
        }
        all == if medium { 6 } else { 4 }
    }

    #[test]
    fn a_medium_goes_step_by_step() {
        let node = r#"{"driver":"file","node-name":"a","filename":"/dev/fdset/9","locking":"off"}"#;
        let steps = json!({ "alias": "d", "sets": [{ "slot": "a", "set": 9 }], "nodes": [node],
            "top": { "top": "medium", "node": "a", "force": false } });
        let mut row = plug_steps(vec![text(&steps), text(&json!(0))]).unwrap();
        for execute in [
            "add-fd",
            "blockdev-add",
            "blockdev-open-tray",
            "blockdev-remove-medium",
            "blockdev-insert-medium",
            "blockdev-close-tray",
        ] {
            assert_eq!(sent(&mut row), [(execute, execute == "blockdev-add")]);
            row.answered(Ok(json!({})));
        }
        assert!(row.is_over());
    }

    #[test]
    fn what_is_taken_for_granted_is_not_said() {
        let said = |channel: u32| {
            let object = json!({ "driver": "scsi-hd", "id": "d", "channel": channel, "lun": 0 }).to_string();
            device(&object, "d").unwrap().arguments
        };
        assert_eq!(said(0), json!({ "driver": "scsi-hd", "id": "d", "lun": 0 }));
        assert_eq!(said(1).get("channel"), Some(&json!(1)));
    }

    #[test]
    fn nodes_are_one_command() {
        let node = |text: Value| text.to_string();
        let nodes = [
            node(json!({ "driver": "file", "node-name": "b1", "read-only": true })),
            node(
                json!({ "driver": "qcow2", "node-name": "b2", "file": "b1", "backing": null, "read-only": true }),
            ),
            node(json!({ "driver": "file", "node-name": "a1", "read-only": false })),
            node(json!({ "driver": "qcow2", "node-name": "a2", "file": "a1", "backing": "b2" })),
        ];
        let below = json!({ "driver": "file", "node-name": "b1", "read-only": true, "discard": "ignore" });
        let backing = json!({ "driver": "qcow2", "node-name": "b2", "file": below, "backing": null, "read-only": true,
            "discard": "ignore" });
        let file = json!({ "driver": "file", "node-name": "a1", "discard": "ignore" });
        let wanted = json!({ "driver": "qcow2", "node-name": "a2", "file": file, "backing": backing });
        assert_eq!(whole(&nodes), Ok(Some(wanted)));
        assert_eq!(whole(&[]), Ok(None));
        // Nothing is left out, and nothing is there twice.
        assert!(whole(&nodes[..3]).is_err() && whole(&nodes[1..]).is_err());
    }
}
