//! What holds a device model, as one value: ids, capabilities, namespaces, root, Landlock, rlimits,
//! labels and the seccomp program.

use serde::{Deserialize, Serialize};

use super::op::DeviceNode;
use crate::base::Slot;

/// Everything that is applied to a device model before it is executed.
///
/// What is not here is not a choice: capability sets are empty, `no_new_privs` is set, and the pid, ipc,
/// uts, net, mount and cgroup namespaces are new for every device model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// Real, effective, saved and file system uid.
    pub uid: u32,
    /// The same for the gid.
    pub gid: u32,
    /// Supplementary groups: none, or the one that may open `/dev/kvm` where that node is in the root.
    pub groups: Vec<u32>,
    /// The minimal root.
    pub root: RootSpec,
    /// The Landlock ruleset.
    pub landlock: LandlockSpec,
    /// Resource limits, soft and hard alike.
    pub rlimits: Vec<Rlimit>,
    /// The context that SELinux gives at exec, where SELinux is on.
    pub selinux_exec: Option<String>,
    /// The filter.
    pub seccomp: SeccompProgram,
}

/// The root directory that a device model sees.
///
/// The labeller prepares the common part once for each emulator; only what differs is here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootSpec {
    /// Files that appear as read-only mounts under `/svirt`.
    pub files: Vec<RootFile>,
    /// Device nodes that appear under `/dev`.
    pub devices: Vec<DeviceNode>,
    /// Directories that the guest mounts over 9p, which appear under `/svirt/fs`; with any of them the processes of
    /// the device model's own pid namespace appear under `/proc`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<RootShare>,
    /// Memory shared with other guests, which appears as writable files under `/svirt`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shmems: Vec<RootShmem>,
}

/// One region of shared memory in the minimal root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootShmem {
    /// Which descriptor it is mounted from.
    pub slot: Slot,
    /// Its number: the end of its path.
    pub number: u8,
}

impl RootShmem {
    /// The most of one root.
    pub const MAX: u8 = 8;

    /// The path inside the minimal root.
    #[must_use]
    pub fn path(number: u8) -> String {
        format!("/svirt/shmem{number}")
    }
}

/// One shared directory in the minimal root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootShare {
    /// Which descriptor it is mounted from.
    pub slot: Slot,
    /// Its number: the last part of its path.
    pub number: u8,
}

impl RootShare {
    /// The most of one root.
    pub const MAX: u8 = 16;

    /// The path inside the minimal root.
    #[must_use]
    pub fn path(number: u8) -> String {
        format!("/svirt/fs/{number}")
    }
}

/// One file in the minimal root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RootFile {
    /// Which descriptor it is mounted from.
    pub slot: Slot,
    /// Under which name it appears.
    pub place: RootPlace,
}

/// The closed list of names under `/svirt` in the minimal root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RootPlace {
    /// `/svirt/dtb`
    Dtb,
    /// `/svirt/fwcfg0` to `/svirt/fwcfg7`: what the guest's firmware finds by name.
    #[serde(rename = "fwcfg0")]
    FwCfg0,
    /// The second one.
    #[serde(rename = "fwcfg1")]
    FwCfg1,
    /// The third one.
    #[serde(rename = "fwcfg2")]
    FwCfg2,
    /// The fourth one.
    #[serde(rename = "fwcfg3")]
    FwCfg3,
    /// The fifth one.
    #[serde(rename = "fwcfg4")]
    FwCfg4,
    /// The sixth one.
    #[serde(rename = "fwcfg5")]
    FwCfg5,
    /// The seventh one.
    #[serde(rename = "fwcfg6")]
    FwCfg6,
    /// The last one.
    #[serde(rename = "fwcfg7")]
    FwCfg7,
    /// `/svirt/initrd`
    Initrd,
    /// `/svirt/kernel`
    Kernel,
}

impl RootPlace {
    /// Every place, in order.
    pub const ALL: [Self; 11] = [
        Self::Dtb,
        Self::FwCfg0,
        Self::FwCfg1,
        Self::FwCfg2,
        Self::FwCfg3,
        Self::FwCfg4,
        Self::FwCfg5,
        Self::FwCfg6,
        Self::FwCfg7,
        Self::Initrd,
        Self::Kernel,
    ];

    /// The place of an entry's file, counted from 0; there are eight.
    #[must_use]
    pub fn fw_cfg(index: usize) -> Option<Self> {
        Self::ALL.into_iter().filter(|place| place.is_fw_cfg()).nth(index)
    }

