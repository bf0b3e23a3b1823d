//! What a running domain has beside its definition: its number, aliases, labels, terminals.

use std::net::SocketAddr;

use super::View;
use super::grammar::NVRAM;
use super::node::Node;

/// What was made for a running domain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The number that clients know it by, from 1.
    pub id: u32,
    /// Its labels, in the order of the host's models.
    pub labels: Vec<RunningLabel>,
    /// The terminal of each console, by alias, such as `serial0`.
    pub terminals: Vec<(String, String)>,
    /// What was made or chosen for it, by the plan's name: where displays listen (`vnc:0`, `spice`), the tap devices of
    /// network cards (`net0`), the number of a vsock (`vsock0`, such as `cid 7`), the files of UEFI firmware (`loader`,
    /// `secure-loader`, `nvram`, `nvram-template`).
    pub listening: Vec<(String, String)>,
    /// The alias of each disk by its target, where it is no plain number.
    pub disks: Vec<(String, String)>,
    /// The alias of each interface in order, where they are not numbered from 0.
    pub interfaces: Vec<String>,
}

/// A label that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningLabel {
    /// `selinux`, `apparmor`, `dac`.
    pub model: String,
    /// The label of the processes.
    pub label: String,
    /// The label of the images; none where nothing is relabelled.
    pub imagelabel: Option<String>,
}

/// Adds it to a copy of the definition.
pub(super) fn fill(root: &mut Node, running: &Running, view: View) {
    root.set("id", running.id.to_string());
    for label in &running.labels {
        self::label(root, label, view);
    }
    if let Some(os) = root.child_mut("os") {
        firmware(os, running);
    }
    if let Some(devices) = root.child_mut("devices") {
        aliases(devices, running);
        made(devices, running);
    }
}

impl Running {
    fn of(&self, slot: &str) -> Option<&str> {
        self.listening.iter().find(|(name, _)| name == slot).map(|(_, text)| text.as_str())
    }
}

/// The firmware that was chosen, in the place of what was asked for.
fn firmware(os: &mut Node, running: &Running) {
    let secure = running.of("secure-loader");
    let Some((loader, nvram)) = secure.or_else(|| running.of("loader")).zip(running.of("nvram")) else {
        return;
    };
    os.remove_attribute("firmware");
    os.remove_children("firmware");
    if let Some(node) = os.ensure("loader") {
        node.set("readonly", "yes");
        node.set("type", "pflash");
        if secure.is_some() {
            node.set("secure", "yes");
        }
        node.text = loader.to_owned();
    }
    if os.child("nvram").is_none() {
        os.adopt(&Node::new(&NVRAM, os.line));
    }
    if let Some(node) = os.child_mut("nvram").filter(|node| std::ptr::eq(node.grammar, &raw const NVRAM)) {
        if let Some(template) = running.of("nvram-template") {
            node.set("template", template);
        }
        node.text = nvram.to_owned();
    }
}

/// What the host gave its devices.
fn made(devices: &mut Node, running: &Running) {
    let (mut vncs, mut cards) = (0_u32.., 0_u32..);
    for device in devices.children_mut() {
        match device.name() {
            "graphics" if device.attribute("type") == Some("spice") => display(device, running.of("spice")),
            "graphics" => display(device, running.of(&format!("vnc:{}", vncs.next().unwrap_or_default()))),
            "interface" => {
                let at = cards.next().unwrap_or_default();
                let alias = interface(device, at, running).unwrap_or_else(|| format!("net{at}"));
                if let Some(name) = running.of(&alias)
                    && let Some(target) = device.ensure("target")
                {
                    target.set("dev", name);
                }
            }
            // The format is the medium's.
            "disk" if device.child("source").is_none() => {
                if let Some(driver) = device.child_mut("driver") {
                    driver.remove_attribute("type");
                }
            }
            "vsock" => {
                if let Some(number) = running.of("vsock0").and_then(|text| text.strip_prefix("cid "))
                    && let Some(cid) = device.ensure("cid")
                {
                    cid.set("address", number);
                }
            }
            _ => {}
        }
    }
}

