//! The names of a plan's descriptors, made in one place so that operations, arguments and grants agree.

use crate::base::{NameError, Slot};

/// A layer of a disk, 0 at the top.
pub(super) fn layer(target: &str, depth: usize) -> Result<Slot, NameError> {
    Slot::new(format!("disk:{target}:{depth}"))
}

/// QEMU's or the helper-facing end of an interface.
pub(super) fn net(index: usize) -> Result<Slot, NameError> {
    Slot::new(format!("net{index}"))
}

/// The host's end of a vsock.
pub(super) fn vsock() -> Result<Slot, NameError> {
    Slot::new("vsock0")
}

/// A boot file: `kernel`, `initrd`, `dtb`.
pub(super) fn boot(what: &str) -> Result<Slot, NameError> {
    Slot::new(format!("boot:{what}"))
}

/// The file of an entry that the guest's firmware finds by name, counted from 0 among those with a file.
pub(super) fn fw_cfg(index: usize) -> Result<Slot, NameError> {
    Slot::new(format!("fwcfg:{index}"))
}

/// A part of UEFI firmware: `code`, `template`, `nvram`.
pub(super) fn firmware(part: &str) -> Result<Slot, NameError> {
    Slot::new(format!("firmware:{part}"))
}

/// A VNC server's listener.
pub(super) fn vnc(index: usize) -> Result<Slot, NameError> {
    Slot::new(format!("vnc:{index}"))
}

/// The SPICE server's listener.
pub(super) fn spice() -> Result<Slot, NameError> {
    Slot::new("spice")
}

/// QEMU's end of a console's channel, or with `part` what the supervisor holds of it.
pub(super) fn console(alias: &str, part: &str) -> Result<Slot, NameError> {
    Slot::new(if part.is_empty() { alias.to_owned() } else { format!("{alias}.{part}") })
}

/// What a saved domain is loaded from.
pub(super) fn saved() -> Result<Slot, NameError> {
    Slot::new("saved")
}

/// QEMU's end of the monitor.
pub(super) fn monitor() -> Result<Slot, NameError> {
    Slot::new("monitor")
}

/// The supervisor's end of the monitor.
pub(super) fn monitor_peer() -> Result<Slot, NameError> {
    Slot::new("monitor.peer")
}

/// The control socket's listener.
pub(super) fn control() -> Result<Slot, NameError> {
    Slot::new("control")
}
