//! Which of the host's CPUs a definition lets run what, and which of its NUMA nodes give memory.

use std::collections::BTreeMap;

use super::Definition;
use crate::privsep::placement::{Pins, list};

impl Definition {
    /// How many virtual CPUs the guest has of those that it may have.
    #[must_use]
    pub fn current_vcpus(&self) -> u32 {
        let current = self.root.child("vcpu").and_then(|vcpu| vcpu.attribute("current")?.trim().parse().ok());
        current.unwrap_or_else(|| self.vcpus())
    }

    /// How many virtual CPUs the guest may have.
    #[must_use]
    pub fn vcpus(&self) -> u32 {
        self.root.child("vcpu").and_then(|vcpu| vcpu.text.trim().parse().ok()).unwrap_or(1)
    }

    /// The host's CPUs, below `count`, that may run a virtual CPU; all where the definition says nothing.
    #[must_use]
    pub fn vcpu_pins(&self, vcpu: u32, count: u32) -> Vec<u32> {
        let pins = self.root.child("cputune").into_iter().flat_map(|tune| tune.all("vcpupin"));
        let own = pins
            .filter(|pin| pin.attribute("vcpu").and_then(|text| text.trim().parse().ok()) == Some(vcpu))
            .find_map(|pin| pin.attribute("cpuset"));
        self.pins(own, count)
    }

    /// The host's CPUs, below `count`, that may run the rest of the device model.
    #[must_use]
    pub fn emulator_pins(&self, count: u32) -> Vec<u32> {
        self.pins(self.root.at(&["cputune", "emulatorpin"]).and_then(|pin| pin.attribute("cpuset")), count)
    }

    /// Has the rest of the device model run on these CPUs.
    pub fn set_emulator_pin(&mut self, cpus: &str) {
        let tune = self.root.ensure("cputune");
        if let Some(pin) = tune.and_then(|tune| tune.ensure("emulatorpin")) {
            pin.set("cpuset", cpus);
        }
    }

    /// Has a virtual CPU run on these CPUs.
    pub fn set_vcpu_pin(&mut self, vcpu: u32, cpus: &str) {
        let mut pins = self.own_pins();
        pins.insert(vcpu, cpus.to_owned());
        self.set_own_pins(&pins);
    }

    /// Sets all pins of single threads, and takes out those that are none.
    pub fn set_pins(&mut self, pins: &Pins) {
        let own = pins.vcpus.iter().map(|(vcpu, cpus)| (*vcpu, list(cpus))).collect();
        self.set_own_pins(&own);
        match &pins.emulator {
            Some(cpus) => self.set_emulator_pin(&list(cpus)),
            None => self.root.child_mut("cputune").into_iter().for_each(|t| t.remove_children("emulatorpin")),
        }
        if self.root.child("cputune").is_some_and(|tune| tune.children().next().is_none()) {
            self.root.remove_children("cputune");
        }
    }

    fn own_pins(&self) -> BTreeMap<u32, String> {
        let pins = self.root.child("cputune").into_iter().flat_map(|tune| tune.all("vcpupin"));
        let own = |pin: &super::node::Node| {
            Some((pin.attribute("vcpu")?.trim().parse().ok()?, pin.attribute("cpuset")?.to_owned()))
        };
        pins.filter_map(own).collect()
    }

    /// In the order of their numbers.
    fn set_own_pins(&mut self, pins: &BTreeMap<u32, String>) {
        let Some(tune) = self.root.ensure("cputune") else { return };
        tune.remove_children("vcpupin");
        for (vcpu, cpus) in pins {
            if let Some(pin) = tune.add("vcpupin") {
                pin.set("vcpu", vcpu.to_string());
                pin.set("cpuset", cpus);
            }
        }
    }

