//! Directories of the host that a guest mounts.

use serde::Serialize;

use super::PciAddress;

/// `<filesystem type='mount'>`
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Filesystem {
    /// `<source dir>`
    pub source: String,
    /// `<target dir>`: the name by which the guest mounts it.
    pub tag: String,
    /// Who serves it.
    pub driver: FilesystemDriver,
    /// `<readonly/>`
    pub readonly: bool,
    /// `<address>`
    pub address: Option<PciAddress>,
    /// Line of the element in the definition.
    pub line: u32,
}

/// `<driver type>` of a file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FilesystemDriver {
    /// `path`, `handle` or none: QEMU itself, over 9p.
    Path(NinePOptions),
    /// `virtiofs`: a process of its own.
    Virtiofs(VirtiofsOptions),
}

/// What 9p is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct NinePOptions {
    /// `accessmode`
    pub access: AccessMode,
    /// `fmode`: mode of new files; `mapped` alone.
    pub fmode: Option<u32>,
    /// `dmode`: mode of new directories; `mapped` alone.
    pub dmode: Option<u32>,
    /// `multidevs`, unless it is `default`.
    pub multidevs: Option<MultiDevices>,
}

/// `accessmode` of a 9p file system. `passthrough` would need root's capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessMode {
    /// Owners and modes that the guest sets are kept in extended attributes.
    Mapped,
    /// Owners that the guest sets are forgotten.
    Squash,
}

/// `multidevs`: what becomes of inode numbers where the directory holds several file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MultiDevices {
    /// Others than the first are refused.
    Forbid,
    /// They are changed so that no two are the same.
    Remap,
    /// Nothing but a message.
    Warn,
}

/// What virtiofsd is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct VirtiofsOptions {
    /// `<binary path>`
    pub binary: Option<String>,
    /// `<cache mode>`
    pub cache: Option<VirtiofsCache>,
    /// `xattr='on'`: the guest may set attributes, kept under a prefix that means nothing to the host.
    pub xattr: bool,
    /// `<lock posix='on'>`
    pub posix_lock: bool,
    /// `<lock flock='on'>`
    pub flock: bool,
    /// `<thread_pool size>`
    pub threads: Option<u32>,
    /// `<driver queue>`: the length of the device's queue.
    pub queue: Option<u32>,
}

/// `<cache mode>`
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VirtiofsCache {
    /// `always`
    Always,
    /// `auto`
    Auto,
    /// `none`
    None,
}

impl Filesystem {
    /// Whether virtiofsd serves it.
    #[must_use]
    pub fn virtiofs(&self) -> Option<&VirtiofsOptions> {
        match &self.driver {
            FilesystemDriver::Virtiofs(options) => Some(options),
            FilesystemDriver::Path(_) => None,
        }
    }
}
