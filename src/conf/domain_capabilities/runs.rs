//! What svirt runs, and what the emulator must have for it. `tests/capabilities.rs` plans a domain with each entry.

use super::Device;
use crate::conf::emulator::EmulatorFacts;

/// What kind of board a machine type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Board {
    I440fx,
    Q35,
}

pub(super) fn board(machine: &str) -> Option<Board> {
    if machine.starts_with("pc-q35-") {
        Some(Board::Q35)
    } else if machine.starts_with("pc-i440fx-") {
        Some(Board::I440fx)
    } else {
        None
    }
}

/// A value of an enumeration: kind, enumeration, value, what the emulator needs for it.
type Entry = (&'static str, &'static str, &'static str, &'static [&'static str]);

/// In the order of libvirt's schema.
const RUNS: &[Entry] = &[
    ("disk", "diskDevice", "disk", &[]),
    ("disk", "diskDevice", "cdrom", &[]),
    ("disk", "bus", "ide", &["device:ide-hd", "device:ide-cd"]),
    ("disk", "bus", "scsi", &["device:virtio-scsi-pci", "device:scsi-hd", "device:scsi-cd"]),
    ("disk", "bus", "virtio", &["device:virtio-blk-pci"]),
    ("disk", "bus", "sata", &["device:ich9-ahci", "device:ide-hd", "device:ide-cd"]),
    ("disk", "bus", "usb", &["device:usb-storage"]),
    ("disk", "bus", "nvme", &["device:nvme"]),
    ("disk", "model", "virtio", &["device:virtio-blk-pci"]),
    ("graphics", "type", "vnc", &["command:query-vnc"]),
    ("graphics", "type", "spice", &["command:query-spice"]),
    ("video", "modelType", "vga", &["device:VGA"]),
    ("video", "modelType", "cirrus", &["device:cirrus-vga"]),
    ("video", "modelType", "qxl", &["device:qxl-vga"]),
    ("video", "modelType", "virtio", &["device:virtio-vga"]),
    ("video", "modelType", "bochs", &["device:bochs-display"]),
    ("video", "modelType", "none", &[]),
    ("rng", "model", "virtio", &["device:virtio-rng-pci"]),
    ("rng", "backendModel", "random", &["object:rng-builtin"]),
    ("rng", "backendModel", "builtin", &["object:rng-builtin"]),
    ("tpm", "model", "tpm-tis", &["device:tpm-tis", "tpm:emulator"]),
    ("tpm", "model", "tpm-crb", &["device:tpm-crb", "tpm:emulator"]),
    ("tpm", "backendModel", "emulator", &["tpm:emulator"]),
    ("tpm", "backendVersion", "2.0", &["tpm:emulator"]),
    ("redirdev", "bus", "usb", &["device:usb-redir", "command:query-spice"]),
    ("channel", "type", "unix", &["device:virtserialport"]),
    ("channel", "type", "spicevmc", &["device:virtserialport", "command:query-spice"]),
];

/// Every kind, in the order of libvirt's schema.
const KINDS: [&str; 9] =
    ["disk", "graphics", "video", "hostdev", "rng", "filesystem", "tpm", "redirdev", "channel"];

pub(super) fn devices(emulator: &EmulatorFacts, machine: &str) -> Vec<Device> {
    // A q35 board has no IDE controller.
    let on_board = |value: &str| value != "ide" || board(machine) == Some(Board::I440fx);
    KINDS
        .into_iter()
        .map(|kind| {
            let mut enums: Vec<(&'static str, Vec<&'static str>)> = Vec::new();
            for (_, name, value, needs) in RUNS.iter().filter(|entry| entry.0 == kind) {
                if !on_board(value) || !needs.iter().all(|need| emulator.has(need)) {
                    continue;
                }
                match enums.iter_mut().find(|(known, _)| known == name) {
                    Some((_, values)) => values.push(value),
                    None => enums.push((name, vec![value])),
                }
            }
            Device { kind, enums }
        })
        .collect()
}
