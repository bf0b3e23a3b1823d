//! What one emulator can do, as it said over its machine protocol, without a guest.

use serde::{Deserialize, Serialize};

use super::capabilities::Machine;

/// One emulator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmulatorFacts {
    /// Its path.
    pub path: String,
    /// Major, minor, micro.
    pub version: (u32, u32, u32),
    /// Who built it, such as `Debian 1:7.2+dfsg-7`.
    pub package: String,
    /// What it emulates, such as `x86_64`.
    pub arch: String,
    /// Whether it was built with KVM.
    pub kvm: bool,
    /// Machine types, in its order.
    pub machines: Vec<Machine>,
    /// Everything it has by name, sorted: `device:virtio-blk-pci`, `object:rng-builtin`, `command:query-spice`,
    /// `chardev:pty`, `tpm:emulator`.
    pub has: Vec<String>,
    /// Named CPU models that libvirt knows too.
    pub cpus: Vec<CpuDefinition>,
    /// What CPUs have, in so far as this emulator has a name for it.
    pub cpu_features: CpuFeatures,
    /// The model that is closest to this host's CPU.
    pub host: Option<HostModel>,
}

/// Features of CPUs; which a CPU has is told by their places among the names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuFeatures {
    /// QEMU's names, sorted.
    pub names: Vec<String>,
    /// Those of which the kernel's flags say whether the host's CPU has them.
    pub shown: Vec<u16>,
    /// Those of them that it has.
    pub host: Vec<u16>,
    /// Those of them that a description of it has, by its model's name or by their own.
    pub listed: Vec<u16>,
    /// Those that the best emulated CPU has.
    pub emulated: Vec<u16>,
    /// The vendor of that one, such as `AMD`.
    pub emulated_vendor: Option<String>,
}

/// A named CPU model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuDefinition {
    /// Such as `EPYC-Milan`.
    pub name: String,
    /// Such as `AMD`.
    pub vendor: Option<String>,
    /// Whether the emulator means to drop it.
    pub deprecated: bool,
    /// Whether emulation has everything that it needs.
    pub emulated: bool,
    /// Whether this host's CPU has everything that it needs.
    pub host: bool,
    /// What it has, by place among [`CpuFeatures::names`].
    pub features: Vec<u16>,
}

/// A host's CPU as a named model and what it has beyond it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostModel {
    /// The model's name.
    pub name: String,
    /// Features beyond the model's.
    pub features: Vec<String>,
}

impl EmulatorFacts {
    /// Whether it has something, such as `device:virtio-blk-pci`.
    #[must_use]
    pub fn has(&self, what: &str) -> bool {
        self.has.binary_search_by(|known| known.as_str().cmp(what)).is_ok()
    }

    /// The machine type of that name or alias.
    #[must_use]
    pub fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.name == name || machine.alias.as_deref() == Some(name))
    }
}
