//! Which of the host's CPUs a definition lets run what.

use super::Definition;

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
}
