//! Devices that come to a running domain and leave it: what the labeller does, and what the supervisor has QEMU do.
//!
//! QEMU's own words (JSON objects for `blockdev-add` and `device_add`) come from the plan, as a start's arguments do.
//! [`check`] holds them to closed lists; the labeller and the supervisor both ask it.

mod interface;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::op::Op;
use crate::base::Slot;

/// The most layers of one disk, and so the most descriptors of one plug.
pub const SETS_MAX: usize = 240;
/// The longest of QEMU's objects, in bytes.
const OBJECT_MAX: usize = 4096;
/// The longest note, in bytes.
const NOTE_MAX: usize = 64 << 10;
/// QEMU's longest name of a node.
const NAME_MAX: usize = 31;

/// One device or medium that is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plug {
    /// The alias of the device, which is QEMU's id of it too.
    pub alias: String,
    /// What is opened and labelled for it, in order.
    pub ops: Vec<Op>,
    /// What QEMU is told.
    pub steps: PlugSteps,
    /// The device in its owner's words, kept for the owner; nobody else reads it.
    pub note: String,
}

impl Plug {
    /// Which device or medium it is.
    #[must_use]
    pub fn gone(&self) -> Gone {
        Gone { alias: self.alias.clone(), medium: matches!(self.steps.top, Top::Medium { .. }) }
    }

    /// The uids that are leased for it.
    pub fn uids(&self) -> impl Iterator<Item = u32> {
        self.ops.iter().filter_map(|op| match op {
            Op::LeaseUid { uid, .. } => Some(*uid),
            _ => None,
        })
    }
}

/// What QEMU is told, in order: descriptors, nodes, the device or the medium.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugSteps {
    /// The alias.
    pub alias: String,
    /// Each descriptor and the set that it becomes the only one of.
    pub sets: Vec<SetGrant>,
    /// Arguments of `blockdev-add`, the lowest layer first.
    pub nodes: Vec<String>,
    /// What uses the topmost node.
    pub top: Top,
}

/// What uses a disk's topmost node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "top", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Top {
    /// A new device: the arguments of `device_add`.
    Device {
        /// JSON.
        object: String,
    },
    /// A drive that is there: its tray is opened, the medium changed, the tray closed.
    Medium {
        /// The topmost node's name; none leaves the drive empty.
        node: Option<String>,
        /// Whether a guest that holds the tray shut is not asked.
        force: bool,
    },
    /// A network interface: its one descriptor is handed over by name, and is no set's.
    Interface {
        /// What was opened.
        slot: Slot,
        /// Whether it is a tap device, not a connected socket.
        tap: bool,
        /// JSON: the arguments of `device_add`.
        object: String,
    },
}

/// The alias of the one SCSI controller, which is QEMU's id of it too.
pub const SCSI: &str = "scsi0";

/// QEMU's name of the descriptor, and of the back-end that takes it, of the interface with this alias.
#[must_use]
pub fn backend(alias: &str) -> String {
    format!("host{alias}")
}

/// A descriptor and its set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetGrant {
    /// What was opened.
    pub slot: Slot,
    /// The number of the set.
    pub set: u32,
}

/// A device or medium, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// The alias of the device.
    pub alias: String,
    /// Whether only its medium is meant.
    pub medium: bool,
}

/// How a device or medium is taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnplugSteps {
    /// The alias.
    pub alias: String,
    /// Whether the device stays and only its medium goes.
    pub medium: bool,
    /// Whether a guest that holds the tray shut is not asked.
    pub force: bool,
    /// The nodes, the topmost first.
    pub nodes: Vec<String>,
    /// The sets.
    pub sets: Vec<u32>,
    /// Whether it is a network interface, which has a back-end.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interface: bool,
}

/// Why a plug is not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlugError(String);

fn wrong<T>(text: impl Into<String>) -> Result<T, PlugError> {
    Err(PlugError(text.into()))
}

/// Whether it is a name that aliases and nodes have.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(plain)
}

