//! The Landlock ruleset of a device model, and what an older kernel lacks of it.

use crate::privsep::confinement::{LandlockAccess, LandlockRule, LandlockSpec};
use crate::privsep::op::DeviceNode;

/// The newest ABI whose rights are handled.
const NEWEST: u32 = 7;

/// What each ABI added (Documentation/userspace-api/landlock.rst).
const ADDED: [(u32, &str); 7] = [
    (1, "Landlock: files are held by labels, owners and the minimal root alone"),
    (2, "Landlock ABI 2: renaming and linking between directories"),
    (3, "Landlock ABI 3: truncating files"),
    (4, "Landlock ABI 4: TCP bind and connect"),
    (5, "Landlock ABI 5: ioctls on devices"),
    (6, "Landlock ABI 6: signals and abstract sockets outside the domain"),
    (7, "Landlock ABI 7: audit records of refusals"),
];

/// What a host with this ABI lacks below `wanted`, by name.
#[must_use]
pub fn missing(abi: u32, wanted: u32) -> Vec<String> {
    ADDED
        .iter()
        .filter(|(since, _)| *since > abi && *since <= wanted)
        .map(|(_, name)| format!("{name} (not in this kernel)"))
        .collect()
}

/// Everything is readable and executable beneath the minimal root, which holds nothing else; the device nodes may
/// be written; no rule gives TCP.
pub(super) fn spec(host_abi: u32, devices: &[DeviceNode]) -> LandlockSpec {
    let everywhere = vec![LandlockAccess::Execute, LandlockAccess::ReadDir, LandlockAccess::ReadFile];
    let mut rules = vec![LandlockRule { path: "/".into(), access: everywhere }];
    for device in devices {
        let (path, ioctl) = match device {
            DeviceNode::Kvm => ("/dev/kvm", true),
            DeviceNode::Null => ("/dev/null", false),
            DeviceNode::Urandom => continue,
        };
        let mut access = vec![LandlockAccess::ReadFile, LandlockAccess::WriteFile];
        if ioctl {
            access.push(LandlockAccess::IoctlDev);
        }
        access.sort_unstable();
        rules.push(LandlockRule { path: path.into(), access });
    }
    LandlockSpec { abi: host_abi.min(NEWEST), rules }
}
