//! The root-owned configuration file: one structure, safe defaults, errors with file and line.
#![forbid(unsafe_code)]

mod doi;
mod host;
mod load;
mod user;

use serde::{Deserialize, Serialize};

pub use doi::{DOI_MAX, ModelSettings, doi_complaint};
pub use host::{Host, HostPattern, Relocation};
pub use load::{FILE_MAX, SettingsError};
pub use user::{SUBORDINATE, UserDirectories};

/// Where the configuration is read from unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/svirt/svirt.toml";

/// Everything that can be configured. An absent file means the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Directories of svirt's own.
    pub paths: Paths,
    /// Uids that svirt's processes and domains run under.
    pub uids: Uids,
    /// Where images and boot files may lie.
    pub images: Images,
    /// Device models that may be started.
    pub emulators: Emulators,
    /// What one domain may ask for.
    pub limits: Limits,
    /// Networks.
    pub network: Network,
    /// `[shmem]`
    pub shmem: Shmem,
    /// `[tpm]`
    pub tpm: Tpm,
    /// `[save]`
    pub save: Save,
    /// Directories that guests mount.
    pub shares: Shares,
    /// Consoles and their logs.
    pub console: Console,
    /// VNC servers.
    pub vnc: Vnc,
    /// SELinux types and domains of interpretation.
    pub selinux: Selinux,
    /// AppArmor.
    pub apparmor: ModelSettings,
    /// Owners and modes of files, and uids.
    pub dac: ModelSettings,
    /// Xen's own security module.
    pub flask: Flask,
    /// What is done where a layer is missing.
    pub confinement: ConfinementPolicy,
    /// What the host keeps for itself.
    pub host: Host,
    /// Domains that other hosts send.
    pub relocation: Relocation,
    /// The daemon that clients of libvirt's talk to.
    pub daemon: Daemon,
}

/// `[paths]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Sockets; emptied at boot.
    pub run: String,
    /// Journals; kept over a boot.
    pub state: String,
    /// Minimal roots; may be removed while no domain runs.
    pub cache: String,
    /// svirt's own helper programs (`svirt-supervisor`, `svirt-imageprobe`); empty means beside the labeller.
    pub libexec: String,
    /// Translation tables between domains of interpretation, besides those that ship with svirt.
    pub doi: String,
}

/// `[uids]`: numbers from a range that nothing else allocates (see `docs/configuration.md`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Uids {
    /// The part that parses and plans.
    pub frontend: u32,
    /// The image probe.
    pub imageprobe: u32,
    /// A device model that is only asked what it can do.
    pub hostprobe: u32,
    /// Device models.
    pub domains: UidRange,
    /// Supervisors.
    pub supervisors: UidRange,
    /// Helpers of device models.
    pub helpers: UidRange,
    /// Users of guests but root, as owners of what they make in shared directories.
    pub guests: UidRange,
}

/// `first` and `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UidRange {
    /// The first uid.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl UidRange {
    /// Whether `uid` lies in the range.
    #[must_use]
    pub fn contains(self, uid: u32) -> bool {
        uid.checked_sub(self.first).is_some_and(|offset| offset < self.count)
    }
}

/// `[images]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Directories whose files domains may use as images, and whose labels svirt may set.
    pub relabelable: Vec<String>,
    /// Directories whose files may be read (boot files, ISOs, read-only base images) and are never labelled.
    pub readable: Vec<String>,
    /// Block devices that may be used as images, by path.
    pub block_devices: Vec<String>,
    /// The directory of UEFI variables; only root may write it, and it is made if it is not there.
    pub nvram: String,
}

/// `[emulators]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Emulators {
    /// Absolute paths; the first is the default.
    pub allowed: Vec<String>,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Domains at once.
    pub domains: u32,
    /// Bytes of guest memory for one domain; 0 is no limit of svirt's own.
    pub memory: u64,
    /// Vcpus of one domain.
    pub vcpus: u32,
    /// Layers of one disk.
    pub chain_depth: u32,
    /// Seconds that a start may take before it is undone.
    pub start_timeout: u64,
    /// Bytes of the largest volume that svirtd makes in a storage pool, or that a disk is given while its domain runs; 0
    /// is no limit of svirt's own.
    pub volume: u64,
}

