//! Whether KVM works. What was found is believed until the node, the loaded modules or the boot change.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::cache::{Cache, Identity, TriedKvm};
use crate::sys::kvm;

const NODE: &str = "/dev/kvm";

/// Why it does not work, `None` where it does; whether the cache changed.
pub(super) fn failure(cache: &mut Cache) -> (Option<String>, bool) {
    let Ok(found) = fs::metadata(NODE) else {
        return (Some("there is no /dev/kvm".into()), cache.kvm.take().is_some());
    };
    // Whether *this* user is let in is asked each time: a group may have been joined since.
    let opened = fs::File::options().read(true).write(true).open(NODE);
    if let Err(error) = opened
        && error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return (Some(format!("{NODE}: {error}")), false);
    }
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let (identity, modules) = (Identity::of(&found), modules());
    if let Some(tried) = &cache.kvm
        && tried.identity == identity
        && tried.boot == boot
        && tried.modules == modules
    {
        return (tried.failure.clone(), false);
    }
    let failure = kvm::check().err().map(|error| format!("{NODE}: {error}"));
    cache.kvm = Some(TriedKvm { identity, boot, modules, failure: failure.clone() });
    (failure, true)
}

fn modules() -> Vec<String> {
    let known = ["kvm", "kvm_amd", "kvm_intel", "kvm_pvm"].into_iter();
    known.filter(|name| fs::metadata(format!("/sys/module/{name}")).is_ok()).map(ToOwned::to_owned).collect()
}

/// Debian gives `/dev/kvm` to the group kvm (mode 0660); other hosts let everybody open it.
pub(super) fn group() -> Option<u32> {
    let node = fs::metadata(NODE).ok()?;
    let everybody = node.mode() & 0o006 == 0o006;
    (!everybody && node.mode() & 0o060 == 0o060 && node.gid() != 0).then(|| node.gid())
}
