//! The kernel's security modules and their modes, and what seccomp can answer.

use std::fs;

use crate::conf::facts::{AppArmorFacts, SelinuxFacts};

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The active modules, in the order in which the kernel asks them.
pub(super) fn modules() -> Vec<String> {
    // Without securityfs what runs shows elsewhere.
    read("/sys/kernel/security/lsm").map_or_else(
        || {
            let here = |path: &str, name: &str| fs::metadata(path).is_ok().then(|| name.to_owned());
            let found = [here("/sys/fs/selinux/enforce", "selinux"), here("/sys/fs/smackfs/load2", "smack")];
            found.into_iter().flatten().chain(apparmor().map(|_| "apparmor".to_owned())).collect()
        },
        |list| list.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect(),
    )
}

pub(super) fn selinux() -> Option<SelinuxFacts> {
    if !crate::sys::selinux::running() {
        return None;
    }
    Some(SelinuxFacts {
        // Unreadable counts as enforcing: labels are planned all the same.
        enforcing: read("/sys/fs/selinux/enforce").is_none_or(|text| text != "0"),
    })
}

/// The version of the policy's format that the kernel loads.
pub(super) fn selinux_policy() -> Option<u32> {
    read("/sys/fs/selinux/policyvers").and_then(|text| text.parse().ok())
}

pub(super) fn apparmor() -> Option<AppArmorFacts> {
    if read("/sys/module/apparmor/parameters/enabled")? != "Y" {
        return None;
    }
    let mode = read("/sys/module/apparmor/parameters/mode");
    Some(AppArmorFacts { enforcing: mode.is_none_or(|mode| mode != "complain") })
}

/// `kill_process`, `errno` and so on.
pub(super) fn seccomp() -> Vec<String> {
    let list = read("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    list.split_whitespace().map(ToOwned::to_owned).collect()
}
