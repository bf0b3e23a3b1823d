//! Reads this host once into a [`HostFacts`] value: kernel, Landlock, SELinux, KVM and the emulators' versions.
//! Never changes the host; it may write one cache file, where it runs as root.
//!
//! To be called before privilege is dropped: an unprivileged process cannot open `/dev/kvm` on most hosts,
//! and would report a host without KVM.
#![forbid(unsafe_code)]

mod emulator;

use std::fs;

use crate::conf::facts::{HostFacts, SelinuxFacts};
use crate::settings::Settings;

/// Reads everything. What cannot be read counts as absent: nothing here is worth more than a missing layer,
/// and a missing layer is named in the plan or refuses the start.
#[must_use]
pub fn read(settings: &Settings) -> HostFacts {
    let system = rustix::system::sysinfo();
    HostFacts {
        kernel_release: rustix::system::uname().release().to_string_lossy().into_owned(),
        landlock_abi: crate::sys::landlock::kernel_abi(),
        selinux: selinux(),
        kvm: crate::sys::kvm::check().is_ok(),
        kvm_group: kvm_group(),
        emulators: emulator::versions(settings),
        cpus: cpus().unwrap_or(1),
        memory: (system.totalram as u64).saturating_mul(u64::from(system.mem_unit)),
    }
}

/// Debian gives `/dev/kvm` to the group kvm (mode 0660); other hosts let everybody open it.
fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let node = fs::metadata("/dev/kvm").ok()?;
    let everybody = node.mode() & 0o006 == 0o006;
    (!everybody && node.mode() & 0o060 == 0o060 && node.gid() != 0).then(|| node.gid())
}

fn selinux() -> Option<SelinuxFacts> {
    if !crate::sys::selinux::running() {
        return None;
    }
    // Unreadable counts as enforcing: labels are planned all the same.
    let enforcing = fs::read_to_string("/sys/fs/selinux/enforce").map_or(true, |text| text.trim() != "0");
    Some(SelinuxFacts { enforcing })
}

fn cpus() -> Option<u32> {
    let online = fs::read_to_string("/sys/devices/system/cpu/online").ok()?;
    count(online.trim())
}

/// How many numbers a list such as `0-3,8` has.
fn count(list: &str) -> Option<u32> {
    list.split(',').try_fold(0u32, |sum, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(count("0"), Some(1));
        assert_eq!(count("0-3,8,10-11"), Some(7));
        assert_eq!(count(""), None);
        assert_eq!(count("3-1"), None);
    }

    #[test]
    fn this_host_has_a_kernel_memory_and_cpus() {
        let settings =
            Settings { emulators: crate::settings::Emulators { allowed: vec![] }, ..Settings::default() };
        let facts = read(&settings);
        assert!(!facts.kernel_release.is_empty());
        assert!(facts.memory > 0 && facts.cpus > 0);
    }
}
