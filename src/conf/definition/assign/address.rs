//! Addresses on buses that are not PCI: drives, USB ports, ports of a serial controller.

use super::devices::on;
use super::fit::{USB_ORDER, on_usb};
use crate::conf::definition::node::Node;
use crate::conf::domain::target_place;

/// Gives each device without one its address.
pub(super) fn fill(devices: &mut Node) {
    drives(devices);
    usb(devices);
    serial(devices);
}

/// An `<address>` of that type, where the device has none yet.
fn add<'n>(device: &'n mut Node, kind: &str, values: &[(&str, String)]) -> Option<&'n mut Node> {
    if device.child("address").is_some() {
        return None;
    }
    let address = device.add("address")?;
    address.set("type", kind);
    for (name, value) in values {
        address.set(name, value.clone());
    }
    Some(address)
}

/// A drive's place tells its target's letter. There is one controller of each kind.
fn drives(devices: &mut Node) {
    let place = |disk: &Node| {
        let bus = ["ide", "sata", "scsi"].into_iter().find(|bus| on(disk, bus))?;
        let number = target_place(disk.child("target")?.attribute("dev")?)?;
        let (channel, unit) = match bus {
            "ide" if number < 4 => (number / 2, number % 2),
            "sata" if number < 6 => (0, number),
            "scsi" => (0, number),
            _ => return None,
        };
        Some((bus, channel.to_string(), unit.to_string()))
    };
    let said = |disk: &Node| {
        let address = disk.child("address")?;
        let bus = disk.child("target")?.attribute("bus")?;
        let value = |name| address.attribute(name).unwrap_or("0").to_owned();
        Some((bus.to_owned(), value("bus"), value("unit")))
    };
    let taken: Vec<(String, String, String)> = devices.all("disk").filter_map(said).collect();
    for disk in devices.children_mut().filter(|child| child.name() == "disk") {
        let Some((bus, channel, unit)) = place(disk) else { continue };
        if taken.iter().any(|other| *other == (bus.to_owned(), channel.clone(), unit.clone())) {
            continue;
        }
        let zero = || "0".to_owned();
        let values = [("controller", zero()), ("bus", channel), ("target", zero()), ("unit", unit)];
        add(disk, "drive", &values);
    }
}

/// Ports of the first USB controller.
fn usb(devices: &mut Node) {
    let first = devices.all("controller").find(|one| one.attribute("type") == Some("usb"));
    let most: u8 = match first.and_then(|first| Some((first.attribute("model")?, first.attribute("ports")))) {
        Some(("nec-xhci" | "qemu-xhci", ports)) => ports.and_then(|ports| ports.parse().ok()).unwrap_or(4),
        Some(("ich9-ehci1", _)) => 6,
        Some(("piix3-uhci", _)) => 2,
        _ => 0,
    };
    let port = |device: &Node| Some(device.child("address")?.attribute("port")?.to_owned());
    let hubs = |child: &&Node| on_usb(child) || child.name() == "hub";
    let mut taken: Vec<String> = devices.children().filter(hubs).filter_map(port).collect();
    for kind in USB_ORDER {
        for device in devices.children_mut().filter(|child| child.name() == kind) {
            if !on_usb(device) || device.child("address").is_some() {
                continue;
            }
            let mut ports = (1..=most).map(|port| port.to_string());
            let Some(free) = ports.find(|port| !taken.contains(port)) else { return };
            add(device, "usb", &[("bus", "0".into()), ("port", free.clone())]);
            taken.push(free);
        }
    }
}

/// Ports of the serial controller; 0 is for a console.
fn serial(devices: &mut Node) {
    let virtio = |device: &Node| {
        let target = device.child("target").and_then(|target| target.attribute("type"));
        matches!(device.name(), "channel" | "console") && target == Some("virtio")
    };
    let number = |device: &Node| device.child("address")?.attribute("port")?.parse::<usize>().ok();
    let mut taken: Vec<usize> = devices.children().filter(|d| virtio(d)).filter_map(number).collect();
    let consoles = devices.all("console").filter(|console| virtio(console)).count();
    // Consoles without a number have those from 0.
    taken.extend(0..consoles.max(1));
    for channel in devices.children_mut().filter(|child| child.name() == "channel") {
        if !virtio(channel) || channel.child("address").is_some() {
            continue;
        }
        let Some(free) = (1..).find(|port| !taken.contains(port)) else { return };
        let zero = || "0".to_owned();
        add(channel, "virtio-serial", &[("controller", zero()), ("bus", zero()), ("port", free.to_string())]);
        taken.push(free);
    }
}
