//! What a host can do, as values and as libvirt's capabilities XML with svirt's two additions.
//!
//! The additions: a `<seclabel model=…>` beside each `<secmodel>`, which names every domain of interpretation that
//! the host understands and says whether the model is enforced, and `<svirt:confinement>`, which libvirt has no word
//! for. Pure; `host` reads the values, `docs/host-xml.md` explains them.

mod format;
mod parse;

use serde::{Deserialize, Serialize};

pub use parse::CapabilitiesError;

/// The namespace of svirt's own elements in host XML.
pub const HOST_NAMESPACE: &str = "urn:svirt:host:1";

/// A host and what runs on it, as one connection sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Capabilities {
    /// The host.
    pub host: Host,
    /// What it runs.
    pub guests: Vec<Guest>,
}

/// `<host>`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Host {
    /// `<uuid>`: the firmware's, else the operating system's.
    pub uuid: Option<uuid::Uuid>,
    /// `<cpu>`
    pub cpu: Cpu,
    /// `<power_management>`: the states that the host can be suspended to.
    pub suspend: Vec<Suspend>,
    /// `<iommu>`: whether devices can be given to guests.
    pub iommu: bool,
    /// `<topology>`
    pub cells: Vec<Cell>,
    /// `<secmodel>` and `<seclabel>`, in the order in which labels are given.
    pub security: Vec<SecurityModel>,
    /// `<svirt:confinement>`
    pub confinement: Option<Confinement>,
}

/// `<cpu>` of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cpu {
    /// Such as `x86_64`.
    pub arch: String,
    /// The closest named model, none where no emulator told its models.
    pub model: Option<String>,
    /// Such as `Intel`.
    pub vendor: Option<String>,
    /// The microcode's version.
    pub microcode: Option<u32>,
    /// Family, model and stepping.
    pub signature: Option<(u32, u32, u32)>,
    /// Sockets, dies a socket, cores a die, threads a core.
    pub topology: Option<[u32; 4]>,
    /// Bits of a physical address.
    pub physical_bits: Option<u32>,
    /// What the CPU has beyond its model, by QEMU's and libvirt's names.
    pub features: Vec<String>,
    /// Page sizes in KiB.
    pub pages: Vec<u64>,
}

/// A state that a host can be suspended to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Suspend {
    /// `<suspend_disk/>`
    Disk,
    /// `<suspend_mem/>`
    Mem,
}

/// `<cell>`: memory and the CPUs next to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// The kernel's number for it.
    pub id: u32,
    /// Memory in KiB.
    pub memory: u64,
    /// Page size in KiB and number of pages.
    pub pages: Vec<(u64, u64)>,
    /// Other cells and how far away their memory is; 10 is the cell itself.
    pub distances: Vec<(u32, u32)>,
    /// CPUs.
    pub cpus: Vec<CellCpu>,
}

/// One CPU of a cell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CellCpu {
    /// The kernel's number for it.
    pub id: u32,
    /// Its socket.
    pub socket: u32,
    /// Its die.
    pub die: u32,
    /// Its core.
    pub core: u32,
    /// The CPUs of the same core, as a list such as `0,4`.
    pub siblings: String,
}

/// A security model of the host: `<secmodel>` and the `<seclabel>` beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct SecurityModel {
    /// Such as `selinux`.
    pub model: String,
    /// Domains of interpretation; `<secmodel>` has room for the first, `<seclabel>` names all.
    pub dois: Vec<String>,
    /// Domain type and the label that a device model of it starts from.
    pub baselabels: Vec<(String, String)>,
    /// Whether the model refuses, or only says that it would.
    pub enforcing: bool,
    /// The version of the policy's format, where the model has one.
    pub policy_version: Option<u32>,
}

/// What this kernel confines a device model with, beside labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Confinement {
    /// `uname -r`
    pub kernel: String,
    /// Security modules, in the order in which the kernel asks them.
    pub lsms: Vec<String>,
    /// Landlock's ABI, 0 where there is none.
    pub landlock_abi: u32,
    /// What a seccomp filter can answer.
    pub seccomp: Vec<String>,
    /// Why `/dev/kvm` does not work; empty where it does.
    pub kvm_failure: Option<String>,
}

/// `<guest>`: one emulator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Guest {
    /// Such as `x86_64`.
    pub arch: String,
    /// Bits of a machine word.
    pub wordsize: u32,
    /// The emulator's path.
    pub emulator: String,
    /// Machine types that svirt runs.
    pub machines: Vec<Machine>,
    /// `qemu`, and `kvm` where it works.
    pub domains: Vec<String>,
}

/// `<machine>`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Such as `pc-q35-7.2`.
    pub name: String,
    /// Another name for the same, such as `q35`.
    pub alias: Option<String>,
    /// The most virtual CPUs.
    pub cpus: u32,
    /// Whether the emulator means to drop it.
    pub deprecated: bool,
}

impl Capabilities {
    /// The XML.
    #[must_use]
    pub fn to_xml(&self) -> String {
        format::capabilities(self)
    }

    /// Reads the XML of this or another host; what svirt does not know of is passed over.
    pub fn parse(xml: &[u8]) -> Result<Self, CapabilitiesError> {
        parse::capabilities(xml)
    }

    /// The model of that name.
    #[must_use]
    pub fn security(&self, model: &str) -> Option<&SecurityModel> {
        self.host.security.iter().find(|known| known.model == model)
    }
}

/// Reads whatever is given; for fuzzers and the replay of their corpus.
pub fn fuzz_capabilities(data: &[u8]) {
    if let Ok(read) = Capabilities::parse(data) {
        assert_eq!(Capabilities::parse(read.to_xml().as_bytes()).as_ref(), Ok(&read));
    }
}
