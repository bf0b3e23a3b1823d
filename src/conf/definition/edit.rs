//! Changes to single values of a kept definition, as calls for them make them.

use super::node::Node;
use super::{Definition, Strictness};
use crate::conf::DefinitionError;
use crate::conf::domain::Domain;
use crate::conf::xml::Document;
use crate::conf::xml::walk::At;

impl Definition {
    /// Sets `<currentMemory>`, in bytes.
    pub fn set_current_memory(&mut self, bytes: u64) {
        self.number("currentMemory", bytes / 1024);
    }

    /// Sets `<memory>`, in bytes; what the guest has at its start is never more.
    pub fn set_memory(&mut self, bytes: u64) {
        let kibibytes = bytes / 1024;
        self.number("memory", kibibytes);
        let current = self.root.child("currentMemory").and_then(|node| node.text.trim().parse::<u64>().ok());
        if current.is_none_or(|current| current > kibibytes) {
            self.number("currentMemory", kibibytes);
        }
    }

    /// Writes down how much memory a start gives it and each of its nodes, which is rounded up; without a smaller
    /// `<currentMemory>`, that is all of it.
    pub fn set_memory_of(&mut self, domain: &Domain) {
        let text = |name| self.root.child(name).map(|node| node.text.trim().to_owned());
        let all = text("memory") == text("currentMemory");
        self.number("memory", domain.memory / 1024);
        if all {
            self.number("currentMemory", domain.memory / 1024);
        }
        let numa = self.root.child_mut("cpu").and_then(|cpu| cpu.child_mut("numa"));
        let cells = numa.into_iter().flat_map(Node::children_mut).filter(|child| child.name() == "cell");
        for cell in cells {
            let id = cell.attribute("id").and_then(|id| id.parse::<usize>().ok());
            if let Some(known) = id.and_then(|id| domain.cpu.numa.get(id)) {
                cell.set("memory", (known.memory / 1024).to_string());
                cell.set("unit", "KiB");
            }
        }
    }

    /// Sets how often the guest is asked what its memory is used for, in seconds; 0 is never. `false` where it has no
    /// balloon.
    pub fn set_balloon_period(&mut self, seconds: u32) -> bool {
        let balloon = self.root.ensure("devices").and_then(|devices| devices.ensure("memballoon"));
        let Some(balloon) = balloon.filter(|balloon| balloon.attribute("model") != Some("none")) else {
            return false;
        };
        balloon.fill("model", "virtio");
        if seconds == 0 {
            balloon.remove_children("stats");
        } else if let Some(stats) = balloon.ensure("stats") {
            stats.set("period", seconds.to_string());
        }
        true
    }

    /// Sets what becomes of the domain at `event`: `on_poweroff`, `on_reboot` or `on_crash`.
    pub fn set_action(&mut self, event: &str, action: &str) {
        if let Some(node) = self.root.ensure(event) {
            action.clone_into(&mut node.text);
        }
    }

    /// Sets how many virtual CPUs the guest may have; it has no more of them, and none that it had not.
    pub fn set_vcpus(&mut self, most: u32) {
        let current = self.current_vcpus();
        self.number("vcpu", most.into());
        self.set_current_vcpus(current);
    }

    /// Sets how many of its virtual CPUs the guest has.
    pub fn set_current_vcpus(&mut self, count: u32) {
        let most = self.vcpus();
        let Some(node) = self.root.ensure("vcpu") else { return };
        if count < most {
            node.set("current", count.to_string());
        } else {
            node.remove_attribute("current");
        }
    }

    /// Device and target of each of its disks, in order.
    pub fn disk_targets(&self) -> impl Iterator<Item = (&str, &str)> {
        let disks = self.root.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
        disks.filter_map(|disk| {
            Some((disk.attribute("device").unwrap_or("disk"), disk.child("target")?.attribute("dev")?))
        })
    }

    /// The image of each of its disks that is a file, in order.
    pub fn disk_files(&self) -> impl Iterator<Item = &str> {
        let disks = self.root.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
        disks.filter_map(|disk| disk.child("source")?.attribute("file"))
    }

    /// Whether it has a disk of this target or image.
    #[must_use]
    pub fn has_disk(&self, name: &str) -> bool {
        self.has("disk", |disk| {
            let target = disk.child("target").and_then(|target| target.attribute("dev"));
            let image = disk.child("source").and_then(|source| source.attribute("file"));
            target == Some(name) || image == Some(name)
        })
    }

    /// Whether it has a network interface of this device or address.
    #[must_use]
    pub fn has_interface(&self, name: &str) -> bool {
        self.has("interface", |interface| {
            let device = interface.child("target").and_then(|target| target.attribute("dev"));
            let address = interface.child("mac").and_then(|mac| mac.attribute("address"));
            device == Some(name) || address.is_some_and(|address| address.eq_ignore_ascii_case(name))
        })
    }