/// Holds a plug to what plugs may do.
pub fn check(plug: &Plug) -> Result<(), PlugError> {
    if plug.alias != plug.steps.alias || plug.note.len() > NOTE_MAX {
        return wrong("its alias differs, or its note is too long");
    }
    if let Top::Interface { slot, tap, .. } = &plug.steps.top {
        interface::check_ops(plug, slot, *tap)?;
        return check_steps(&plug.steps);
    }
    for op in &plug.ops {
        if !matches!(op, Op::OpenImage(_) | Op::LabelSelinux { .. }) {
            return wrong(format!("a running domain is given no {}", op.name()));
        }
    }
    let opened =
        plug.ops.iter().filter_map(|op| if let Op::OpenImage(image) = op { Some(&image.slot) } else { None });
    let opened: Vec<&Slot> = opened.collect();
    if opened.len() != plug.steps.sets.len()
        || !plug.steps.sets.iter().zip(opened).all(|(set, slot)| set.slot == *slot)
    {
        return wrong("its descriptors are not those that it opens");
    }
    check_steps(&plug.steps)
}

/// Holds what QEMU is told to closed lists.
pub fn check_steps(steps: &PlugSteps) -> Result<(), PlugError> {
    if !is_name(&steps.alias) || steps.sets.len() > SETS_MAX || steps.nodes.len() > 2 * SETS_MAX {
        return wrong("its alias is none, or it has too many layers");
    }
    let mut nodes = Nodes::default();
    for node in &steps.nodes {
        nodes.check(node, &steps.sets)?;
    }
    let mut sets: Vec<u32> = steps.sets.iter().map(|grant| grant.set).collect();
    sets.sort_unstable();
    nodes.sets.sort_unstable();
    if nodes.sets != sets {
        return wrong("each of its descriptors is for one node");
    }
    let top = nodes.names.last().map(String::as_str);
    match &steps.top {
        Top::Device { object } => check_device(object, &steps.alias, top),
        Top::Medium { node, .. } if node.as_deref() != top => wrong("its medium is not its topmost node"),
        Top::Medium { .. } => Ok(()),
        Top::Interface { .. } if top.is_some() => wrong("an interface has no nodes"),
        Top::Interface { object, .. } => interface::check_device(object, &steps.alias),
    }
}

/// Holds the names of what is taken away to their form.
pub fn check_unplug(steps: &UnplugSteps) -> Result<(), PlugError> {
    let names = steps.nodes.iter().chain([&steps.alias]).all(|name| is_name(name));
    if !names || steps.sets.len() > SETS_MAX || steps.nodes.len() > 2 * SETS_MAX {
        return wrong("a name is none, or there are too many");
    }
    Ok(())
}

fn object(text: &str) -> Result<serde_json::Map<String, Value>, PlugError> {
    if text.len() > OBJECT_MAX {
        return wrong("an object is too long");
    }
    serde_json::from_str(text).or_else(|_| wrong("an object is no JSON"))
}

/// The nodes of a plug, the lowest first: each is over those before it and over nothing else.
#[derive(Default)]
struct Nodes {
    names: Vec<String>,
    /// The sets that they use.
    sets: Vec<u32>,
}

impl Nodes {
    fn check(&mut self, text: &str, sets: &[SetGrant]) -> Result<(), PlugError> {
        let object = object(text)?;
        self.sets.extend(check_node(&object, sets)?);
        let below = ["file", "backing"].into_iter().filter_map(|key| object.get(key)?.as_str());
        if let Some(other) = below.into_iter().find(|below| !self.names.iter().any(|name| name == below)) {
            return wrong(format!("a node is over {other:?}, which is none of the plug's before it"));
        }
        let name = object.get("node-name").and_then(Value::as_str).unwrap_or_default();
        if self.names.iter().any(|other| other == name) {
            return wrong(format!("two nodes are called {name}"));
        }
        self.names.push(name.to_owned());
        Ok(())
    }
}

