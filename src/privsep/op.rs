//! The closed list of operations that the labeller performs, and the plan that orders them.
//!
//! Each operation has an exact undo, which the labeller derives from the operation and from what it
//! found before it acted; the plan itself says nothing about undoing.

use serde::{Deserialize, Serialize};

use super::apparmor::ProfileRule;
use super::confinement::Confinement;
use super::placement::Placement;
use super::save::Restore;
use super::share::ShareIdentity;
use super::supervisor::SupervisorSpec;
use super::tuning::{CpuMax, Tuning};
use crate::base::{CategoryPair, DomainRef, DomainUuid, Slot};

/// The form of [`LaunchPlan`]; a labeller refuses any other.
pub const PLAN_VERSION: u32 = 1;

/// The name of a tap device that is called as libvirt would call it.
pub const VNET: &str = "vnet%d";

/// Everything that one start does, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchPlan {
    /// [`PLAN_VERSION`].
    pub version: u32,
    /// Whose start it is.
    pub domain: DomainRef,
    /// The operations, applied first to last and undone last to first.
    pub ops: Vec<Op>,
    /// What a person should know of how it came about, such as a label that was translated; nothing acts on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Op {
    /// Takes a uid (and the gid of the same number) for this domain alone.
    LeaseUid {
        /// What it is for.
        role: UidRole,
        /// The number; it must lie in the configured range of the role.
        uid: u32,
    },
    /// Takes an MCS category pair for this domain alone.
    LeaseCategories {
        /// The pair.
        pair: CategoryPair,
    },
    /// Takes part in the pair of what several domains may use, an image that is written, a directory or memory; the
    /// first one brings the pair.
    LeaseShare {
        /// What is shared.
        identity: ShareIdentity,
        /// The pair: the label of it, and part of the range of every domain that shares it.
        pair: CategoryPair,
    },
    /// Makes the domain's cgroup and sets its limits.
    Cgroup(CgroupLimits),
    /// Opens a disk image and locks it against other programs.
    OpenImage(OpenImage),
    /// Opens a file read-only that is never labelled: kernel, initrd, firmware.
    OpenReadable {
        /// Where the descriptor goes.
        slot: Slot,
        /// Absolute path.
        path: String,
    },
    /// Opens a domain's store of UEFI variables, or makes it from a template.
    OpenNvram {
        /// Where the descriptor goes.
        slot: Slot,
        /// Absolute path inside the configured directory.
        path: String,
        /// What a new one is copied from, opened before.
        template: Slot,
    },
    /// Opens the file of a saved domain, at the beginning of QEMU's stream.
    OpenSaved {
        /// Where the descriptor goes.
        slot: Slot,
        /// Which.
        saved: Restore,
    },
    /// Attaches to an existing tap device.
    OpenTap {
        /// Where the descriptor goes.
        slot: Slot,
        /// The interface's name.
        interface: String,
    },
    /// Makes a tap device that vanishes with its last descriptor, and plugs it into a bridge of the host.
    MakeTap {
        /// Where the descriptor goes.
        slot: Slot,
        /// The bridge; it must be one of the configured ones.
        bridge: String,
        /// Its name, or `vnet%d` for the first free one of libvirt's.
        name: String,
        /// Its own address: the guest's, but for the first byte, which is 0xfe.
        mac: [u8; 6],
        /// The largest frame in bytes; the bridge's where absent.
        #[serde(default)]
        mtu: Option<u32>,
    },
    /// Opens the host's end of a guest's vsock and takes a context id, which the kernel gives once.
    OpenVsock {
        /// Where the descriptor goes.
        slot: Slot,
        /// The number, 3 to 2^32 - 2.
        cid: u32,
    },
    /// Sets the SELinux label of what `slot` holds; undone to the label found before.
    LabelSelinux {
        /// An image, a file that is only read, a directory that is shared, or a helper's state that this plan opened.
        slot: Slot,
        /// The whole context, such as `system_u:object_r:svirt_guest_image_t:s0:c1,c2`.
        label: String,
    },
    /// Gives the domain's AppArmor profile to the kernel; the device model is executed under it.
    LoadProfile {
        /// What the profile says beyond the template.
        rules: Vec<ProfileRule>,
        /// Whether the definition asks for it, so that nothing runs without it even where a degraded start may.
        required: bool,
    },
    /// Makes a connected pair of stream sockets.
    Channel {
        /// QEMU's or the helper's end.
        slot: Slot,
        /// The other end.
        peer: Slot,
    },
    /// Opens a pseudo terminal in raw mode; the supervisor holds both sides, so that it lasts while nobody is attached.
    Pty {
        /// The controlling side.
        slot: Slot,
        /// The terminal itself.
        peer: Slot,
    },
    /// Binds a listening socket for the supervisor.
    Listen {
        /// Where the descriptor goes.
        slot: Slot,
        /// Where it listens.
        at: ListenAt,
    },
    /// Opens (and makes, if need be) a file that the supervisor appends a console's output to.
    OpenLog {
        /// Where the descriptor goes.
        slot: Slot,
        /// Absolute path inside one of the configured log places.
        path: String,
        /// Whether the file keeps what it holds.
        append: bool,
    },
    /// Starts a user network helper (passt) that holds the other end of a channel.
    SpawnPasst {
        /// The alias of the interface, such as `net0`.
        alias: String,
        /// The channel end that it speaks to QEMU through.
        slot: Slot,
        /// Its uid, leased as [`UidRole::Helper`].
        uid: u32,
        /// Its SELinux label, where SELinux is on.
        selinux_label: Option<String>,
    },
    /// Opens the state of a domain's TPM, or makes it, for the one helper that runs under `uid`.
    OpenTpmState {
        /// Where the descriptor goes.
        slot: Slot,
        /// Absolute path inside the configured directory.
        path: String,
        /// Who owns it while the domain runs; leased as [`UidRole::Helper`].
        uid: u32,
    },
    /// Starts a TPM emulator (swtpm) that holds the other end of a channel.
    SpawnSwtpm {
        /// The alias of the device: `tpm0`.
        alias: String,
        /// The channel end that it speaks to QEMU through.
        slot: Slot,
        /// Its state, opened before.
        state: Slot,
        /// Its uid.
        uid: u32,
        /// Which TPM.
        #[serde(default)]
        version: TpmVersion,
        /// Its SELinux label, where SELinux is on.
        #[serde(default)]
        selinux_label: Option<String>,
    },
    /// Opens a directory that the guest may mount, in one of the configured places.
    OpenShare {
        /// Where the descriptor goes.
        slot: Slot,
        /// Absolute path.
        path: String,
        /// Whether it can be written.
        access: Access,
        /// The directory that the plan was made for; another one there is refused.
        identity: FileIdentity,
    },
    /// Opens memory that domains share which name it alike, or makes it; it is gone with the last of them.
    OpenShmem {
        /// Where the descriptor goes.
        slot: Slot,
        /// Its name inside the configured directory.
        name: String,
        /// Its size in bytes, the same for all.
        size: u64,
        /// Its SELinux label, the same for all, where SELinux is on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        selinux_label: Option<String>,
    },
    /// Makes a listening socket without a name and one that is connected to it: for helpers that accept.
    Meeting {
        /// The connected end, QEMU's.
        slot: Slot,
        /// The listener, the helper's.
        peer: Slot,
    },
    /// Starts a server of one directory (virtiofsd) that holds the other end of a channel.
    SpawnVirtiofsd(Box<SpawnVirtiofsd>),
    /// Starts the supervisor and, under it, the device model. Always the last operation.
    Spawn(Box<Spawn>),
}

