//! The rules between elements, which no table can hold.

use std::collections::BTreeMap;

use super::labels::Place;
use super::node::Node;
use crate::base::{DomainName, DomainUuid};
use crate::conf::{DefinitionError, DefinitionErrorKind};

type Checked = Result<(), DefinitionError>;

/// Checks a definition with its defaults.
pub(super) fn check(root: &Node) -> Checked {
    memory(root)?;
    processors(root)?;
    let Some(devices) = root.child("devices") else { return Ok(()) };
    boot(root, devices)?;
    targets(devices)?;
    aliases(devices)?;
    controllers(devices)?;
    addresses(devices)
}

/// The name, by the rules of [`DomainName`].
pub(super) fn name(root: &Node) -> Result<DomainName, DefinitionError> {
    let node = root.child("name");
    let place = Place { line: node.map_or(root.line, |node| node.line), path: "/domain/name".into() };
    let text = node.map(|node| node.text.as_str()).unwrap_or_default();
    if text.trim().is_empty() {
        let kind = DefinitionErrorKind::Missing("text of <name>".into());
        return Err(place.error(kind, "give the domain a name"));
    }
    DomainName::new(text).map_err(|_| {
        let expected = DomainName::RULE.into();
        let value = crate::conf::error::clip(text);
        let kind = DefinitionErrorKind::Value { what: "<name>".into(), value, expected };
        place.error(kind, "use letters, digits and hyphens")
    })
}

/// The uuid.
pub(super) fn uuid(root: &Node) -> Option<DomainUuid> {
    uuid::Uuid::parse_str(&root.child("uuid")?.text).ok().map(DomainUuid)
}

fn place(node: &Node, path: &str) -> Place {
    Place { line: node.line, path: path.to_owned() }
}

fn memory(root: &Node) -> Checked {
    let Some(memory) = root.child("memory") else {
        let kind = DefinitionErrorKind::Missing("<memory> of <domain>".into());
        return Err(place(root, "/domain").error(kind, "say how much the guest has"));
    };
    if memory.text == "0" {
        let kind = DefinitionErrorKind::Value {
            what: "<memory>".into(),
            value: "0".into(),
            expected: "more than nothing".into(),
        };
        return Err(place(memory, "/domain/memory").error(kind, "give it at least 1 KiB"));
    }
    let number = |node: &Node| node.text.parse::<u64>().unwrap_or(0);
    if let Some(most) = root.child("maxMemory")
        && number(most) < number(memory)
    {
        return Err(place(most, "/domain/maxMemory")
            .contradiction("<maxMemory> is less than <memory>", "make it at least <memory>"));
    }
    Ok(())
}