/// A node is a file in one of the plug's own sets, which is told, or a format over another node.
fn check_node(object: &serde_json::Map<String, Value>, sets: &[SetGrant]) -> Result<Option<u32>, PlugError> {
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    let known: &[&str] = match word("driver") {
        Some("file" | "host_device") => &[
            "driver",
            "node-name",
            "filename",
            "locking",
            "aio",
            "read-only",
            "auto-read-only",
            "discard",
            "cache",
        ],
        Some("qcow2") => &["driver", "node-name", "read-only", "file", "backing", "discard", "cache"],
        Some("raw") => &["driver", "node-name", "read-only", "file", "discard", "cache"],
        _ => return wrong("a node has another driver than file, host_device, qcow2 and raw"),
    };
    if let Some(other) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return wrong(format!("a node has no property {other:?}"));
    }
    if !word("node-name").is_some_and(is_name) {
        return wrong("a node has no name");
    }
    if let Some(filename) = object.get("filename") {
        let own = |set: &SetGrant| filename.as_str() == Some(format!("/dev/fdset/{}", set.set).as_str());
        return match sets.iter().find(|set| own(set)) {
            Some(grant) if word("locking") == Some("off") => Ok(Some(grant.set)),
            _ => wrong("a node names a file that is not its own descriptor"),
        };
    }
    // Without a backing node, or null for none, QEMU would follow the path in the header.
    let backing = object.get("backing");
    let named = backing.is_some_and(|node| node.is_null() || node.as_str().is_some_and(is_name));
    if !word("file").is_some_and(is_name) || (word("driver") == Some("qcow2") && !named) {
        return wrong("a format node names no node below it");
    }
    Ok(None)
}

const DEVICES: &[&str] = &["virtio-blk-pci", "scsi-hd", "scsi-cd", "usb-storage"];
/// What SCSI disks hang on: it is over no node.
const CONTROLLER: &str = "virtio-scsi-pci";

