//! Mounts by descriptor: cloned trees, their attributes, and changing the root.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};

const MOUNT_ATTR_RDONLY: u64 = 0x1;
const MOUNT_ATTR_NOSUID: u64 = 0x2;
const MOUNT_ATTR_NODEV: u64 = 0x4;
const MOUNT_ATTR_NOEXEC: u64 = 0x8;
const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;

/// What a mount forbids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountLimits {
    /// No device node can be opened through it.
    pub nodev: bool,
    /// Nothing can be executed from it.
    pub noexec: bool,
    /// Set-user-id bits, file capabilities and SELinux exec transitions are without effect.
    pub nosuid: bool,
    /// Nothing can be written through it.
    pub readonly: bool,
}

/// `struct mount_attr` of linux/mount.h.
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Makes a detached mount of the one directory or file at `path`, and of nothing mounted below it.
pub fn clone_path(path: &Path) -> io::Result<OwnedFd> {
    Ok(open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?)
}

/// The same of what `fd` holds, without looking up any path.
pub fn clone_fd(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(fd, "", flags)?)
}

/// Gives a detached mount exactly these limits, and makes it private.
pub fn limit(mount: BorrowedFd<'_>, limits: MountLimits) -> io::Result<()> {
    let wanted = [
        (limits.nodev, MOUNT_ATTR_NODEV),
        (limits.noexec, MOUNT_ATTR_NOEXEC),
        (limits.nosuid, MOUNT_ATTR_NOSUID),
        (limits.readonly, MOUNT_ATTR_RDONLY),
    ];
    let bits = |on: bool| wanted.iter().filter(|(set, _)| *set == on).fold(0, |all, (_, bit)| all | bit);
    let attr = MountAttr {
        attr_set: bits(true),
        attr_clr: bits(false),
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    set_attributes(mount, &attr)
}

/// Shows the owners of a detached mount's files through a user namespace's map: what it has inside is what the files
/// say, what it has outside is what processes see. Owners that it does not map are nobody's.
pub fn map_owners(mount: BorrowedFd<'_>, users: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = u64::try_from(users.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?;
    set_attributes(mount, &MountAttr { attr_set: MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd })
}

fn set_attributes(mount: BorrowedFd<'_>, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: the path is an empty C string, `attr` is a whole `struct mount_attr` that outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches a detached mount at `path` below the directory `dir`.
pub fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    Ok(move_mount(mount, "", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Attaches a detached mount over the directory `place` and returns its root.
pub fn attach_over(mount: BorrowedFd<'_>, place: &Path) -> io::Result<OwnedFd> {
    move_mount(mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(place, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Makes `root` (a mounted directory) the root and the working directory, and lets go of everything else.
pub fn change_root(root: impl AsFd) -> io::Result<()> {
    rustix::process::fchdir(root)?;
    rustix::process::pivot_root(".", ".")?;
    // The old root now lies over the new one: this takes it, and all below it, out of the namespace.
    unmount(".", UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Mounts `proc` with the processes of this pid namespace and, unless it is wanted, nothing of the kernel; nobody can
/// write through it.
pub fn processes(place: &str, kernel: bool) -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(mount("proc", place, "proc", flags, if kernel { None } else { Some(c"subset=pid") })?)
}

/// Stops mounts of this namespace from reaching any other, and the reverse.
pub fn make_private() -> io::Result<()> {
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

/// Moves this process into a mount namespace of its own that follows the host's mounts and never changes them.
pub fn enter_slave_namespace() -> io::Result<()> {
    super::namespace::unshare(super::namespace::Namespaces { mount: true, ..Default::default() })?;
    Ok(mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?)
}
