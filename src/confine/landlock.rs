//! The Landlock ruleset of a device model, and what an older kernel lacks of it.

use crate::privsep::confinement::{LandlockAccess, LandlockRule, LandlockSpec, RootShare, RootShmem};
use crate::privsep::op::DeviceNode;

/// The newest ABI whose rights are handled.
const NEWEST: u32 = 7;

/// Everything is readable and executable beneath the minimal root, which holds nothing else; the device nodes may
/// be written, and what is shared over 9p; no rule gives TCP.
pub(super) fn spec(
    host_abi: u32,
    devices: &[DeviceNode],
    shares: &[RootShare],
    shmems: &[RootShmem],
) -> LandlockSpec {
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
    for share in shares {
        // A share that is read-only is a read-only mount.
        let access = vec![
            LandlockAccess::Names,
            LandlockAccess::ReadDir,
            LandlockAccess::ReadFile,
            LandlockAccess::WriteFile,
        ];
        rules.push(LandlockRule { path: RootShare::path(share.number), access });
    }
    for shmem in shmems {
        let access = vec![LandlockAccess::ReadFile, LandlockAccess::WriteFile];
        rules.push(LandlockRule { path: RootShmem::path(shmem.number), access });
    }
    LandlockSpec { abi: host_abi.min(NEWEST), rules }
}