fn check_device(text: &str, alias: &str, top: Option<&str>) -> Result<(), PlugError> {
    let object = object(text)?;
    let word = |key: &str| object.get(key).and_then(Value::as_str);
    if object.get("drive").is_some() != top.is_some() || word("drive") != top {
        return wrong("the device does not use the plug's topmost node");
    }
    let controller = word("driver") == Some(CONTROLLER);
    if controller && (top.is_some() || alias != SCSI) {
        return wrong(format!("a SCSI controller is {SCSI} and uses no node"));
    }
    let may_be = |driver: &str| controller || DEVICES.contains(&driver);
    if !word("driver").is_some_and(may_be) || word("id") != Some(alias) {
        return wrong("the device is none that may be plugged in");
    }
    let known = [
        "driver",
        "id",
        "drive",
        "bus",
        "addr",
        "multifunction",
        "port",
        "channel",
        "scsi-id",
        "lun",
        "num-queues",
        "num_queues",
        "bootindex",
        "serial",
        "write-cache",
        "share-rw",
    ];
    match object
        .iter()
        .find(|(key, value)| !known.contains(&key.as_str()) || value.is_object() || value.is_array())
    {
        Some((key, _)) => wrong(format!("the device has no property {key:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn steps(node: &str, device: &str) -> PlugSteps {
        PlugSteps {
            alias: "virtio-disk1".into(),
            sets: vec![SetGrant { slot: Slot::new("disk:vdb:0").unwrap(), set: 9 }],
            nodes: vec![node.into()],
            top: Top::Device { object: device.into() },
        }
    }

    const NODE: &str = r#"{"driver":"file","node-name":"vdb-0-storage","filename":"/dev/fdset/9","locking":"off","read-only":false}"#;
    const FORMAT: &str =
        r#"{"driver":"qcow2","node-name":"vdb-0-format","file":"vdb-0-storage","backing":null}"#;

    fn formatted(format: &str) -> PlugSteps {
        let mut steps = steps(NODE, DEVICE);
        steps.nodes.push(format.into());
        steps
    }

    const DEVICE: &str = r#"{"driver":"virtio-blk-pci","id":"virtio-disk1","drive":"vdb-0-format"}"#;

    #[test]
    fn a_disk_in_its_own_set_is_let_through() {
        check_steps(&steps(NODE, &DEVICE.replace("format", "storage"))).unwrap();
        check_steps(&formatted(FORMAT)).unwrap();
    }

    #[test]
    fn what_belongs_to_another_disk_is_refused() {
        for format in [
            FORMAT.replace("vdb-0-storage", "vda-0-storage"),
            FORMAT.replace("null", r#""vda-0-format""#),
            FORMAT.replace("vdb-0-format", "vdb-0-storage"),
            FORMAT.replace("vdb-0-storage", "vdb-0-format"),
        ] {
            assert!(check_steps(&formatted(&format)).is_err(), "{format}");
        }
        let other = DEVICE.replace("vdb-0-format", "vda-0-format");
        for device in
            [other, DEVICE.replace("format", "storage"), DEVICE.replace(r#","drive":"vdb-0-format""#, "")]
        {
            let top = Top::Device { object: device.clone() };
            assert!(check_steps(&PlugSteps { top, ..formatted(FORMAT) }).is_err(), "{device}");
        }
        for node in [None, Some("vda-0-format".into()), Some("vdb-0-storage".into())] {
            let top = Top::Medium { node, force: false };
            assert!(check_steps(&PlugSteps { top, ..formatted(FORMAT) }).is_err());
        }
        let mut unused = formatted(FORMAT);
        unused.sets.push(SetGrant { slot: Slot::new("disk:vdb:1").unwrap(), set: 10 });
        assert!(check_steps(&unused).is_err());
        let mut twice = formatted(FORMAT);
        twice.sets.push(SetGrant { slot: Slot::new("disk:vdb:1").unwrap(), set: 9 });
        assert!(check_steps(&twice).is_err());
    }

    #[test]
    fn a_controller_comes_alone() {
        let object = format!(r#"{{"driver":"virtio-scsi-pci","id":"{SCSI}","bus":"pci.3","addr":"0x0"}}"#);
        let top = |object: &str| Top::Device { object: object.into() };
        let steps = |object: &str| PlugSteps {
            alias: SCSI.into(),
            sets: Vec::new(),
            nodes: Vec::new(),
            top: top(object),
        };
        check_steps(&steps(&object)).unwrap();
        for other in [
            object.replace("virtio-scsi-pci", "megasas"),
            object.replace("scsi0", "scsi1"),
            object.replace("addr", "iothread"),
            object.replace("}", r#","drive":"vdb-0-format"}"#),
        ] {
            assert!(check_steps(&steps(&other)).is_err(), "{other}");
        }
        let other = PlugSteps { alias: "scsi1".into(), ..steps(&object.replace("scsi0", "scsi1")) };
        assert!(check_steps(&other).is_err());
        let over = PlugSteps { top: top(&object), alias: SCSI.into(), ..formatted(FORMAT) };
        assert!(check_steps(&over).is_err(), "it uses no node");
    }

    #[test]
    fn what_names_a_file_or_is_no_disk_is_refused() {
        for node in [
            NODE.replace("/dev/fdset/9", "/etc/shadow"),
            NODE.replace("/dev/fdset/9", "/dev/fdset/1"),
            NODE.replace("off", "on"),
            NODE.replace(r#""driver":"file""#, r#""driver":"nbd""#),
            NODE.replace("read-only", "pr-manager"),
            r#"{"driver":"qcow2","node-name":"vdb-0-format","file":"vdb-0-storage"}"#.into(),
            r#"{"driver":"raw","node-name":"a","file":{"driver":"file","filename":"/x"}}"#.into(),
            "[]".into(),
        ] {
            assert!(check_steps(&steps(&node, &DEVICE.replace("format", "storage"))).is_err(), "{node}");
        }
        for device in [
            DEVICE.replace("virtio-blk-pci", "vfio-pci"),
            DEVICE.replace("virtio-disk1", "other"),
            DEVICE.replace("drive", "romfile"),
        ] {
            let top = Top::Device { object: device.clone() };
            assert!(check_steps(&PlugSteps { top, ..formatted(FORMAT) }).is_err(), "{device}");
        }
    }
}
