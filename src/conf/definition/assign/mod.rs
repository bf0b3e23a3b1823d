//! What libvirt chooses once a domain is defined, and writes down: emulator, version of the machine type, CPU,
//! controllers, addresses.
//!
//! The one place that decides where a device sits: a start follows what stands, and what is chosen here stands.
//! Pure: one definition and one host give the same choices, and what stands already is never changed. Knows nothing of
//! boards that do not run here.

mod address;
mod devices;
mod fit;
mod pci;

use super::node::Node;
use super::{Definition, read, rules};
use crate::conf::emulator::EmulatorFacts;

/// The two boards that run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Board {
    I440fx,
    Q35,
}

/// What the choices depend on: the emulators and their machine types.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choices {
    emulators: Vec<Known>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    path: String,
    /// Alias and name of the machine types that have one, such as `q35` and `pc-q35-7.2`.
    aliases: Vec<(String, String)>,
}

impl Choices {
    /// Those of a host with these emulators, the first one first.
    #[must_use]
    pub fn of(emulators: &[EmulatorFacts]) -> Self {
        let aliases = |one: &EmulatorFacts| {
            let with = one.machines.iter().filter_map(|m| Some((m.alias.clone()?, m.name.clone())));
            with.collect()
        };
        let known = |one: &EmulatorFacts| Known { path: one.path.clone(), aliases: aliases(one) };
        Self { emulators: emulators.iter().map(known).collect() }
    }
}

impl Definition {
    /// Writes down what was left to be chosen; tells whether anything was. Where the host has no emulator, or the
    /// board is none that runs here, nothing is.
    pub fn choose(&mut self, choices: &Choices) -> bool {
        let Some(board) = board(&self.root).filter(|_| !choices.emulators.is_empty()) else { return false };
        let mut root = self.root.clone();
        system(&mut root, choices);
        processor(&mut root);
        if let Some(devices) = root.ensure("devices") {
            devices::add(devices, board);
            if let Some(uuid) = self.uuid {
                devices::network_addresses(devices, uuid);
            }
            address::fill(devices);
            pci::fill(devices, board);
        }
        // What cannot be read again is not kept.
        let many =
            root.child("devices").is_some_and(|devices| devices.children().count() > read::MAX_CHILDREN);
        if many || rules::check(&root).is_err() || root == self.root {
            return false;
        }
        self.root = root;
        true
    }
}

/// The board of a domain that QEMU runs.
fn board(root: &Node) -> Option<Board> {
    root.attribute("type").filter(|kind| matches!(*kind, "kvm" | "qemu"))?;
    let kind = root.at(&["os", "type"]).filter(|kind| kind.text == "hvm")?;
    kind.attribute("arch").filter(|arch| *arch == "x86_64")?;
    let machine = kind.attribute("machine")?;
    if machine == "q35" || machine.starts_with("pc-q35-") {
        Some(Board::Q35)
    } else if machine == "pc" || machine.starts_with("pc-i440fx-") {
        Some(Board::I440fx)
    } else {
        None
    }
}

/// The emulator, and the machine type behind its alias.
fn system(root: &mut Node, choices: &Choices) {
    let named = root.at(&["devices", "emulator"]).map(|node| node.text.clone());
    let known = match &named {
        Some(path) => choices.emulators.iter().find(|known| known.path == *path),
        None => choices.emulators.first(),
    };
    let Some(known) = known else { return };
    if named.is_none()
        && let Some(node) = root.child_mut("devices").and_then(|devices| devices.ensure("emulator"))
    {
        node.text.clone_from(&known.path);
    }
    let Some(kind) = root.child_mut("os").and_then(|os| os.child_mut("type")) else { return };
    let alias = kind.attribute("machine").unwrap_or_default();
    if let Some((_, name)) = known.aliases.iter().find(|(known, _)| known == alias) {
        kind.set("machine", name.clone());
    }
}

/// What QEMU takes for these boards where nothing is said.
fn processor(root: &mut Node) {
    let silent = |cpu: &Node| {
        ["mode", "match", "check"].iter().all(|name| cpu.attribute(name).is_none())
            && cpu.child("model").is_none()
            && cpu.child("feature").is_none()
    };
    if root.child("cpu").is_some_and(|cpu| !silent(cpu)) {
        return;
    }
    let Some(cpu) = root.ensure("cpu") else { return };
    for (name, value) in [("mode", "custom"), ("match", "exact"), ("check", "none")] {
        cpu.set(name, value);
    }
    if let Some(model) = cpu.add("model") {
        model.set("fallback", "forbid");
        model.text = "qemu64".into();
    }
}