/// Which TPM is emulated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TpmVersion {
    /// 1.2
    #[serde(rename = "1.2")]
    V1_2,
    /// 2.0
    #[default]
    #[serde(rename = "2.0")]
    V2_0,
}

impl TpmVersion {
    /// The name of the file with a domain's state. The two versions have nothing in common, so a definition that changes
    /// the version gets a new one.
    #[must_use]
    pub fn state_of(self, uuid: DomainUuid) -> String {
        let extension = match self {
            Self::V1_2 => "tpm1",
            Self::V2_0 => "tpm2",
        };
        format!("{uuid}.{extension}")
    }
}

/// A virtiofsd to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnVirtiofsd {
    /// The alias of the device, such as `fs0`.
    pub alias: String,
    /// The listener that QEMU's end is connected to.
    pub slot: Slot,
    /// The directory, opened before.
    pub share: Slot,
    /// Its uid; the guest's root is the directory's owner behind it.
    pub uid: u32,
    /// The program, one of the configured ones.
    pub program: String,
    /// What the guest may cache; virtiofsd's default where absent.
    pub cache: Option<ShareCache>,
    /// Whether the guest may set extended attributes, under a prefix that means nothing to the host.
    pub xattr: bool,
    /// Whether POSIX locks of the guest are locks of the host.
    pub posix_lock: bool,
    /// The same for BSD locks.
    pub flock: bool,
    /// Size of its pool of threads.
    pub threads: Option<u32>,
    /// Its SELinux label, where SELinux is on.
    pub selinux_label: Option<String>,
}

/// virtiofsd's cache modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareCache {
    /// Everything, for ever.
    Always,
    /// For a second.
    Auto,
    /// Nothing.
    None,
}

/// What a leased uid is for; each role has its own configured range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UidRole {
    /// The device model.
    Domain,
    /// A helper of the device model.
    Helper,
    /// The supervisor.
    Supervisor,
}

