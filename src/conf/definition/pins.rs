//! Which of the host's CPUs a definition lets run what, and which of its NUMA nodes give memory.

use std::borrow::Cow;
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

    /// The host's CPUs, below `count`, that may run each virtual CPU.
    #[must_use]
    pub fn vcpu_pins(&self, count: u32) -> VcpuPins<'_> {
        let pins = self.root.child("cputune").into_iter().flat_map(|tune| tune.all("vcpupin"));
        let own = pins.filter_map(|pin| {
            let vcpu = pin.attribute("vcpu")?.trim().parse().ok()?;
            Some((vcpu, pin.attribute("cpuset")?))
        });
        VcpuPins { own: own.collect(), default: self.pins(None, count), count }
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

/// Which of the host's CPUs may run which virtual CPU: what is read of the definition once for all of them.
#[derive(Debug)]
pub struct VcpuPins<'a> {
    own: BTreeMap<u32, &'a str>,
    default: Vec<u32>,
    count: u32,
}

impl VcpuPins<'_> {
    /// Those of one; all of the host's where the definition says nothing.
    #[must_use]
    pub fn of(&self, vcpu: u32) -> Cow<'_, [u32]> {
        match self.own.get(&vcpu) {
            Some(text) => cpus(text, self.count).into(),
            None => (&self.default).into(),
        }
    }
}

/// The numbers of a set such as `0-3,^2,8` that are below `count`; what is no number counts for nothing.
#[must_use]
pub fn cpus(text: &str, count: u32) -> Vec<u32> {
    let parts = text.split(',').filter_map(part);
    set(parts, count)
}

/// The longest text of a set that somebody types, in bytes: all the numbers that there are fit.
const TYPED_MAX: usize = 128 << 10;

/// A set of CPUs, or of virtual ones, as somebody typed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedCpus(Vec<(bool, u32, u32)>);

impl TypedCpus {
    /// Reads one; nothing where a part of it is no number or range, or it is longer than any set needs.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let short = Some(text).filter(|text| text.len() <= TYPED_MAX)?;
        short.split(',').map(part).collect::<Option<_>>().map(Self)
    }

    /// The highest number that is put in, whether or not it is taken out again.
    #[must_use]
    pub fn highest(&self) -> Option<u32> {
        self.0.iter().filter(|(without, ..)| !without).map(|(.., last)| *last).max()
    }

    /// The numbers that are below `count`.
    #[must_use]
    pub fn below(&self, count: u32) -> Vec<u32> {
        set(self.0.iter().copied(), count)
    }
}

/// One range, and whether it is taken out.
fn part(text: &str) -> Option<(bool, u32, u32)> {
    let text = text.trim();
    let (without, range) = text.strip_prefix('^').map_or((false, text), |range| (true, range));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (first <= last).then_some((without, first, last))
}

/// A client may say the same range a million times: each is one fill of `count` bytes.
fn set(parts: impl Iterator<Item = (bool, u32, u32)>, count: u32) -> Vec<u32> {
    let mut is_in = vec![false; count as usize];
    for (without, first, last) in parts {
        let end = last.saturating_add(1).min(count);
        if let Some(range) = is_in.get_mut(first as usize..end as usize) {
            range.fill(!without);
        }
    }
    (0..count).zip(is_in).filter(|(_, is_in)| *is_in).map(|(cpu, _)| cpu).collect()
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
        let pins = definition.vcpu_pins(8);
        assert_eq!((&*pins.of(0), &*pins.of(1)), (&[0, 1, 2, 3, 5][..], &[2][..]));
        assert_eq!(definition.emulator_pins(8), [1]);
        assert_eq!(cpus("0-4294967295,^1", 3), [0, 2]);
        assert!(cpus("5", 0).is_empty());
        assert_eq!(cpus("7-3,x,1", 8), [1]);
        let typed = TypedCpus::parse("1-2,^2,9-4000000000").unwrap();
        assert_eq!((typed.below(8), typed.highest()), (vec![1], Some(4_000_000_000)));
        assert_eq!(TypedCpus::parse("^2").unwrap().highest(), None);
        let long = "0-16383,".repeat(16_384) + "0";
        for bad in ["", "x", "1,", "2-1", "-1", "1--2", &long] {
            assert_eq!(TypedCpus::parse(bad), None, "{bad:.20}");
        }
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
