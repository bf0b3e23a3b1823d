//! What a domain's cgroup lets it have.

use super::shares;
use crate::conf::domain::{Domain, VirtType};
use crate::privsep::op::{CgroupLimits, DeviceNode};
use crate::privsep::tuning::Tuned;

/// Memory of QEMU itself, in bytes: code, device state, worker threads, display.
const QEMU_MEMORY: u64 = 512 << 20;
/// What TCG's translations may take besides, in bytes: QEMU's own largest buffer.
const TCG_MEMORY: u64 = 1 << 30;
/// Threads besides the virtual CPUs: 64 of the pool, main, RCU, display and margin.
const QEMU_THREADS: u64 = 128;

/// Memory of one virtiofsd beside the guest's, which it shares, in bytes: a node for each file that the guest knows.
const SERVER_MEMORY: u64 = 256 << 20;
/// Threads of one virtiofsd: one a queue, and its pool.
const SERVER_THREADS: u64 = 80;

/// The cgroup lets through exactly the device nodes that the root shows.
pub(super) fn cgroup(domain: &Domain, devices: &[DeviceNode], cpus: Vec<u32>) -> CgroupLimits {
    let Tuned { memory_max, cpu_max, tuning } = tuned(domain);
    let served = shares::helpers(domain) as u64;
    CgroupLimits {
        memory_max,
        pids_max: u64::from(domain.vcpus)
            .saturating_add(QEMU_THREADS)
            .saturating_add(served * SERVER_THREADS),
        devices: devices.to_vec(),
        cpus,
        cpu_max,
        tuning,
    }
}

/// The limits that may change while a domain runs.
#[must_use]
pub fn tuned(domain: &Domain) -> Tuned {
    let own = match domain.virt {
        VirtType::Kvm => QEMU_MEMORY,
        VirtType::Qemu => QEMU_MEMORY + TCG_MEMORY,
    };
    let served = shares::helpers(domain) as u64;
    let needed = domain.memory.saturating_add(own).saturating_add(served * SERVER_MEMORY);
    let tuning = domain.tuning;
    Tuned { memory_max: tuning.hard_limit.unwrap_or(needed), cpu_max: tuning.cpu_max(domain.vcpus), tuning }
}
