//! What a device uses that was there from the start, read from the domain's plan.

use serde_json::Value;

use super::super::journal::Undo;
use super::super::lease::ObjectId;
use crate::privsep::op::{LaunchPlan, Op};
use crate::privsep::plug::Gone;

/// What a device that was there from the start uses.
#[derive(Default)]
pub(super) struct Own {
    /// Its nodes, the topmost first.
    pub(super) nodes: Vec<String>,
    /// Its fd sets.
    pub(super) sets: Vec<u32>,
    files: Vec<ObjectId>,
    /// Whether it is a network interface.
    pub(super) interface: bool,
}

/// Reads it from the plan: the device's arguments name its topmost node, whose name begins with the target.
pub(super) fn own(plan: &LaunchPlan, which: &Gone) -> Option<Own> {
    let Some(Op::Spawn(spawn)) = plan.ops.last() else { return None };
    let objects: Vec<Value> = spawn.argv.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    let word = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let device = objects.iter().find(|object| word(object, "id").as_deref() == Some(&which.alias))?;
    if word(device, "netdev").is_some() {
        // Its tap vanishes when QEMU closes it; what is left to undo then waits for the domain's end.
        return Some(Own { interface: true, ..Own::default() });
    }
    let Some(drive) = word(device, "drive") else {
        // An empty drive uses nothing; no other kind of device may be taken out by this way.
        let is_drive = matches!(word(device, "driver").as_deref(), Some("ide-cd" | "scsi-cd"));
        return is_drive.then(Own::default);
    };
    let target = drive.strip_suffix("-0-format")?.to_owned();
    let mine = |name: &String| name.strip_prefix(&target).is_some_and(|rest| rest.starts_with('-'));
    let nodes = objects.iter().filter_map(|object| word(object, "node-name").filter(mine));
    let mut nodes: Vec<String> = nodes.collect();
    // Arguments go from the bottom up.
    nodes.reverse();
    let owned = objects.iter().filter(|object| word(object, "node-name").as_ref().is_some_and(mine));
    let set = |object: &Value| word(object, "filename")?.strip_prefix("/dev/fdset/")?.parse().ok();
    let sets = owned.filter_map(set).collect();
    let slot = format!("disk:{target}:");
    let files = plan.ops.iter().filter_map(|op| match op {
        Op::OpenImage(image) if image.slot.as_str().starts_with(&slot) => {
            Some((image.identity.device, image.identity.inode))
        }
        _ => None,
    });
    Some(Own { nodes, sets, files: files.collect(), interface: false })
}

/// Takes what a device from the start used out of what an end would take back.
pub(in crate::labeller) fn split_own(
    plan: &LaunchPlan,
    which: &Gone,
    gone: &[Gone],
    undos: &mut Vec<Undo>,
) -> (Vec<Undo>, Vec<ObjectId>) {
    // A drive whose medium went before has nothing left to give back.
    let Some(own) = own(plan, which).filter(|_| gone.iter().all(|other| other.alias != which.alias)) else {
        return (Vec::new(), Vec::new());
    };
    let others = plan.ops.iter().filter_map(|op| match op {
        Op::OpenImage(image) => Some((image.slot.as_str(), (image.identity.device, image.identity.inode))),
        _ => None,
    });
    let others: Vec<(&str, ObjectId)> = others.collect();
    // A layer that another disk of the domain reads too stays.
    let uses = |id: &ObjectId| others.iter().filter(|(_, other)| other == id).count();
    let left = |id: &ObjectId| {
        gone.iter().filter_map(|gone| self::own(plan, gone)).filter(|own| own.files.contains(id)).count()
    };
    let last = |id: &ObjectId| uses(id) <= left(id) + 1;
    let mut taken = Vec::new();
    undos.retain(|undo| match undo {
        Undo::Label { id, .. } if own.files.contains(id) && last(id) => {
            taken.push(undo.clone());
            false
        }
        _ => true,
    });
    (taken, own.files)
}