    fn has(&self, device: &str, is: impl Fn(&Node) -> bool) -> bool {
        self.root.child("devices").is_some_and(|devices| devices.all(device).any(is))
    }

    /// Takes a disk out, by its target; `false` where there is none.
    pub fn remove_disk(&mut self, target: &str) -> bool {
        let Some(devices) = self.root.child_mut("devices") else { return false };
        let is = |disk: &Node| {
            let dev = disk.child("target").and_then(|node| node.attribute("dev"));
            disk.name() == "disk" && dev == Some(target)
        };
        let found = devices.children().any(is);
        devices.retain(|child| !is(child));
        found
    }

    /// Takes the SCSI controller out; `false` where there is none.
    pub fn remove_scsi_controller(&mut self) -> bool {
        let Some(devices) = self.root.child_mut("devices") else { return false };
        let is = |one: &Node| one.name() == "controller" && one.attribute("type") == Some("scsi");
        let found = devices.children().any(is);
        devices.retain(|child| !is(child));
        found
    }

    /// Takes the medium out of a drive.
    pub fn eject(&mut self, target: &str) {
        let disks = self.root.child_mut("devices").into_iter().flat_map(Node::children_mut);
        for disk in disks.filter(|child| child.name() == "disk") {
            if disk.child("target").and_then(|node| node.attribute("dev")) == Some(target) {
                disk.remove_children("source");
                disk.remove_children("backingStore");
            }
        }
    }

    /// The same with another disk for the one of that target; the address stays where the new one names none.
    pub fn with_disk(&self, target: &str, xml: &str) -> Result<Self, DefinitionError> {
        self.with_disk_keeping(target, xml, |new, old| adopt(new, old, &["address"]))
    }

    /// The same with another medium in the drive of that target. What the client says nothing of stays, as with libvirt,
    /// but for what the medium is: its image, the image's format and the layers below.
    pub fn with_medium(&self, target: &str, xml: &str) -> Result<Self, DefinitionError> {
        self.with_disk_keeping(target, xml, |new, old| {
            adopt(new, old, &DRIVE);
            let Some((new, old)) = new.ensure("driver").zip(old.child("driver")) else { return };
            for (attribute, value) in old.attributes().filter(|(attribute, _)| attribute.name != "type") {
                new.fill(attribute.name, value);
            }
        })
    }

    fn with_disk_keeping(
        &self,
        target: &str,
        xml: &str,
        keep: impl FnOnce(&mut Node, &Node),
    ) -> Result<Self, DefinitionError> {
        let is = |disk: &Node| {
            let dev = disk.child("target").and_then(|node| node.attribute("dev"));
            disk.name() == "disk" && dev == Some(target)
        };
        let mut disks = self.root.child("devices").into_iter().flat_map(|devices| devices.all("disk"));
        let Some((place, before)) = disks.by_ref().enumerate().find(|(_, disk)| is(disk)) else {
            return self.with_device(xml);
        };
        let mut without = self.clone();
        without.remove_disk(target);
        let mut with = without.with_device(xml)?;
        if let Some(devices) = with.root.child_mut("devices") {
            if let Some(new) = devices.children_mut().find(|disk| is(disk)) {
                keep(new, before);
            }
            devices.put_at("disk", is, place);
        }
        Ok(with)
    }

    /// Takes an interface out, by its place among them; `false` where there is none.
    pub fn remove_interface(&mut self, at: usize) -> bool {
        let Some(devices) = self.root.child_mut("devices") else { return false };
        let place = std::cell::Cell::new(0_usize);
        devices.retain(|child| {
            let is_one = child.name() == "interface";
            let here = place.get();
            place.set(here + usize::from(is_one));
            !(is_one && here == at)
        });
        place.get() > at
    }

    /// Gives an interface an address of the network, by its place among them, where it has none.
    pub fn set_interface_mac(&mut self, at: usize, mac: [u8; 6]) {
        if let Some(node) = self.interface_mut(at).filter(|node| node.child("mac").is_none())
            && let Some(node) = node.ensure("mac")
        {
            node.set("address", mac.map(|byte| format!("{byte:02x}")).join(":"));
        }
    }

    /// Gives an interface a place in the machine, where it has none.
    pub fn set_interface_place(&mut self, at: usize, bus: u8, slot: u8) {
        if let Some(node) = self.interface_mut(at).filter(|node| node.child("address").is_none())
            && let Some(node) = node.ensure("address")
        {
            node.set("type", "pci");
            node.set("domain", "0x0000");
            node.set("bus", format!("{bus:#04x}"));
            node.set("slot", format!("{slot:#04x}"));
            node.set("function", "0x0");
        }
    }