/// Where a display listens; one on a socket says so already.
fn display(device: &mut Node, at: Option<&str>) {
    let Some(at) = at.and_then(|text| text.parse::<SocketAddr>().ok()) else { return };
    device.set("port", at.port().to_string());
    device.set("listen", at.ip().to_string());
    if let Some(listen) = device.child_mut("listen") {
        listen.set("address", at.ip().to_string());
    }
}

/// Into the definition's own `<seclabel>` of that model, or into a new one.
fn label(root: &mut Node, running: &RunningLabel, view: View) {
    let model = running.model.as_str();
    let position = root.all("seclabel").position(|label| label.attribute("model").is_none_or(|m| m == model));
    if position.is_none()
        && !(view.migratable && matches!(model, "dac" | "none"))
        && let Some(new) = root.add("seclabel")
    {
        new.set("type", "dynamic");
        new.set("model", model);
        new.set("relabel", "yes");
    }
    let found = root.children_mut().filter(|child| child.name() == "seclabel");
    let found = found.filter(|label| label.attribute("model").is_none_or(|m| m == model)).last();
    let Some(node) = found else { return };
    if node.attribute("type") == Some("none") {
        return;
    }
    node.set("model", model);
    if let Some(text) = node.ensure("label") {
        text.text.clone_from(&running.label);
    }
    if let Some(image) = &running.imagelabel
        && let Some(text) = node.ensure("imagelabel")
    {
        text.text.clone_from(image);
    }
}

/// The word that libvirt's alias of such a device begins with.
fn stem(device: &Node) -> Option<String> {
    let own = |name: &str| device.attribute(name).unwrap_or_default().to_owned();
    Some(match device.name() {
        "channel" => "channel".into(),
        "console" => "console".into(),
        "controller" => return None,
        "disk" => {
            let bus = device.child("target").and_then(|target| target.attribute("bus")).unwrap_or("virtio");
            format!("{bus}-disk")
        }
        "filesystem" => "fs".into(),
        "hostdev" => "hostdev".into(),
        "hub" => "hub".into(),
        "input" => "input".into(),
        "interface" => "net".into(),
        "iommu" => "iommu".into(),
        "memballoon" => "balloon".into(),
        "memory" => own("model").replace('-', ""),
        "parallel" => "parallel".into(),
        "redirdev" => "redir".into(),
        "rng" => "rng".into(),
        "serial" => "serial".into(),
        "shmem" => "shmem".into(),
        "smartcard" => "smartcard".into(),
        "sound" => "sound".into(),
        "tpm" => "tpm".into(),
        "video" => "video".into(),
        "vsock" => "vsock".into(),
        "watchdog" => "watchdog".into(),
        "crypto" => "crypto".into(),
        _ => return None,
    })
}

/// A disk's alias tells its place on the bus.
fn disk(device: &Node, running: &Running) -> Option<String> {
    let target = device.child("target").filter(|_| device.name() == "disk")?.attribute("dev")?;
    running.disks.iter().find(|(name, _)| name == target).map(|(_, alias)| alias.clone())
}

/// A controller's alias tells its type and index; those of the chip set have names of their own.
fn controller(device: &Node, express: bool) -> Option<String> {
    let (kind, index) = (device.attribute("type")?, device.attribute("index")?);
    Some(match (kind, index) {
        ("pci", "0") if express => "pcie.0".into(),
        ("pci", _) => format!("pci.{index}"),
        ("usb" | "ide", "0") => kind.into(),
        ("sata", "0") if express => "ide".into(),
        _ => format!("{kind}{index}"),
    })
}