/// `[shmem]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shmem {
    /// The directory of memory that several guests share, on a tmpfs; only root may enter it, or write the directory
    /// above it, and it is made if it is not there.
    pub place: String,
    /// Bytes of the largest region.
    pub size: u64,
    /// Bytes of all regions together.
    pub total: u64,
}

/// `[tpm]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tpm {
    /// The TPM emulator.
    pub swtpm: String,
    /// The directory of TPMs' states; only root may write it, and it is made if it is not there.
    pub state: String,
}

/// `[save]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Save {
    /// The directory of the domains that their next start goes on from; only root may write it, and it is made if it is
    /// not there.
    pub managed: String,
    /// Directories that domains may be saved to by name; they are made if they are not there.
    pub places: Vec<String>,
    /// The directory of memory that `virsh dump` writes down, apart from all saved domains: a device model wrote every byte
    /// of it, and could write what looks like a saved domain. Only root may write it, and it is made if it is not there.
    pub dumps: String,
    /// How much of a file system the files of each uid but root's may take in these directories together, in percent.
    pub percent_per_user: u32,
}

impl Save {
    /// Whether a path is of a file below one of the places, by its letters alone.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        let plain = path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."));
        let below = |place: &String| {
            path.strip_prefix(place.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'))
        };
        plain && self.places.iter().any(below)
    }
}

/// `[shares]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Directories whose directories, or which themselves, guests may mount.
    pub places: Vec<String>,
    /// The programs that may serve them over virtiofs; the first that is there is the default.
    pub virtiofsd: Vec<String>,
}

/// `[network]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Names, or prefixes ending in `*`, of the tap devices that domains may attach to.
    pub taps: Vec<String>,
    /// Names, or prefixes ending in `*`, of the bridges that domains may be plugged into.
    pub bridges: Vec<String>,
    /// What the network `default` is: `user`, or the name of a bridge.
    pub default: String,
    /// The user network helper.
    pub passt: String,
    /// Whether guests on a user network reach what listens on the host's loopback, under the address of their gateway.
    pub host_loopback: bool,
}

/// The value of `network.default` by which that network is each domain's own user network.
pub const USER_NETWORK: &str = "user";

impl Network {
    /// Whether domains may attach to a tap device of this name.
    #[must_use]
    pub fn allows_tap(&self, name: &str) -> bool {
        matches(&self.taps, name)
    }

    /// Whether domains may be plugged into a bridge of this name; the default network's is one of them.
    #[must_use]
    pub fn allows_bridge(&self, name: &str) -> bool {
        matches(&self.bridges, name) || (self.default != USER_NETWORK && self.default == name)
    }

    /// Whether it could be the name of an interface: linux/if.h, and nothing that a path or a pattern could be.
    #[must_use]
    pub fn is_interface(name: &str) -> bool {
        (1..=15).contains(&name.len())
            && name != "."
            && name != ".."
            && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:*%".contains(&byte))
    }
}

fn matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    })
}

/// `[console]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Console {
    /// Directories that console logs and `file` consoles may lie in.
    pub logs: Vec<String>,
    /// Directories that `unix` consoles may be bound in.
    pub sockets: Vec<String>,
    /// Bytes of the latest output that a supervisor keeps for a client that attaches late.
    pub scrollback: u32,
}

/// `[vnc]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vnc {
    /// Addresses that may be listened on.
    pub addresses: Vec<std::net::IpAddr>,
    /// First and last port for `autoport`.
    pub ports: (u16, u16),
}

