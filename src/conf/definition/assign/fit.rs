//! What a device asks of its place.

use super::Board;
use crate::conf::definition::node::Node;

/// What kind of place on a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// A bridge from PCI Express to conventional slots.
    Bridge,
    /// A slot of a conventional bus.
    Conventional,
    /// The same eight functions of the chip set's slot as ICH9 has: this one.
    Ehci(u8),
    /// A port of its own.
    Express,
    /// Slot and function of the chip set.
    Own(u8, u8),
    /// A root port.
    Port,
    /// The first display, which firmware looks for in a slot of its own.
    Primary,
}

/// What a device asks for; nothing where it is on no PCI bus, or on one that is not known here.
pub(super) fn of(device: &Node, board: Board, first: bool) -> Option<Fit> {
    let model = device.attribute("model").unwrap_or_default();
    match device.name() {
        "controller" => controller(device, model, board),
        "disk" => match device.child("target").and_then(|target| target.attribute("bus")) {
            Some("virtio") => Some(virtio(model)),
            Some("nvme") => Some(Fit::Express),
            _ => None,
        },
        "interface" => interface(device),
        "sound" => sound(model, board, first),
        "video" => video(device, first),
        "input" => (device.attribute("bus") == Some("virtio")).then(|| virtio(model)),
        "hostdev" => (device.attribute("type") == Some("pci")).then_some(Fit::Express),
        "memballoon" | "rng" | "filesystem" => (model != "none").then(|| virtio(model)),
        "vsock" | "crypto" => Some(virtio(model)),
        "watchdog" => (model == "i6300esb").then_some(Fit::Conventional),
        "shmem" => Some(Fit::Conventional),
        "panic" => (model == "pvpanic").then_some(Fit::Conventional),
        "memory" => model.starts_with("virtio-").then_some(Fit::Express),
        "serial" => {
            let target = device.child("target").and_then(|target| target.attribute("type"));
            (target == Some("pci-serial")).then_some(Fit::Conventional)
        }
        _ => None,
    }
}

/// The order in which libvirt gives out places, PCI's own controllers before all others.
pub(super) const ORDER: [&str; 17] = [
    "filesystem",
    "interface",
    "sound",
    "controller",
    "disk",
    "hostdev",
    "memballoon",
    "rng",
    "watchdog",
    "video",
    "shmem",
    "input",
    "serial",
    "panic",
    "memory",
    "vsock",
    "crypto",
];

/// A transitional virtio device is a conventional one.
fn virtio(model: &str) -> Fit {
    if model == "virtio-transitional" { Fit::Conventional } else { Fit::Express }
}

fn controller(device: &Node, model: &str, board: Board) -> Option<Fit> {
    Some(match (device.attribute("type")?, model, board) {
        ("pci", "pcie-root-port", _) => Fit::Port,
        ("pci", "pcie-to-pci-bridge", _) => Fit::Bridge,
        ("scsi", _, _) if model.starts_with("virtio-") => virtio(model),
        ("scsi", ..) => Fit::Conventional,
        ("virtio-serial", ..) => virtio(model),
        ("sata", _, Board::Q35) if device.attribute("index") == Some("0") => Fit::Own(0x1f, 2),
        ("sata", ..) => Fit::Conventional,
        ("ide", _, Board::I440fx) if device.attribute("index") == Some("0") => Fit::Own(1, 1),
        ("usb", "none", _) => return None,
        ("usb", "nec-xhci" | "qemu-xhci", _) => Fit::Express,
        ("usb", "piix3-uhci", Board::I440fx) if device.attribute("index") == Some("0") => Fit::Own(1, 2),
        ("usb", "ich9-ehci1", _) => Fit::Ehci(7),
        ("usb", "ich9-uhci1", _) => Fit::Ehci(0),
        ("usb", "ich9-uhci2", _) => Fit::Ehci(1),
        ("usb", "ich9-uhci3", _) => Fit::Ehci(2),
        ("usb", ..) => Fit::Conventional,
        ("nvme", ..) => Fit::Express,
        _ => return None,
    })
}

fn interface(device: &Node) -> Option<Fit> {
    if device.attribute("type") == Some("hostdev") {
        return Some(Fit::Express);
    }
    match device.child("model").and_then(|model| model.attribute("type"))? {
        "usb-net" => None,
        "e1000e" | "igb" => Some(Fit::Express),
        model if model.starts_with("virtio") => Some(virtio(model)),
        _ => Some(Fit::Conventional),
    }
}

fn sound(model: &str, board: Board, first: bool) -> Option<Fit> {
    match model {
        "pcspk" | "sb16" | "usb" => None,
        "ich9" if board == Board::Q35 && first => Some(Fit::Own(0x1b, 0)),
        "virtio" => Some(Fit::Express),
        _ => Some(Fit::Conventional),
    }
}

fn video(device: &Node, first: bool) -> Option<Fit> {
    match device.child("model").and_then(|model| model.attribute("type"))? {
        "none" | "ramfb" => None,
        _ if first => Some(Fit::Primary),
        "bochs" | "virtio" => Some(Fit::Express),
        _ => Some(Fit::Conventional),
    }
}

/// Whether a device is on USB, in the order in which ports are given out.
pub(super) const USB_ORDER: [&str; 5] = ["hostdev", "disk", "input", "sound", "redirdev"];

/// Whether a device is on USB.
pub(super) fn on_usb(device: &Node) -> bool {
    match device.name() {
        "hostdev" => device.attribute("type") == Some("usb"),
        "disk" => super::devices::on(device, "usb"),
        "input" | "redirdev" => device.attribute("bus") == Some("usb"),
        "sound" => device.attribute("model") == Some("usb"),
        _ => false,
    }
}

/// How many are.
pub(super) fn count_usb(devices: &Node) -> usize {
    devices.children().filter(|device| on_usb(device)).count()
}
