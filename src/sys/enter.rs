//! Going where another process is: its namespaces, root, ids and capability sets.

use std::io;
use std::os::fd::BorrowedFd;

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, chdir, setgroups, setresgid, setresuid};

/// Enters the cgroup, ipc, mount, net, pid and uts namespaces of a process, all at once; children of the caller
/// are then in its pid namespace. Needs a pidfd and Linux 5.8 (setns(2)).
pub fn namespaces(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let all = CloneFlags::CLONE_NEWCGROUP
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS;
    setns(pidfd, all)?;
    chdir("/")?;
    Ok(())
}

/// Takes another root directory, opened before.
pub fn root(directory: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::fchdir(directory)?;
    nix::unistd::chroot(".")?;
    Ok(())
}

/// Takes these ids, real, effective, saved; the file system ids follow.
pub fn ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    setgroups(&groups)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(())
}

/// Drops from the bounding set what `mask` lacks, and empties the ambient set. Needs `CAP_SETPCAP`.
pub fn bounding(mask: u64) -> io::Result<()> {
    for capability in caps::all() {
        let keep = mask & capability.bitmask() != 0;
        if !keep && has(CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability).map_err(io::Error::other)?;
        }
    }
    caps::clear(None, CapSet::Ambient).map_err(io::Error::other)
}

/// Sets the permitted, effective and inheritable sets to what they hold and `mask` names.
pub fn permitted(mask: u64) -> io::Result<()> {
    for set in [CapSet::Effective, CapSet::Inheritable, CapSet::Permitted] {
        let held = caps::read(None, set).map_err(io::Error::other)?;
        let kept = held.into_iter().filter(|capability| mask & capability.bitmask() != 0).collect();
        caps::set(None, set, &kept).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Sets `no_new_privs` for this thread and what it executes.
pub fn no_new_privs() -> io::Result<()> {
    Ok(nix::sys::prctl::set_no_new_privs()?)
}

/// A kernel older than the capability answers with an error: it is not held.
fn has(set: CapSet, capability: Capability) -> io::Result<bool> {
    Ok(caps::has_cap(None, set, capability).unwrap_or(false))
}