/// An interface's alias is its own as long as it is there.
fn interface(device: &Node, at: u32, running: &Running) -> Option<String> {
    let at = usize::try_from(at).ok().filter(|_| device.name() == "interface")?;
    running.interfaces.get(at).cloned()
}

fn aliases(devices: &mut Node, running: &Running) {
    let express = devices.all("controller").any(|one| one.attribute("model") == Some("pcie-root"));
    for device in devices.children_mut().filter(|child| child.name() == "controller") {
        if device.child("alias").is_none()
            && let Some(alias) = controller(device, express)
            && let Some(node) = device.add("alias")
        {
            node.set("name", alias);
        }
    }
    let mut counts: std::collections::BTreeMap<String, u32> = std::collections::BTreeMap::new();
    for device in devices.children_mut() {
        let Some(stem) = stem(device) else { continue };
        let count = counts.entry(stem.clone()).or_default();
        let interface = || interface(device, *count, running);
        let alias = disk(device, running).or_else(interface).unwrap_or_else(|| format!("{stem}{count}"));
        *count = count.saturating_add(1);
        // The first console is the first serial port.
        let serial = device.name() == "console"
            && device.child("target").is_some_and(|target| target.attribute("type") == Some("serial"));
        let alias = if serial { alias.replace("console", "serial") } else { alias };
        if device.child("alias").is_none()
            && let Some(node) = device.add("alias")
        {
            node.set("name", alias.clone());
        }
        if let Some((_, path)) = running.terminals.iter().find(|(name, _)| *name == alias) {
            if device.name() == "console" {
                device.set("tty", path.clone());
            }
            if let Some(source) = device.ensure("source") {
                source.set("path", path.clone());
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::{Definition, Strictness};

    #[test]
    fn firmware_that_was_chosen_is_shown_in_the_place_of_what_was_asked_for() {
        let of = |os: &str, slots: &[(&str, &str)]| {
            let text = format!(
                "<domain type='qemu'><name>a</name><memory>1024</memory><os{os}<type machine='q35'>hvm</type></os></domain>"
            );
            let (tree, _) = Definition::parse(text.as_bytes(), Strictness::Strict).unwrap();
            let slots = slots.iter().map(|(slot, path)| ((*slot).to_owned(), (*path).to_owned()));
            let running = Running { id: 1, listening: slots.collect(), ..Running::default() };
            let shown = tree.format_running(&running, View::default());
            let lines = shown.lines().map(str::trim).skip_while(|line| !line.starts_with("<os"));
            let lines = lines.filter(|line| !line.contains("hvm") && !line.contains("<boot"));
            lines.take_while(|line| *line != "</os>").collect::<String>()
        };
        let chosen = [("secure-loader", "/code.ms"), ("nvram", "/n/a.fd"), ("nvram-template", "/vars.ms")];
        let features = "<firmware><feature enabled='yes' name='secure-boot'/></firmware>";
        assert_eq!(
            of(&format!(" firmware='efi'>{features}"), &chosen),
            "<os><loader readonly='yes' secure='yes' type='pflash'>/code.ms</loader><nvram template='/vars.ms'>/n/a.fd</nvram>"
        );
        let chosen = [("loader", "/code"), ("nvram", "/n/a.fd"), ("nvram-template", "/vars")];
        assert_eq!(
            of("><loader readonly='yes' type='pflash'>/code</loader><nvram template='/vars'/>", &chosen),
            "<os><loader readonly='yes' type='pflash'>/code</loader><nvram template='/vars'>/n/a.fd</nvram>"
        );
        let file = "<nvram type='file'><source file='/n/a.fd'/></nvram>";
        assert_eq!(
            of(&format!("><loader readonly='yes' type='pflash'>/code</loader>{file}"), &chosen),
            "<os><loader readonly='yes' type='pflash'>/code</loader><nvram type='file'><source file='/n/a.fd'/></nvram>"
        );
        assert_eq!(of(">", &[]), "<os>");
    }
}
