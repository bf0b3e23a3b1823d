//! Calls that measure the host, and those about a domain whose answer is that there is nothing.

use super::Kind;
use super::call::{Answer, Call};
use super::domain::definition;
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, impact};
use crate::rpc::{self, List, Opaque, Procedure};

/// Answered from memory and the kernel's files.
pub(super) fn fast(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetAutostartOnce => autostart_once,
        P::NodeGetCellsFreeMemory => cells_free_memory,
        P::NodeGetCpuStats => cpu_stats,
        P::NodeGetMemoryStats => memory_stats,
        _ => return None,
    })
}

/// Answered from what the store has.
pub(super) fn slow(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainInterfaceAddresses => addresses,
        P::DomainGetEmulatorPinInfo => emulator_pins,
        P::DomainGetVcpuPinInfo => vcpu_pins,
        _ => return None,
    })
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, From::None, text.into())
}

/// A client asks for nothing first, and is told how many there are; then for exactly as many.
fn counted(call: &Call<'_>, stats: &[(&'static str, u64)], room: i32) -> Answer {
    let count = i32::try_from(stats.len()).unwrap_or(0);
    match room {
        0 => call.answer(&(List::<(&str, u64), 16>(Vec::new()), count)),
        room if room == count => call.answer(&(List::<(&str, u64), 16>(stats.to_vec()), count)),
        _ => Err(invalid(format!("nparams in {} must be equal to {count}", call.procedure.api()))),
    }
}

/// The made-up host measures nothing.
fn real(call: &Call<'_>) -> Result<(), Failure> {
    if call.kind() == Kind::Test {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    Ok(())
}

fn cpu_stats(call: &Call<'_>) -> Answer {
    const ALL: i32 = -1;
    let (cpu, room, flags): (i32, i32, u32) = call.arguments()?;
    real(call)?;
    call.only_flags(flags, 0)?;
    let cpu = if cpu == ALL { None } else { Some(cpu) };
    let times =
        super::node::cpu_times(cpu).ok_or_else(|| invalid("the kernel does not tell of such a CPU"))?;
    let [kernel, user, idle, iowait] = times;
    counted(call, &[("kernel", kernel), ("user", user), ("idle", idle), ("iowait", iowait)], room)
}

fn memory_stats(call: &Call<'_>) -> Answer {
    const ALL: i32 = -1;
    let (room, cell, flags): (i32, i32, u32) = call.arguments()?;
    real(call)?;
    call.only_flags(flags, 0)?;
    let one_cell = call.node().capabilities.host.cells.len() <= 1;
    let names: &[(&'static str, &str)] = match cell {
        ALL => &[("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached")],
        0 if one_cell => &[("total", "MemTotal"), ("free", "MemFree")],
        _ => return Err(invalid("memory is told of for the whole host only; leave --cell out")),
    };
    let stats = names
        .iter()
        .map(|(name, field)| Ok((*name, super::node::memory(field)? / 1024)))
        .collect::<Result<Vec<_>, Failure>>()?;
    counted(call, &stats, room)
}

fn cells_free_memory(call: &Call<'_>) -> Answer {
    let (first, most): (i32, i32) = call.arguments()?;
    real(call)?;
    if first != 0 || most < 1 || call.node().capabilities.host.cells.len() > 1 {
        return Err(invalid("free memory is told of for a host with one NUMA node only"));
    }
    call.answer(&List::<u64, 1024>(vec![call.node().free_memory()?]))
}

/// No domain is started once only.
fn autostart_once(call: &Call<'_>) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    let _seen = call.domain(&reference, 0)?;
    call.answer(&false)
}

/// virDomainInterfaceAddressesSource
const LEASE: u32 = 0;
const AGENT: u32 = 1;
const ARP: u32 = 2;

/// Whether a call for addresses asks no guest.
pub(super) fn known_addresses(call: &Call<'_>) -> bool {
    call.arguments().is_ok_and(|(_, source, _): (rpc::Domain<'_>, u32, u32)| source != AGENT)
}

/// No DHCP server of ours leases any, and our guests share no segment with the host; a guest's agent may tell.
fn addresses(call: &Call<'_>) -> Answer {
    let (reference, source, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, source)?;
    call.only_flags(flags, 0)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    match source {
        LEASE | ARP => call.answer(&List::<u32, 0>(Vec::new())),
        AGENT => super::agent::addresses(call, &target),
        _ => Err(invalid(format!("Unknown IP address data source {source}"))),
    }
}

/// What pins are asked of.
#[derive(Clone, Copy)]
enum Pinned {
    Emulator,
    /// So many virtual CPUs at most.
    Vcpus(u32),
}

/// virDomainModificationImpact, and virDomainVcpuFlags' hotpluggable ones.
fn pins(
    call: &Call<'_>,
    reference: &rpc::Domain<'_>,
    flags: u32,
    of: Pinned,
    length: i32,
) -> Result<(Vec<u8>, i32), Failure> {
    const BYTES_MAX: usize = 8 << 20;
    // REMOTE_CPUMAP_MAX: 16,384 CPUs. A short call is not to be answered with megabytes of zeroes.
    const MAP_MAX: usize = 2048;
    let target = call.domain(reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    definition(&target.domain)?;
    let kept = impact(&target, flags)?.config;
    let tree = call.manager().tree(&target.domain, kept)?;
    let count = match of {
        Pinned::Emulator => 1,
        Pinned::Vcpus(most) => tree.vcpus().min(most),
    };
    let length = usize::try_from(length).ok().filter(|length| (1..=MAP_MAX).contains(length));
    let length = length.filter(|length| (count as usize).saturating_mul(*length) <= BYTES_MAX);
    let length = length.ok_or_else(|| invalid("maplen is out of its bounds"))?;
    let cpus = call.facts().cpus;
    let maps = match of {
        Pinned::Emulator => map(&tree.emulator_pins(cpus), length),
        Pinned::Vcpus(_) => {
            let pins = tree.vcpu_pins(cpus);
            (0..count).flat_map(|vcpu| map(&pins.of(vcpu), length)).collect()
        }
    };
    Ok((maps, i32::try_from(count).unwrap_or(0)))
}

/// A map of CPUs with so many bytes.
pub(super) fn map(cpus: &[u32], length: usize) -> Vec<u8> {
    let mut map = vec![0_u8; length];
    for cpu in cpus {
        if let Some(byte) = map.get_mut((cpu / 8) as usize) {
            *byte |= 1 << (cpu % 8);
        }
    }
    map
}

fn vcpu_pins(call: &Call<'_>) -> Answer {
    let (reference, count, length, flags): (rpc::Domain<'_>, i32, i32, u32) = call.arguments()?;
    let count = u32::try_from(count).map_err(|_| invalid("ncpumaps is out of its bounds"))?;
    let (maps, found) = pins(call, &reference, flags, Pinned::Vcpus(count), length)?;
    call.answer(&(Opaque::<{ 8 << 20 }>(maps), found))
}

fn emulator_pins(call: &Call<'_>) -> Answer {
    let (reference, length, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let (maps, found) = pins(call, &reference, flags, Pinned::Emulator, length)?;
    call.answer(&(Opaque::<{ 8 << 20 }>(maps), found))
}
