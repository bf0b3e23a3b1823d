//! Resource limits of a device model, each with its reason.

use crate::conf::domain::Domain;
use crate::privsep::confinement::{Rlimit, RlimitKind};

/// Descriptors beside the inherited ones: eventfds of queues, duplicates of descriptor sets, VNC clients.
const NOFILE_SPARE: u64 = 1024;
/// Each virtio device takes an eventfd a queue and vector.
const NOFILE_PER_DEVICE: u64 = 192;
/// Threads beside the vcpus: QEMU's pool has up to 64 a context, and there are VNC workers and iothreads.
const NPROC_SPARE: u64 = 256;

/// The limits. There is none on file size: an image may be of any size, and growing it is the guest's right.
pub(super) fn rlimits(domain: &Domain, fds: usize, dump: bool) -> Vec<Rlimit> {
    let devices = &domain.devices;
    let count = devices.disks.len()
        + devices.interfaces.len()
        + devices.serials.len()
        + devices.consoles.len()
        + devices.channels.len()
        + devices.controllers.len()
        + devices.inputs.len()
        + devices.filesystems.len();
    let nofile = NOFILE_SPARE
        .saturating_add(NOFILE_PER_DEVICE.saturating_mul(count as u64 + u64::from(domain.vcpus)))
        .saturating_add(2 * fds as u64)
        .min(1 << 20);
    let limit = |resource, value| Rlimit { resource, value: Some(value) };
    vec![
        // A core holds the guest's memory, so there is none unless the administrator wants it.
        Rlimit { resource: RlimitKind::Core, value: (!dump).then_some(0) },
        // The cgroup's limit on memory holds for what is locked too.
        Rlimit { resource: RlimitKind::Memlock, value: (!domain.memory_backing.locked).then_some(0) },
        // QEMU uses no message queues.
        limit(RlimitKind::Msgqueue, 0),
        limit(RlimitKind::Nofile, nofile),
        // The uid is the domain's alone, so this counts its threads only.
        limit(RlimitKind::Nproc, (NPROC_SPARE + u64::from(domain.vcpus)).min(65_536)),
    ]
}
