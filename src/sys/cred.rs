//! Ids, capability sets and `no_new_privs`: giving privilege up for good.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, set_capabilities, set_thread_groups, set_thread_res_gid,
    set_thread_res_uid,
};

/// Takes every capability out of the bounding and the ambient set.
///
/// Goes by number until the kernel knows no more, so that a capability newer than this program goes too.
pub fn drop_bounding() -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..64 as libc::c_ulong {
        // SAFETY: PR_CAPBSET_DROP takes a number and reads no memory.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
        if done != 0 {
            let error = io::Error::last_os_error();
            return if error.raw_os_error() == Some(libc::EINVAL) && number > 0 {
                Ok(())
            } else {
                Err(error)
            };
        }
    }
    Ok(())
}

/// Empties the effective, permitted and inheritable sets.
pub fn clear_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
}

/// Sets real, effective and saved gid and uid, and exactly these supplementary groups.
pub fn set_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // -1 means "leave as it is" to the kernel.
    if uid == u32::MAX || gid == u32::MAX || groups.contains(&u32::MAX) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    set_thread_groups(&groups)?;
    set_thread_res_gid(gid, gid, gid)?;
    Ok(set_thread_res_uid(uid, uid, uid)?)
}

/// Takes the ids that root has in this user namespace. The supplementary groups stay: some files are reached by them.
pub fn become_mapped_root() -> io::Result<()> {
    set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    Ok(set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)?)
}

/// Gives up every supplementary group.
pub fn clear_groups() -> io::Result<()> {
    Ok(set_thread_groups(&[])?)
}

/// Keeps exactly these capabilities, by number, in the bounding, effective and permitted sets, and inherits none.
pub fn keep_capabilities(kept: &[u32]) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    for number in 0..64_u32 {
        if kept.contains(&number) {
            continue;
        }
        // SAFETY: PR_CAPBSET_DROP takes a number and reads no memory.
        let done = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number), 0, 0, 0) };
        if done != 0 {
            let error = io::Error::last_os_error();
            if error.raw_os_error() == Some(libc::EINVAL) && number > 0 {
                break;
            }
            return Err(error);
        }
    }
    let mask = kept.iter().fold(0_u64, |mask, number| mask | 1_u64.checked_shl(*number).unwrap_or(0));
    let set = CapabilitySet::from_bits_retain(mask);
    let sets = CapabilitySets { effective: set, permitted: set, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Makes sure that no exec gives privilege back.
pub fn set_no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// This process's effective uid.
#[must_use]
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}
