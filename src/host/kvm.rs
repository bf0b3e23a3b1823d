//! Whether KVM works. A node that does not is not tried again until it, the loaded modules or the boot change.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::cache::{BrokenKvm, Cache, Identity};
use crate::sys::kvm;

const NODE: &str = "/dev/kvm";

/// Why it does not work, `None` where it does; whether the cache changed.
pub(super) fn failure(cache: &mut Cache) -> (Option<String>, bool) {
    let Ok(found) = fs::metadata(NODE) else {
        return (Some("there is no /dev/kvm".into()), cache.kvm.take().is_some());
    };
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (identity, modules) = (Identity::of(&found), modules());
    if let Some(broken) = &cache.kvm
        && broken.identity == identity
        && broken.boot == boot
        && broken.modules == modules
    {
        return (Some(broken.reason.clone()), false);
    }
    match kvm::check() {
        Ok(()) => (None, cache.kvm.take().is_some()),
        // Another user may be let in: nothing to remember.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            (Some(format!("{NODE}: {error}")), false)
        }
        Err(error) => {
            let reason = format!("{NODE}: {error}");
            cache.kvm = Some(BrokenKvm { identity, boot, modules, reason: reason.clone() });
            (Some(reason), true)
        }
    }
}

fn modules() -> Vec<String> {
    let known = ["kvm", "kvm_amd", "kvm_intel"].into_iter();
    known.filter(|name| fs::metadata(format!("/sys/module/{name}")).is_ok()).map(ToOwned::to_owned).collect()
}

/// Debian gives `/dev/kvm` to the group kvm (mode 0660); other hosts let everybody open it.
pub(super) fn group() -> Option<u32> {
    let node = fs::metadata(NODE).ok()?;
    let everybody = node.mode() & 0o006 == 0o006;
    (!everybody && node.mode() & 0o060 == 0o060 && node.gid() != 0).then(|| node.gid())
}