/// `[selinux]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selinux {
    /// Domains of interpretation that this host's SELinux labels belong to; the first is that of labels that name none.
    pub doi: Vec<String>,
    /// Type of a device model under KVM.
    pub guest_type: String,
    /// Type of a device model under TCG, which needs execmem.
    pub guest_tcg_type: String,
    /// Type of a device model under KVM that itself serves directories, over 9p.
    pub guest_share_type: String,
    /// The same under TCG.
    pub guest_tcg_share_type: String,
    /// Type of a domain's own image.
    pub image_type: String,
    /// Type of what several domains read.
    pub content_type: String,
    /// Type of a file while a domain goes on from it.
    pub save_type: String,
    /// Type of supervisors.
    pub supervisor_type: String,
    /// Type of passt.
    pub passt_type: String,
    /// Type of swtpm.
    pub swtpm_type: String,
    /// Type of a TPM's state while its domain runs.
    pub tpm_state_type: String,
    /// Type of virtiofsd.
    pub virtiofsd_type: String,
    /// Type of a directory that a guest mounts.
    pub share_type: String,
    /// Type of memory that several guests share.
    pub shmem_type: String,
    /// Other process types that a static label may name.
    pub extra_types: Vec<String>,
    /// Other file types that a static or device label may name.
    pub extra_image_types: Vec<String>,
}

/// `[flask]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flask {
    /// Domains of interpretation of the hypervisor's policy; empty declares none, for Linux cannot ask Xen for it.
    pub doi: Vec<String>,
}

/// `[confinement]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfinementPolicy {
    /// Whether a start goes on where the kernel lacks a layer in whole or in part (each is named in the plan and in
    /// `svirt inspect`). Without it such a start is refused.
    pub degraded: bool,
    /// The lowest Landlock ABI that does not count as degraded.
    pub landlock_abi: u32,
    /// Whether a disk may ask for io_uring, whose operations no seccomp filter sees.
    pub io_uring: bool,
}

/// `[daemon]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Daemon {
    /// The group whose members may connect; empty means root alone.
    pub group: String,
    /// Whether there is a socket for clients that only read.
    pub read_only: bool,
    /// The file with the rules that say who may do what; without it root may do everything, and the group operates.
    pub access: String,
    /// The directory of the definitions.
    pub store: String,
    /// Clients at once.
    pub clients: u32,
    /// Calls that one client may have outstanding; what it asks beyond waits unread.
    pub calls: u32,
    /// Clients at once of each uid but root's.
    pub clients_per_user: u32,
    /// Persistent definitions of each uid but root's; whoever handed in the latest text of one has it.
    pub definitions_per_user: u32,
    /// Bytes that these may have together, as they are kept.
    pub definition_bytes_per_user: u64,
    /// Seconds that a call waits while another one changes the same domain.
    pub change_wait: u64,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            group: String::new(),
            read_only: false,
            access: "/etc/svirt/access.toml".into(),
            store: "/var/lib/svirt/daemon".into(),
            clients: 5000,
            calls: 16,
            clients_per_user: 1000,
            definitions_per_user: 1000,
            definition_bytes_per_user: 64 << 20,
            change_wait: 30,
        }
    }
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            run: "/run/svirt".into(),
            state: "/var/lib/svirt/state".into(),
            cache: "/var/cache/svirt".into(),
            libexec: String::new(),
            doi: "/etc/svirt/doi".into(),
        }
    }
}

impl Default for Uids {
    fn default() -> Self {
        Self {
            frontend: 1_900_000_000,
            imageprobe: 1_900_000_001,
            hostprobe: 1_900_000_002,
            domains: UidRange { first: 1_910_000_000, count: 65_536 },
            supervisors: UidRange { first: 1_920_000_000, count: 65_536 },
            helpers: UidRange { first: 1_930_000_000, count: 65_536 },
            guests: UidRange { first: 1_940_000_000, count: 65_536 },
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            relabelable: vec!["/var/lib/svirt/images".into(), "/var/lib/libvirt/images".into()],
            readable: vec![
                "/boot".into(),
                "/usr/share/qemu".into(),
                "/usr/share/OVMF".into(),
                "/var/lib/libvirt/boot".into(),
                "/var/lib/svirt/boot".into(),
            ],
            block_devices: Vec::new(),
            nvram: "/var/lib/svirt/nvram".into(),
        }
    }
}