/// A disk image to open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenImage {
    /// Where the descriptor goes.
    pub slot: Slot,
    /// Absolute path, resolved once.
    pub path: String,
    /// What must be found there.
    pub kind: ImageKind,
    /// How it is opened.
    pub access: Access,
    /// Whether the descriptor bypasses the page cache (`O_DIRECT`).
    pub direct: bool,
    /// Who else may hold it.
    pub sharing: Sharing,
    /// Device and inode that the plan was made for; another object there is refused.
    pub identity: FileIdentity,
}

/// Which file a plan was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileIdentity {
    /// The file system's device number, or for a block device the number of the device itself.
    pub device: u64,
    /// The inode number; 0 for a block device.
    pub inode: u64,
}

/// What kind of object holds an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageKind {
    /// A block device from the configured list.
    Block,
    /// A regular file.
    File,
}

/// Read-only or read-write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// `O_RDONLY`.
    ReadOnly,
    /// `O_RDWR`.
    ReadWrite,
}

/// Who else may hold an image while this domain runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sharing {
    /// Nobody.
    Exclusive,
    /// Others that read it.
    Readers,
    /// Others that declared it shareable, writing included.
    Writers,
}

/// Where a listening socket is bound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ListenAt {
    /// The domain's control socket; the labeller knows where.
    Control,
    /// A TCP address; the port 0 lets the kernel choose.
    Tcp {
        /// A literal address that the configuration admits.
        address: std::net::IpAddr,
        /// First port to try.
        port: u16,
        /// Last port to try.
        port_last: u16,
    },
    /// A unix socket inside one of the configured socket places.
    Unix {
        /// Absolute path.
        path: String,
    },
}

/// The limits of a domain's cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupLimits {
    /// `memory.max` in bytes: guest memory plus an allowance for QEMU itself.
    pub memory_max: u64,
    /// `pids.max`: threads of the device model.
    pub pids_max: u64,
    /// Device nodes that may be opened.
    pub devices: Vec<DeviceNode>,
    /// `cpuset.cpus`: the CPUs that the domain's processes may run on, ascending; empty where the host keeps none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u32>,
    /// `cpu.max`: the processor time that they have together, where it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_max: Option<CpuMax>,
    /// What the definition asks for beyond that, and what both limits follow from.
    #[serde(default, skip_serializing_if = "Tuning::is_none")]
    pub tuning: Tuning,
}

/// A device node from the closed list of those that a device model may open by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceNode {
    /// `/dev/kvm`.
    Kvm,
    /// `/dev/null`.
    Null,
    /// `/dev/urandom`.
    Urandom,
}

/// The device model to start and the supervisor over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// Path of the device model; it must be one of the configured emulators.
    pub program: String,
    /// Its arguments, the program's name first.
    pub argv: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The descriptors that it inherits; every other one is closed. 0, 1 and 2 are the labeller's.
    pub fds: Vec<FdGrant>,
    /// What holds it.
    pub confinement: Confinement,
    /// Where its threads run and its memory lies.
    #[serde(default, skip_serializing_if = "Placement::is_none")]
    pub placement: Placement,
    /// Who watches it.
    pub supervisor: SupervisorSpec,
}

/// A descriptor and the number under which a process finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FdGrant {
    /// Which.
    pub slot: Slot,
    /// The number, 3 or more.
    pub number: i32,
}

impl Op {
    /// The operation's name as it stands in a plan.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::LeaseUid { .. } => "lease-uid",
            Self::LeaseCategories { .. } => "lease-categories",
            Self::LeaseShare { .. } => "lease-share",
            Self::Cgroup(_) => "cgroup",
            Self::OpenImage(_) => "open-image",
            Self::OpenReadable { .. } => "open-readable",
            Self::OpenNvram { .. } => "open-nvram",
            Self::OpenSaved { .. } => "open-saved",
            Self::MakeTap { .. } => "make-tap",
            Self::OpenTap { .. } => "open-tap",
            Self::OpenVsock { .. } => "open-vsock",
            Self::LabelSelinux { .. } => "label-selinux",
            Self::LoadProfile { .. } => "load-profile",
            Self::Channel { .. } => "channel",
            Self::Pty { .. } => "pty",
            Self::Listen { .. } => "listen",
            Self::OpenLog { .. } => "open-log",
            Self::SpawnPasst { .. } => "spawn-passt",
            Self::OpenTpmState { .. } => "open-tpm-state",
            Self::SpawnSwtpm { .. } => "spawn-swtpm",
            Self::OpenShare { .. } => "open-share",
            Self::OpenShmem { .. } => "open-shmem",
            Self::Meeting { .. } => "meeting",
            Self::SpawnVirtiofsd(_) => "spawn-virtiofsd",
            Self::Spawn(_) => "spawn",
        }
    }
}