    /// Puts the cable of an interface in, or takes it out, by its place among them.
    pub fn set_interface_link(&mut self, at: usize, up: bool) {
        if let Some(node) = self.interface_mut(at).and_then(|node| node.ensure("link")) {
            node.set("state", if up { "up" } else { "down" });
        }
    }

    /// The same with another interface at a place among them; place in the machine and address of the network stay where
    /// the new one names none.
    pub fn with_interface(&self, at: usize, xml: &str) -> Result<Self, DefinitionError> {
        let mut new = self.clone();
        while new.remove_interface(0) {}
        let mut new = new.with_device(xml)?;
        let mut with = self.clone();
        if let (Some(old), Some(new)) = (with.interface_mut(at), new.interface_mut(0)) {
            for kept in ["mac", "address"] {
                if let Some(kept) = old.child(kept).filter(|_| new.child(kept).is_none()) {
                    new.adopt(kept);
                }
            }
            *old = new.clone();
        }
        Ok(with)
    }

    fn interface_mut(&mut self, at: usize) -> Option<&mut Node> {
        let devices = self.root.child_mut("devices")?;
        devices.children_mut().filter(|child| child.name() == "interface").nth(at)
    }

    /// The same with one more device, which is given as libvirt's clients give it: an element of its own.
    pub fn with_device(&self, xml: &str) -> Result<Self, DefinitionError> {
        Self::with_device_in(&self.format(super::View { secure: true, migratable: false }), xml)
    }

    /// The same of a definition whose text this is, as it is kept.
    pub fn with_device_in(text: &str, xml: &str) -> Result<Self, DefinitionError> {
        let element = Self::device(xml)?;
        let text = match text.rfind("</devices>").map(|at| text.split_at(at)) {
            Some((before, after)) => format!("{before}{element}\n{after}"),
            None => text.to_owned(),
        };
        Self::parse(text.as_bytes(), Strictness::Lenient).map(|(tree, _)| tree)
    }

    /// The one element that a client's document is, without what stands around it: where it is put into another
    /// document, nothing else comes with it.
    pub fn device(xml: &str) -> Result<&str, DefinitionError> {
        Document::parse(xml.as_bytes())?;
        Ok(without_epilog(without_prolog(xml)))
    }

    /// The target of a client's disk, where its XML is one of a disk and names any: nothing else need stand there to say which
    /// is meant.
    pub fn named_disk(xml: &str) -> Result<Option<String>, DefinitionError> {
        let document = Document::parse(xml.as_bytes())?;
        let disk =
            Some(At::root(&document)).filter(|root| root.name() == "disk" && root.namespace().is_none());
        Ok(disk.and_then(|disk| disk.one("target")?.attribute("dev")).map(str::to_owned))
    }

    /// What stands in that element of `<domain>`, where it has any text; sizes in libvirt's unit of that element.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        Some(self.root.child(name)?.text.trim()).filter(|text| !text.is_empty())
    }

    fn number(&mut self, name: &str, value: u64) {
        if let Some(node) = self.root.ensure(name) {
            node.text = value.to_string();
        }
    }
}

/// What a drive has whatever medium is in it.
const DRIVE: [&str; 10] =
    ["address", "blockio", "boot", "geometry", "iotune", "product", "serial", "shareable", "vendor", "wwn"];

/// Takes over those children of another element that this one has none of.
fn adopt(new: &mut Node, old: &Node, names: &[&str]) {
    for kept in names.iter().filter_map(|name| old.child(name)) {
        if new.child(kept.name()).is_none() {
            new.adopt(kept);
        }
    }
}

/// Comments and instructions, which are all that a well-formed document has around its element.
const AROUND: [(&str, &str); 2] = [("<!--", "-->"), ("<?", "?>")];

fn without_prolog(text: &str) -> &str {
    let mut text = text.trim_start_matches('\u{feff}').trim_start();
    let after = |text: &'_ str| {
        let (_, end) = AROUND.iter().find(|(begin, _)| text.starts_with(begin))?;
        text.find(end).map(|at| at + end.len())
    };
    while let Some(rest) = after(text).and_then(|at| text.get(at..)) {
        text = rest.trim_start();
    }
    text
}

