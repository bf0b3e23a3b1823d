//! Landlock: what a process may reach of the file system, of TCP, and of processes outside its own domain.
//!
//! Every right that the wanted ABI and the kernel both know is handled, so that only the rules give any back.

use std::io;
use std::path::Path;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

/// What may be done beneath one path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allow {
    /// Execute files.
    pub execute: bool,
    /// Use device-specific ioctls on devices opened from here (ABI 5).
    pub ioctl_dev: bool,
    /// List directories.
    pub read_dir: bool,
    /// Open files for reading.
    pub read_file: bool,
    /// Change the length of files (ABI 3).
    pub truncate: bool,
    /// Open files for writing.
    pub write_file: bool,
    /// Make, remove and rename files, directories, links, sockets and FIFOs; device nodes never.
    pub names: bool,
}

impl Allow {
    /// Reading and executing, as a program and its libraries need it.
    pub const PROGRAM: Self = Self {
        execute: true,
        read_file: true,
        ioctl_dev: false,
        read_dir: false,
        truncate: false,
        write_file: false,
        names: false,
    };

    /// Everything but executing, devices and their ioctls.
    pub const TREE: Self = Self {
        execute: false,
        ioctl_dev: false,
        read_dir: true,
        read_file: true,
        truncate: true,
        write_file: true,
        names: true,
    };

    fn bits(self) -> BitFlags<AccessFs> {
        let rights = [
            (self.execute, AccessFs::Execute),
            (self.ioctl_dev, AccessFs::IoctlDev),
            (self.read_dir, AccessFs::ReadDir),
            (self.read_file, AccessFs::ReadFile),
            (self.truncate, AccessFs::Truncate),
            (self.write_file, AccessFs::WriteFile),
            (self.names, AccessFs::MakeReg),
            (self.names, AccessFs::MakeDir),
            (self.names, AccessFs::MakeSym),
            (self.names, AccessFs::MakeSock),
            (self.names, AccessFs::MakeFifo),
            (self.names, AccessFs::RemoveFile),
            (self.names, AccessFs::RemoveDir),
            (self.names, AccessFs::Refer),
        ];
        rights.into_iter().filter(|(on, _)| *on).fold(BitFlags::EMPTY, |all, (_, right)| all | right)
    }
}

/// A ruleset that is ready to be applied.
#[derive(Debug)]
pub struct Prepared {
    ruleset: Option<RulesetCreated>,
    abi: u32,
}

/// The kernel's ABI version; 0 where it has no Landlock or it is switched off.
#[must_use]
pub fn kernel_abi() -> u32 {
    const LANDLOCK_CREATE_RULESET_VERSION: u32 = 1;
    // SAFETY: with the version flag the kernel wants a null pointer and a size of 0 and reads no memory.
    let abi = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<u8>(),
            0usize,
            LANDLOCK_CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(abi).unwrap_or(0)
}

/// The ABI whose rights are in force when `wanted` is asked for on this kernel.
#[must_use]
pub fn effective_abi(wanted: u32) -> u32 {
    wanted.min(kernel_abi()).min(NEWEST)
}

/// The newest ABI whose rights this program knows.
pub const NEWEST: u32 = 7;

fn version(abi: u32) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        _ => ABI::V7,
    }
}

/// Opens the paths of the rules and makes the ruleset. `abi` is one that [`effective_abi`] gave.
///
/// A rule on a file gets those of its rights that apply to files. A path that is not there is an error. With ABI 0
/// the result restricts nothing.
pub fn prepare<P: AsRef<Path>>(abi: u32, rules: &[(P, Allow)]) -> io::Result<Prepared> {
    let ruleset = if abi == 0 { None } else { Some(build(abi, rules).map_err(io::Error::other)?) };
    Ok(Prepared { ruleset, abi })
}

fn build<P: AsRef<Path>>(
    abi: u32,
    rules: &[(P, Allow)],
) -> Result<RulesetCreated, Box<dyn std::error::Error + Send + Sync>> {
    let version = version(abi);
    // What `version` holds is in this kernel: a right that cannot be handled is a bug and must not pass silently.
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset = ruleset.handle_access(AccessFs::from_all(version))?;
    if abi >= 4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(version))?;
    }
    if abi >= 6 {
        ruleset = ruleset.scope(Scope::from_all(version))?;
    }
    let mut created = ruleset.create()?;
    for (path, allow) in rules {
        let fd = PathFd::new(path)?;
        let mut rights = allow.bits() & AccessFs::from_all(version);
        if !is_dir(&fd)? {
            rights &= AccessFs::from_file(version);
        }
        if !rights.is_empty() {
            created = created.add_rule(PathBeneath::new(fd, rights))?;
        }
    }
    Ok(created)
}

fn is_dir(fd: &PathFd) -> io::Result<bool> {
    let stat = rustix::fs::fstat(fd)?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
}

impl Prepared {
    /// Restricts this thread and what it starts from now on, and returns the ABI in force. Sets `no_new_privs` too.
    pub fn restrict_self(self) -> io::Result<u32> {
        if let Some(ruleset) = self.ruleset {
            ruleset.restrict_self().map_err(io::Error::other)?;
        }
        Ok(self.abi)
    }
}

/// Leaves this process no file, no TCP port and no process outside; returns the ABI in force.
pub fn restrict_to_nothing() -> io::Result<u32> {
    prepare::<&Path>(effective_abi(NEWEST), &[])?.restrict_self()
}