fn processors(root: &Node) -> Checked {
    let Some(vcpu) = root.child("vcpu") else { return Ok(()) };
    let most = vcpu.text.parse::<u64>().unwrap_or(1);
    let current = vcpu.attribute("current").and_then(|text| text.parse::<u64>().ok());
    if current.is_some_and(|current| current > most) {
        let what = "attribute current of <vcpu> is more than <vcpu>";
        return Err(place(vcpu, "/domain/vcpu").contradiction(what, "make it at most <vcpu>"));
    }
    let Some(topology) = root.at(&["cpu", "topology"]) else { return Ok(()) };
    let part = |name| topology.attribute(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
    let product = ["sockets", "dies", "clusters", "cores", "threads"]
        .into_iter()
        .try_fold(1_u64, |product, name| product.checked_mul(part(name)));
    if product != Some(most) {
        let what = format!("the <topology> does not make {most} processors, as <vcpu> says");
        return Err(place(topology, "/domain/cpu/topology").contradiction(what, "make the product <vcpu>"));
    }
    Ok(())
}

/// Reports what stands a second time.
fn unique<K: Ord>(
    seen: &mut BTreeMap<K, u32>,
    key: K,
    what: impl FnOnce() -> String,
    node: &Node,
    path: &str,
) -> Checked {
    let Some(first) = seen.insert(key, node.line) else { return Ok(()) };
    let kind = DefinitionErrorKind::Duplicate { what: what(), first };
    Err(place(node, path).error(kind, "remove one of the two, or give it a value of its own"))
}

fn boot(root: &Node, devices: &Node) -> Checked {
    let mut seen = BTreeMap::new();
    for device in devices.children() {
        let Some(boot) = device.child("boot") else { continue };
        let order = boot.attribute("order").unwrap_or_default().to_owned();
        let path = format!("/domain/devices/{}/boot", device.name());
        unique(&mut seen, order.clone(), || format!("boot order {order}"), boot, &path)?;
    }
    if seen.is_empty() {
        return Ok(());
    }
    match root.at(&["os", "boot"]) {
        Some(boot) => Err(place(boot, "/domain/os/boot").contradiction(
            "the <boot dev> of <os> and the <boot order> of a device exclude each other",
            "remove one of the two kinds",
        )),
        None => Ok(()),
    }
}

fn targets(devices: &Node) -> Checked {
    let mut seen = BTreeMap::new();
    for disk in devices.all("disk") {
        let removable = matches!(disk.attribute("device"), Some("cdrom" | "floppy"));
        if !removable && disk.child("source").is_none() {
            let kind = DefinitionErrorKind::Missing("<source> of <disk>".into());
            return Err(place(disk, "/domain/devices/disk")
                .error(kind, "add <source>; only cdroms and floppies go without"));
        }
        let Some(target) = disk.child("target") else { continue };
        let name = target.attribute("dev").unwrap_or_default();
        unique(&mut seen, name, || format!("target {name}"), target, "/domain/devices/disk/target")?;
    }
    let mut seen = BTreeMap::new();
    for filesystem in devices.all("filesystem") {
        let Some(target) = filesystem.child("target") else { continue };
        let name = target.attribute("dir").unwrap_or_default();
        unique(&mut seen, name, || format!("target {name}"), target, "/domain/devices/filesystem/target")?;
    }
    Ok(())
}

fn aliases(devices: &Node) -> Checked {
    let mut seen = BTreeMap::new();
    for device in devices.children() {
        let Some(alias) = device.child("alias") else { continue };
        let name = alias.attribute("name").unwrap_or_default();
        let path = format!("/domain/devices/{}/alias", device.name());
        unique(&mut seen, name, || format!("alias {name}"), alias, &path)?;
    }
    Ok(())
}

fn controllers(devices: &Node) -> Checked {
    let mut seen = BTreeMap::new();
    for controller in devices.all("controller") {
        let kind = controller.attribute("type").unwrap_or_default();
        let index = controller.attribute("index").unwrap_or_default();
        // The companions of a USB 2 controller share its index.
        let model = controller.attribute("model").unwrap_or_default();
        let companion = controller.child("master").is_some() || model.starts_with("ich9-uhci");
        if companion {
            continue;
        }
        let what = || format!("controller {kind} {index}");
        unique(&mut seen, (kind, index), what, controller, "/domain/devices/controller")?;
    }
    Ok(())
}

/// One device a place. A drive's place counts for one kind of controller.
fn addresses(devices: &Node) -> Checked {
    let mut seen = BTreeMap::new();
    for device in devices.children() {
        let Some(address) = device.child("address") else { continue };
        let kind = address.attribute("type").unwrap_or_default();
        if !matches!(kind, "pci" | "drive" | "virtio-serial" | "usb" | "ccid" | "dimm") {
            continue;
        }
        let target = device.child("target").filter(|_| kind == "drive");
        let bus = target.and_then(|target| target.attribute("bus")).unwrap_or_default();
        let values: Vec<(&str, &str)> = address
            .attributes()
            .filter(|(attribute, _)| attribute.name != "multifunction" && attribute.name != "device")
            .map(|(attribute, value)| (attribute.name, value))
            .collect();
        // Without a port or a base the place is still to be found; so it is where all of it is 0, the host bridge's.
        let complete = match kind {
            "pci" => ["domain", "bus", "slot", "function"].into_iter().any(|part| {
                address.attribute(part).is_some_and(|value| value.bytes().any(|byte| !b"0x".contains(&byte)))
            }),
            "virtio-serial" | "usb" => address.attribute("port").is_some(),
            "dimm" => address.attribute("slot").is_some(),
            _ => true,
        };
        if !complete {
            continue;
        }
        let text: Vec<String> = values.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let path = format!("/domain/devices/{}/address", device.name());
        unique(&mut seen, (bus, values), || format!("address {}", text.join(" ")), address, &path)?;
    }
    Ok(())
}
