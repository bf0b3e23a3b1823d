//! Where on the host a domain's threads run and where its memory lies: `<vcpupin>`, `<emulatorpin>` and `<numatune>`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One more than the highest number of a CPU of the host's; glibc's `CPU_SETSIZE`.
pub const CPUS_MAX: u32 = 1024;
/// One more than the highest number of a NUMA node of the host's; Linux's largest on x86-64.
pub const NODES_MAX: u32 = 1024;
/// One more than the highest number of a virtual CPU.
const VCPUS_MAX: u32 = 4096;

/// Which CPUs of the host run what of a device model. Each list is ascending; where there is none, all may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pins {
    /// `<vcpu cpuset>`: every thread that nothing else is said of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub all: Option<Vec<u32>>,
    /// `<emulatorpin>`: every thread that is no virtual CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emulator: Option<Vec<u32>>,
    /// `<vcpupin>`: virtual CPUs by number.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", with = "pairs")]
    pub vcpus: BTreeMap<u32, Vec<u32>>,
}

/// A map as a list: numbers as keys are lost where serde reads a tagged enum.
mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    type Map = BTreeMap<u32, Vec<u32>>;

    pub(super) fn serialize<S: Serializer>(map: &Map, to: S) -> Result<S::Ok, S::Error> {
        map.iter().collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Map, D::Error> {
        Ok(Vec::<(u32, Vec<u32>)>::deserialize(from)?.into_iter().collect())
    }
}

/// What a mode of `<numatune>` means to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemoryMode {
    /// `MPOL_INTERLEAVE`: page by page from one node after the other.
    Interleave,
    /// `MPOL_PREFERRED`: from that node as long as it has any.
    Preferred,
    /// `MPOL_BIND`: from those nodes and no others.
    Strict,
}

/// Which NUMA nodes of the host a device model takes its memory from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryNodes {
    /// How.
    pub mode: MemoryMode,
    /// The nodes, ascending.
    pub nodes: Vec<u32>,
}

/// Both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Placement {
    /// Threads.
    #[serde(skip_serializing_if = "Pins::is_none")]
    pub pins: Pins,
    /// Memory; the kernel's own choice where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryNodes>,
}

fn is_set(numbers: &[u32], most: u32) -> bool {
    !numbers.is_empty()
        && numbers.is_sorted_by(|one, next| one < next)
        && numbers.last().is_some_and(|last| *last < most)
}

impl Pins {
    /// Whether nothing is said of any thread.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The CPUs of a thread of that name; `None` where it may run on all.
    #[must_use]
    pub fn of(&self, name: &str) -> Option<&[u32]> {
        let own = match vcpu(name) {
            Some(vcpu) => self.vcpus.get(&vcpu),
            None => self.emulator.as_ref(),
        };
        own.or(self.all.as_ref()).map(Vec::as_slice)
    }

    /// Whether every number is one that there may be.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let lists = self.all.iter().chain(&self.emulator).chain(self.vcpus.values());
        lists.into_iter().all(|cpus| is_set(cpus, CPUS_MAX))
            && self.vcpus.keys().all(|vcpu| *vcpu < VCPUS_MAX)
    }
}

impl Placement {
    /// Whether nothing is said at all.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether every number is one that there may be.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.pins.is_bounded()
            && self.memory.as_ref().is_none_or(|memory| {
                is_set(&memory.nodes, NODES_MAX)
                    && (memory.mode != MemoryMode::Preferred || memory.nodes.len() == 1)
            })
    }
}

/// The virtual CPU that a thread of this name is: QEMU names them so with `debug-threads=on`.
#[must_use]
pub fn vcpu(name: &str) -> Option<u32> {
    let (number, accelerator) = name.strip_prefix("CPU ")?.split_once('/')?;
    matches!(accelerator, "KVM" | "TCG").then(|| number.parse().ok())?
}

/// Numbers as a person writes them, such as `0-3,8`.
#[must_use]
pub fn list(numbers: &[u32]) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*number) => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let run = |(first, last): &(u32, u32)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(run).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_nearest_holds() {
        let pins = Pins { all: Some(vec![0, 1]), emulator: Some(vec![2]), vcpus: [(1, vec![3])].into() };
        for (name, cpus) in [
            ("CPU 0/KVM", &[0, 1][..]),
            ("CPU 1/TCG", &[3]),
            ("qemu-system-x86", &[2]),
            ("CPU 1/other", &[2]),
            ("CPU x/KVM", &[2]),
        ] {
            assert_eq!(pins.of(name), Some(cpus), "{name}");
        }
        let one = Pins { vcpus: [(1, vec![3])].into(), ..Pins::default() };
        assert_eq!((one.of("CPU 0/KVM"), one.of("worker")), (None, None));
        assert!(pins.is_bounded() && !pins.is_none() && Pins::default().is_none());
        for wrong in [vec![], vec![1, 0], vec![1, 1], vec![CPUS_MAX]] {
            assert!(!Pins { all: Some(wrong), ..Pins::default() }.is_bounded());
        }
    }

    #[test]
    fn pins_go_over_the_wire() {
        use crate::base::DomainUuid;
        use crate::privsep::request::Request;

        let pins = Pins { all: None, emulator: Some(vec![2]), vcpus: [(1, vec![3]), (12, vec![0])].into() };
        let request = Request::Pin { uuid: DomainUuid(uuid::Uuid::nil()), pins };
        let text = serde_json::to_string(&request).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
    }

    #[test]
    fn one_node_is_preferred() {
        let placed = |mode, nodes: &[u32]| {
            let memory = Some(MemoryNodes { mode, nodes: nodes.into() });
            Placement { pins: Pins::default(), memory }.is_bounded()
        };
        assert!(placed(MemoryMode::Preferred, &[1]) && placed(MemoryMode::Strict, &[0, 5]));
        assert!(!placed(MemoryMode::Preferred, &[0, 1]) && !placed(MemoryMode::Strict, &[]));
        let text = serde_json::to_string(&Placement::default()).unwrap();
        assert_eq!(text, "{}");
    }

    #[test]
    fn numbers_are_written_in_runs() {
        assert_eq!(list(&[0, 1, 2, 5, 8, 9]), "0-2,5,8-9");
        assert_eq!(list(&[]), "");
    }
}