    /// Sets `<numatune>`: what is not given stays.
    pub fn set_numa(&mut self, mode: Option<&str>, nodes: Option<&str>) {
        let tune = self.root.ensure("numatune");
        let Some(memory) = tune.and_then(|tune| tune.ensure("memory")) else { return };
        if let Some(nodes) = nodes {
            memory.set("nodeset", nodes);
            memory.remove_attribute("placement");
        }
        match mode {
            Some(mode) => memory.set("mode", mode),
            None => memory.fill("mode", "strict"),
        }
    }

    fn pins(&self, own: Option<&str>, count: u32) -> Vec<u32> {
        let default = || self.root.child("vcpu").and_then(|vcpu| vcpu.attribute("cpuset"));
        match own.or_else(default) {
            Some(text) => cpus(text, count),
            None => (0..count).collect(),
        }
    }
}

/// The numbers of a set such as `0-3,^2,8` that are below `count`.
#[must_use]
pub fn cpus(text: &str, count: u32) -> Vec<u32> {
    let mut set = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        let (without, part) = part.strip_prefix('^').map_or((false, part), |part| (true, part));
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<u32>(), last.trim().parse::<u32>()) else {
            continue;
        };
        for cpu in first..=last.min(count.saturating_sub(1)) {
            if without {
                set.remove(&cpu);
            } else if cpu < count {
                set.insert(cpu);
            }
        }
    }
    set.into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::conf::definition::Strictness;
    use crate::privsep::placement::MemoryMode;

    #[test]
    fn what_is_said_nearest_holds() {
        let xml = "<domain type='qemu'><name>a</name><memory>1024</memory><vcpu cpuset='0-5,^4'>2</vcpu>\
            <cputune><vcpupin vcpu='1' cpuset='2,9'/><emulatorpin cpuset='1'/></cputune>\
            <os><type>hvm</type></os></domain>";
        let (definition, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        assert_eq!(definition.vcpu_pins(0, 8), [0, 1, 2, 3, 5]);
        assert_eq!(definition.vcpu_pins(1, 8), [2]);
        assert_eq!(definition.emulator_pins(8), [1]);
        assert_eq!(cpus("0-4294967295,^1", 3), [0, 2]);
        assert!(cpus("5", 0).is_empty());
    }

    #[test]
    fn pins_stand_in_the_order_of_their_numbers() {
        let xml = "<domain type='qemu'><name>a</name><memory>1024</memory><vcpu>12</vcpu>\
            <cputune><shares>5</shares><vcpupin vcpu='10' cpuset='2,9'/></cputune><os><type>hvm</type></os></domain>";
        let (mut one, _) = Definition::parse(xml.as_bytes(), Strictness::Strict).unwrap();
        let shown = |one: &Definition| {
            let text = one.format(crate::conf::definition::View { secure: true, migratable: false });
            let text = text.split_once("<cputune>").unwrap().1.split_once("</cputune>").unwrap().0.to_owned();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        one.set_vcpu_pin(2, "0-1");
        one.set_vcpu_pin(10, "3");
        one.set_emulator_pin("1");
        assert_eq!(
            shown(&one),
            "<shares>5</shares> <vcpupin vcpu='2' cpuset='0-1'/> <vcpupin vcpu='10' cpuset='3'/> \
             <emulatorpin cpuset='1'/>"
        );
        let pins = one.domain().unwrap().placement.pins;
        assert_eq!((pins.vcpus.get(&2), pins.emulator.clone()), (Some(&vec![0, 1]), Some(vec![1])));
        let mut other = one.clone();
        other.set_pins(&Pins::default());
        assert_eq!(shown(&other), "<shares>5</shares>");
        other.set_pins(&pins);
        assert_eq!(shown(&other), shown(&one));
        one.set_numa(None, Some("0-1"));
        one.set_numa(Some("interleave"), None);
        let memory = one.domain().unwrap().placement.memory.unwrap();
        assert_eq!((memory.mode, memory.nodes), (MemoryMode::Interleave, vec![0, 1]));
    }
}
