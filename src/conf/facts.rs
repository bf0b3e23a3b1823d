//! What the planner must know of this host, read once by `host` and passed as a value.

use serde::Serialize;

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HostFacts {
    /// `uname -r`
    pub kernel_release: String,
    /// Landlock's ABI, 0 where there is none.
    pub landlock_abi: u32,
    /// SELinux, where the kernel runs it.
    pub selinux: Option<SelinuxFacts>,
    /// AppArmor, where the kernel runs it.
    pub apparmor: Option<AppArmorFacts>,
    /// Whether `/dev/kvm` opens and answers.
    pub kvm: bool,
    /// The group that may open `/dev/kvm`, where not everybody may.
    pub kvm_group: Option<u32>,
    /// The emulators' loadable modules by name, such as `ui-spice-core`; empty where they have none.
    pub modules: Vec<String>,
    /// UEFI firmware, in the order of preference.
    pub firmwares: Vec<FirmwareFile>,
    /// The emulators that the configuration names and that are there.
    pub emulators: Vec<Emulator>,
    /// Those that are there and cannot be used: path and why.
    pub unusable: Vec<(String, String)>,
    /// Translation tables between domains of interpretation that the administrator wrote: name and text.
    pub doi_tables: Vec<(String, String)>,
    /// Servers of virtiofs that are there: those that the host's descriptions of vhost-user programs name first, then
    /// the configured ones.
    pub virtiofsds: Vec<String>,
    /// CPUs online.
    pub cpus: u32,
    /// Their numbers.
    pub online: Vec<u32>,
    /// Memory in bytes.
    pub memory: u64,
    /// Huge pages: the size in bytes and how many are set aside; the kernel's default size first.
    pub hugepages: Vec<(u64, u64)>,
}

/// SELinux as the kernel runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SelinuxFacts {
    /// Whether it refuses.
    pub enforcing: bool,
}

/// AppArmor as the kernel runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppArmorFacts {
    /// Whether it refuses: no mode of the whole system turns every profile into a complaint.
    pub enforcing: bool,
}

/// One device model binary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Emulator {
    /// Absolute path.
    pub path: String,
    /// Version, such as 7.2.22.
    pub version: (u32, u32, u32),
}

/// One description of UEFI firmware in flash memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FirmwareFile {
    /// The code's path.
    pub code: String,
    /// The path of what a new store of variables is copied from.
    pub template: String,
    /// Patterns of machine names, such as `pc-q35-*`.
    pub machines: Vec<String>,
    /// QEMU's names of features, such as `secure-boot`.
    pub features: Vec<String>,
}

impl FirmwareFile {
    /// Whether it has a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|known| known == feature)
    }

    /// Whether it is made for a machine type, by its name or an alias of it.
    #[must_use]
    pub fn runs_on(&self, machine: &str) -> bool {
        self.machines.iter().any(|pattern| names(pattern, machine))
    }
}

/// Whether a pattern with at most one `*`, at its end, names a machine; the short names stand for every version.
fn names(pattern: &str, machine: &str) -> bool {
    let family = match machine {
        "q35" => "pc-q35-",
        "pc" => "pc-i440fx-",
        versioned => versioned,
    };
    match pattern.strip_suffix('*') {
        Some(prefix) => family.starts_with(prefix),
        None => pattern == machine,
    }
}