fn without_epilog(text: &str) -> &str {
    let mut text = text.trim_end();
    let before = |text: &'_ str| {
        let (begin, _) = AROUND.iter().find(|(_, end)| text.ends_with(end))?;
        text.rfind(begin)
    };
    while let Some(rest) = before(text).and_then(|at| text.get(..at)) {
        text = rest.trim_end();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn virtual_cpus_are_had_up_to_what_may_be_had() {
        let xml = "<domain type='qemu'><name>a</name><memory>1024</memory><vcpu>1</vcpu><os><type>hvm</type></os></domain>";
        let (mut one, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        let counts = |one: &Definition| (one.current_vcpus(), one.vcpus());
        one.set_vcpus(4);
        assert_eq!(counts(&one), (1, 4));
        one.set_current_vcpus(3);
        assert_eq!(counts(&one), (3, 4));
        one.set_vcpus(2);
        assert_eq!(counts(&one), (2, 2));
        one.set_vcpus(2);
        assert_eq!((one.domain().unwrap().vcpus, one.domain().unwrap().current_vcpus), (2, None));
    }

    fn with_disks(disks: &[(&str, &str)]) -> Definition {
        let disk = |(target, more): &(&str, &str)| {
            format!(
                "<disk type='file' device='{}'>{more}<source file='/{target}'/><target dev='{target}'/></disk>",
                if target.starts_with("hd") { "cdrom" } else { "disk" }
            )
        };
        let disks: String = disks.iter().map(disk).collect();
        let xml = format!(
            "<domain type='qemu'><name>a</name><memory>1024</memory><os><type>hvm</type></os><devices>{disks}</devices></domain>"
        );
        Definition::parse(xml.as_bytes(), Strictness::Lenient).unwrap().0
    }

    fn targets(one: &Definition) -> Vec<&str> {
        one.disk_targets().map(|(_, target)| target).collect()
    }

    #[test]
    fn the_disks_of_a_bus_stand_in_the_order_of_their_targets() {
        let mut one =
            with_disks(&[("vdb", ""), ("sdc", ""), ("vda", ""), ("hdc", ""), ("sdb", ""), ("vdaa", "")]);
        assert_eq!(targets(&one), ["vda", "vdb", "vdaa", "sdb", "sdc", "hdc"]);
        assert_eq!(targets(&with_disks(&[("vdb", ""), ("sda", "")])), ["sda", "vdb"]);
        for target in ["vdc", "sda", "nvme0n1"] {
            let disk = format!("<disk type='file'><source file='/x'/><target dev='{target}'/></disk>");
            one = one.with_device(&disk).unwrap();
        }
        assert_eq!(targets(&one), ["vda", "vdb", "vdc", "vdaa", "sda", "sdb", "sdc", "hdc", "nvme0n1"]);
    }

    #[test]
    fn a_medium_changes_nothing_of_its_drive_and_another_disk_all_but_its_place() {
        let drive = "<driver name='qemu' type='qcow2' cache='none' io='threads'/><serial>s</serial>";
        let one = with_disks(&[("hda", drive), ("vda", ""), ("sda", "")]);
        let new = "<disk type='file' device='cdrom'><source file='/new'/><target dev='hda'/></disk>";
        let medium = one.with_medium("hda", new).unwrap();
        assert_eq!(targets(&medium), ["hda", "vda", "sda"]);
        let text = medium.format(super::super::View { secure: true, migratable: false });
        assert!(text.contains("<driver name='qemu' type='raw' cache='none' io='threads'/>"), "{text}");
        assert!(text.contains("<serial>s</serial>") && text.contains("<source file='/new'/>"), "{text}");
        let other = one.with_disk("hda", new).unwrap();
        assert_eq!(targets(&other), ["hda", "vda", "sda"]);
        let text = other.format(super::super::View { secure: true, migratable: false });
        assert!(!text.contains("cache='none'") && !text.contains("<serial>"), "{text}");
        let cached = new.replace("<source", "<driver cache='unsafe'/><source");
        let text = one.with_medium("hda", &cached).unwrap().format(super::super::View::default());
        assert!(text.contains("cache='unsafe'"), "{text}");
    }

    #[test]
    fn a_device_brings_nothing_with_it() {
        let disk = "<disk type='file'><!-- in --><target dev='vda'/></disk>";
        for (before, after) in [
            ("", ""),
            ("<?xml version='1.0'?>\n", "\n"),
            ("\n<!-- <disk></devices><seclabel type='none'/><devices> -->", "<!-- </disk> --> <?x <!-- ?>"),
            ("<?x <disk ?><!-- --> ", ""),
        ] {
            assert_eq!(Definition::device(&format!("{before}{disk}{after}")).unwrap(), disk);
        }
        for text in ["<disk/></devices><devices>", "<disk/><disk/>", "", "<!DOCTYPE a><a/>", "<disk>"] {
            assert!(Definition::device(text).is_err(), "{text}");
        }
    }
}
