//! Devices that a machine has without being asked, and what their elements say.

use super::Board;
use super::fit::count_usb;
use crate::base::DomainUuid;
use crate::conf::definition::node::Node;
use crate::conf::network::{mac, text as mac_text};

/// QEMU's number of ports where none is said, and the most.
const XHCI_PORTS: (usize, &str) = (4, "15");
/// The ports of a PIIX3.
const PIIX3_PORTS: usize = 2;

/// Adds the controllers that devices need and those of every board, and fills in the models of devices.
pub(super) fn add(devices: &mut Node, board: Board) {
    usb(devices, board);
    let uses = |devices: &Node, bus: &str| devices.all("disk").any(|disk| on(disk, bus));
    let (ide, scsi, floppy) = (uses(devices, "ide"), uses(devices, "scsi"), uses(devices, "fdc"));
    if board == Board::Q35 {
        controller(devices, "sata", None);
    }
    controller(devices, "pci", Some(if board == Board::Q35 { "pcie-root" } else { "pci-root" }));
    if ide && board == Board::I440fx {
        controller(devices, "ide", None);
    }
    if floppy {
        controller(devices, "fdc", None);
    }
    if uses(devices, "sata") {
        controller(devices, "sata", None);
    }
    if scsi {
        controller(devices, "scsi", Some("virtio-scsi"));
    }
    let port = |child: &Node| child.child("target").is_some_and(|t| t.attribute("type") == Some("virtio"));
    if devices.all("channel").chain(devices.all("console")).any(port) {
        controller(devices, "virtio-serial", None);
    }
    for one in devices.children_mut().filter(|child| child.name() == "controller") {
        // The only kind that runs; libvirt takes an LSI 53C895A.
        if one.attribute("type") == Some("scsi") {
            one.fill("model", "virtio-scsi");
        }
    }
    for serial in devices.children_mut().filter(|child| child.name() == "serial") {
        if let Some(target) = serial.child_mut("target")
            && target.attribute("type") == Some("isa-serial")
            && let Some(model) = target.ensure("model")
        {
            model.fill("name", "isa-serial");
        }
    }
    audio(devices);
    videos(devices);
}

/// Whether a disk is on a bus.
pub(super) fn on(disk: &Node, bus: &str) -> bool {
    disk.child("target").is_some_and(|target| target.attribute("bus") == Some(bus))
}

/// The first controller of its type, where there is none.
fn controller(devices: &mut Node, kind: &str, model: Option<&str>) {
    let there = |child: &Node| {
        child.attribute("type") == Some(kind) && child.attribute("index").is_none_or(|index| index == "0")
    };
    if devices.all("controller").any(there) {
        return;
    }
    let Some(new) = devices.add("controller") else { return };
    new.set("type", kind);
    new.set("index", "0");
    if let Some(model) = model {
        new.set("model", model);
    }
}

/// A USB controller, with ports for all that is on it. libvirt adds hubs where a controller has too few.
fn usb(devices: &mut Node, board: Board) {
    let wanted = count_usb(devices);
    controller(devices, "usb", None);
    let first = devices
        .children_mut()
        .find(|child| child.name() == "controller" && child.attribute("type") == Some("usb"));
    let Some(first) = first.filter(|first| first.attribute("model").is_none()) else { return };
    if board == Board::I440fx && wanted <= PIIX3_PORTS && first.attribute("ports").is_none() {
        first.set("model", "piix3-uhci");
        return;
    }
    first.set("model", "qemu-xhci");
    if wanted > XHCI_PORTS.0 {
        first.fill("ports", XHCI_PORTS.1);
    }
}

/// Where sound goes: to a SPICE client, or nowhere.
fn audio(devices: &mut Node) {
    if devices.child("audio").is_some() {
        return;
    }
    let spice = devices.all("graphics").any(|graphics| graphics.attribute("type") == Some("spice"));
    if let Some(audio) = devices.add("audio") {
        audio.set("id", "1");
        audio.set("type", if spice { "spice" } else { "none" });
    }
}

/// The sizes of video memory, in KiB.
fn videos(devices: &mut Node) {
    for video in devices.children_mut().filter(|child| child.name() == "video") {
        let Some(model) = video.child_mut("model") else { continue };
        match model.attribute("type") {
            Some("qxl") => {
                for (name, size) in [("ram", "65536"), ("vram", "65536"), ("vgamem", "16384")] {
                    model.fill(name, size);
                }
            }
            Some("bochs" | "cirrus" | "vga") => model.fill("vram", "16384"),
            _ => {}
        }
    }
}

/// An address for each network card without one: made from the domain's uuid and the card's place, and no other card's.
pub(super) fn network_addresses(devices: &mut Node, uuid: DomainUuid) {
    let address = |node: &Node| Some(node.child("mac")?.attribute("address")?.to_owned());
    let mut taken: Vec<String> = devices.all("interface").filter_map(address).collect();
    let cards = devices.children_mut().filter(|child| child.name() == "interface");
    for (index, card) in cards.enumerate() {
        if card.child("mac").is_some() {
            continue;
        }
        let drawn = (index..).step_by(1024).map(|index| mac_text(mac(uuid, index)));
        let Some(free) = drawn.take(1024).find(|text| !taken.contains(text)) else { continue };
        if let Some(node) = card.ensure("mac") {
            node.set("address", free.clone());
        }
        taken.push(free);
    }
}