impl Default for Emulators {
    fn default() -> Self {
        Self { allowed: vec!["/usr/bin/qemu-system-x86_64".into()] }
    }
}

/// The largest file in bytes that the kernel's types hold.
const VOLUME_MAX: u64 = i64::MAX as u64;

impl Limits {
    /// Whether an image may get this size, in bytes; the rule where it may not.
    pub fn admit_volume(&self, size: u64) -> Result<(), String> {
        let most = self.volume_most();
        if size <= most {
            return Ok(());
        }
        Err(format!("limits.volume: a volume has at most {most} bytes, not {size}"))
    }

    /// The largest image, in bytes.
    #[must_use]
    pub fn volume_most(&self) -> u64 {
        if self.volume == 0 { VOLUME_MAX } else { self.volume.min(VOLUME_MAX) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { domains: 1000, memory: 0, vcpus: 255, chain_depth: 200, start_timeout: 60, volume: 0 }
    }
}

impl Default for Shmem {
    fn default() -> Self {
        Self { place: "/run/svirt/shmem".into(), size: 64 << 20, total: 1 << 30 }
    }
}

impl Default for Tpm {
    fn default() -> Self {
        Self { swtpm: "/usr/bin/swtpm".into(), state: "/var/lib/svirt/tpm".into() }
    }
}

impl Default for Save {
    fn default() -> Self {
        Self {
            managed: "/var/lib/svirt/managed-save".into(),
            places: vec!["/var/lib/svirt/saved".into()],
            dumps: "/var/lib/svirt/dumps".into(),
            percent_per_user: 25,
        }
    }
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            places: vec!["/var/lib/svirt/shares".into()],
            // Of its own package, and where QEMU 7.2 still brings one.
            virtiofsd: vec!["/usr/libexec/virtiofsd".into(), "/usr/lib/qemu/virtiofsd".into()],
        }
    }
}

impl Default for Network {
    fn default() -> Self {
        Self {
            taps: Vec::new(),
            bridges: vec!["virbr0".into()],
            default: USER_NETWORK.into(),
            passt: "/usr/bin/passt".into(),
            host_loopback: false,
        }
    }
}

impl Default for Console {
    fn default() -> Self {
        Self {
            logs: vec!["/var/log/svirt".into()],
            sockets: vec!["/run/svirt/consoles".into()],
            scrollback: 65_536,
        }
    }
}

impl Default for Vnc {
    fn default() -> Self {
        Self {
            addresses: vec![
                std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                std::net::IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
            ],
            ports: (5900, 65_535),
        }
    }
}

impl Default for Selinux {
    fn default() -> Self {
        Self {
            doi: vec!["0".into()],
            guest_type: "svirt_guest_t".into(),
            guest_tcg_type: "svirt_guest_tcg_t".into(),
            guest_share_type: "svirt_guest_share_t".into(),
            guest_tcg_share_type: "svirt_guest_tcg_share_t".into(),
            image_type: "svirt_guest_image_t".into(),
            content_type: "svirt_guest_content_t".into(),
            save_type: "svirt_guest_save_t".into(),
            supervisor_type: "svirt_supervisor_t".into(),
            passt_type: "svirt_passt_t".into(),
            swtpm_type: "svirt_swtpm_t".into(),
            tpm_state_type: "svirt_tpm_state_t".into(),
            virtiofsd_type: "svirt_virtiofsd_t".into(),
            share_type: "svirt_share_t".into(),
            shmem_type: "svirt_shmem_t".into(),
            extra_types: Vec::new(),
            extra_image_types: Vec::new(),
        }
    }
}

impl Default for ConfinementPolicy {
    fn default() -> Self {
        Self { degraded: true, landlock_abi: 2, io_uring: false }
    }
}