    /// Whether it is a value of the guest's owner, which may be secret, and no program that boots.
    #[must_use]
    pub fn is_fw_cfg(self) -> bool {
        !matches!(self, Self::Dtb | Self::Initrd | Self::Kernel)
    }

    /// The path inside the minimal root.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Dtb => "/svirt/dtb",
            Self::FwCfg0 => "/svirt/fwcfg0",
            Self::FwCfg1 => "/svirt/fwcfg1",
            Self::FwCfg2 => "/svirt/fwcfg2",
            Self::FwCfg3 => "/svirt/fwcfg3",
            Self::FwCfg4 => "/svirt/fwcfg4",
            Self::FwCfg5 => "/svirt/fwcfg5",
            Self::FwCfg6 => "/svirt/fwcfg6",
            Self::FwCfg7 => "/svirt/fwcfg7",
            Self::Initrd => "/svirt/initrd",
            Self::Kernel => "/svirt/kernel",
        }
    }
}

/// A Landlock ruleset: every right of the named ABI is handled, and only the rules below give any back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandlockSpec {
    /// The ABI whose rights the plan counts on; the host may have less, which is reported by name. The labeller
    /// handles all that the kernel has, so a lower number takes nothing off.
    pub abi: u32,
    /// Paths in the minimal root and what may be done beneath them.
    pub rules: Vec<LandlockRule>,
}

/// The ABI that has every right which refuses something; 7 added audit records only.
pub const LANDLOCK_FULL: u32 = 6;

/// What each ABI added (Documentation/userspace-api/landlock.rst).
const ADDED: [(u32, &str); 7] = [
    (1, "Landlock: files are held by labels, owners and the minimal root alone"),
    (2, "Landlock ABI 2: renaming and linking between directories"),
    (3, "Landlock ABI 3: truncating files"),
    (4, "Landlock ABI 4: TCP bind and connect"),
    (5, "Landlock ABI 5: ioctls on devices"),
    (6, "Landlock ABI 6: signals and abstract sockets outside the domain"),
    (7, "Landlock ABI 7: audit records of refusals"),
];

/// What a host with this ABI lacks below `wanted`, by name.
#[must_use]
pub fn landlock_missing(abi: u32, wanted: u32) -> Vec<String> {
    ADDED
        .iter()
        .filter(|(since, _)| *since > abi && *since <= wanted)
        .map(|(_, name)| format!("{name} (not in this kernel)"))
        .collect()
}

/// One path and the accesses that are allowed beneath it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LandlockRule {
    /// Absolute path in the minimal root.
    pub path: String,
    /// What may be done.
    pub access: Vec<LandlockAccess>,
}

/// Landlock's file accesses that a device model may be given at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LandlockAccess {
    /// `LANDLOCK_ACCESS_FS_EXECUTE`
    Execute,
    /// `LANDLOCK_ACCESS_FS_IOCTL_DEV`
    IoctlDev,
    /// `LANDLOCK_ACCESS_FS_MAKE_*` but for device nodes, `_REMOVE_*`, `_REFER`, `_TRUNCATE`: beneath a shared
    /// directory alone.
    Names,
    /// `LANDLOCK_ACCESS_FS_READ_DIR`
    ReadDir,
    /// `LANDLOCK_ACCESS_FS_READ_FILE`
    ReadFile,
    /// `LANDLOCK_ACCESS_FS_WRITE_FILE`
    WriteFile,
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    /// Which.
    pub resource: RlimitKind,
    /// Soft and hard value; `None` is unlimited.
    pub value: Option<u64>,
}

/// The resources that are limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RlimitKind {
    /// `RLIMIT_CORE`, bytes.
    Core,
    /// `RLIMIT_FSIZE`, bytes.
    Fsize,
    /// `RLIMIT_MEMLOCK`, bytes.
    Memlock,
    /// `RLIMIT_MSGQUEUE`, bytes.
    Msgqueue,
    /// `RLIMIT_NOFILE`, descriptors.
    Nofile,
    /// `RLIMIT_NPROC`, threads of the uid.
    Nproc,
}

/// A classic BPF program for seccomp, one instruction an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SeccompProgram(pub Vec<BpfInsn>);

/// `struct sock_filter` of linux/filter.h: code, jt, jf, k.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BpfInsn(pub u16, pub u8, pub u8, pub u32);
