//! Calls that ask something of a domain that runs, or set what it has.

use serde_json::Value;

use super::call::{Answer, Call, Target};
use super::error::{Code, Failure, From};
use super::keys::{self, KeyError};
use crate::base::DomainUuid;
use crate::conf::definition::TypedCpus;
use crate::manager::{self, BlockStats, Manager, ManagerError};
use crate::privsep::ask::Ask;
use crate::rpc::{self, Encode, Encoder, List, ParamValue, Procedure, TypedParam, XdrError};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainBlockStats => block_stats,
        P::DomainBlockStatsFlags => block_stats_flags,
        P::DomainGetBlockInfo => block_info,
        P::DomainGetDiskErrors => disk_errors,
        P::DomainInjectNmi => |call| order(call, |manager, uuid| manager.ask(uuid, Ask::InjectNmi).map(drop)),
        P::DomainMemoryStats => memory_stats,
        P::DomainReset => |call| order(call, Manager::reset),
        P::DomainSendKey => send_key,
        P::DomainSetMaxMemory => set_max_memory,
        P::DomainSetMemory => set_memory,
        P::DomainSetMemoryFlags => set_memory_flags,
        P::DomainSetMemoryStatsPeriod => set_period,
        P::DomainSetVcpu => set_vcpu,
        P::DomainSetVcpus => set_vcpus,
        P::DomainSetVcpusFlags => set_vcpus_flags,
        _ => return None,
    })
}

/// virDomainModificationImpact
pub(super) const AFFECT_LIVE: u32 = 1;
pub(super) const AFFECT_CONFIG: u32 = 2;
/// virDomainMemoryModFlags and virDomainVcpuFlags
const MAXIMUM: u32 = 4;
/// virDomainVcpuFlags: by the guest's agent, which switches off what it does not use.
pub(super) const GUEST: u32 = 8;
/// virDomainVcpuFlags: so that they can be taken out again.
const HOTPLUGGABLE: u32 = 16;
/// virTypedParameterFlags: texts are welcome.
pub(super) const STRING_OKAY: u32 = 4;

/// What a change concerns, once "current" has found its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Impact {
    /// What runs.
    pub(super) live: bool,
    /// What is kept.
    pub(super) config: bool,
}

impl Impact {
    /// The same for the manager, which forces nothing.
    pub(super) fn unforced(self) -> manager::Impact {
        manager::Impact { live: self.live, config: self.config, force: false }
    }
}

/// Reads libvirt's flags of impact for one domain.
pub(super) fn impact(target: &Target<'_>, flags: u32) -> Result<Impact, Failure> {
    let invalid = |text: &str| Failure::new(Code::OperationInvalid, From::Qemu, text);
    let active = target.domain.is_active();
    let impact = match flags & (AFFECT_LIVE | AFFECT_CONFIG) {
        0 => Impact { live: active, config: !active },
        flags => Impact { live: flags & AFFECT_LIVE != 0, config: flags & AFFECT_CONFIG != 0 },
    };
    if impact.live && !active {
        return Err(invalid("domain is not running"));
    }
    if impact.config && target.domain.definition.is_none() {
        return Err(invalid("transient domains do not have any persistent config"));
    }
    Ok(impact)
}

fn order(call: &Call<'_>, order: impl FnOnce(&Manager, DomainUuid) -> Result<(), ManagerError>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    order(manager, uuid)?;
    call.answer(&())
}

fn send_key(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, u32, u32, List<u32, 16>, u32);
    let (reference, set, hold, codes, flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let wrong = |text: String| Failure::new(Code::InvalidArgument, From::Domain, text);
    let number = |code: &u32| {
        keys::number(set, *code).map_err(|error| match error {
            KeyError::Set => {
                wrong(format!("key codes of set {set} are not understood; use linux, xt or qnum"))
            }
            KeyError::Code(code) => wrong(format!("no key has the code {code} in set {set}")),
        })
    };
    let keys = codes.0.iter().map(number).collect::<Result<Vec<u8>, Failure>>()?;
    let (manager, uuid) = target.parts();
    manager.ask(uuid, Ask::SendKey { keys, hold })?;
    call.answer(&())
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn block_stats(call: &Call<'_>) -> Answer {
    let (reference, path): (rpc::Domain<'_>, &str) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    let (manager, uuid) = target.parts();
    let stats = manager.block_stats(uuid, path)?;
    let numbers = [stats.reads, stats.read_bytes, stats.writes, stats.write_bytes].map(signed);
    let [reads, read_bytes, writes, write_bytes] = numbers;
    // QEMU counts no errors.
    call.answer(&(reads, read_bytes, writes, write_bytes, -1_i64))
}

fn block_params(stats: &BlockStats) -> Vec<TypedParam<'static>> {
    [
        ("wr_bytes", stats.write_bytes),
        ("wr_operations", stats.writes),
        ("rd_bytes", stats.read_bytes),
        ("rd_operations", stats.reads),
        ("flush_operations", stats.flushes),
        ("wr_total_times", stats.write_time),
        ("rd_total_times", stats.read_time),
        ("flush_total_times", stats.flush_time),
    ]
    .map(|(field, value)| TypedParam { field, value: ParamValue::Llong(signed(value)) })
    .into()
}

fn block_stats_flags(call: &Call<'_>) -> Answer {
    let (reference, path, room, flags): (rpc::Domain<'_>, &str, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, STRING_OKAY)?;
    let (manager, uuid) = target.parts();
    let mut params = block_params(&manager.block_stats(uuid, path)?);
    let count = i32::try_from(params.len()).unwrap_or(0);
    let room = usize::try_from(room).unwrap_or(0);
    if room == 0 {
        return call.answer(&(List::<TypedParam<'_>, 16>(Vec::new()), count));
    }
    params.truncate(room);
    let count = i32::try_from(params.len()).unwrap_or(0);
    call.answer(&(List::<_, 16>(params), count))
}

fn block_info(call: &Call<'_>) -> Answer {
    let (reference, path, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    if target.domain.is_active() {
        let info = manager.block_info(uuid, path)?;
        return call.answer(&(info.allocation, info.capacity, info.physical));
    }
    let disk = manager.kept_disk(&target.domain, path)?;
    let info = call.pools().info_of(disk.medium()?)?;
    call.answer(&(info.allocation, info.capacity, info.physical))
}

/// Disks that failed stop the guest, which its state tells; none is listed here.
fn disk_errors(call: &Call<'_>) -> Answer {
    let (reference, _room, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    call.answer(&(List::<&str, 256>(Vec::new()), 0_i32))
}

/// virDomainMemoryStatTags, by the names that QEMU has for them, and whether they are in bytes.
const GUEST_STATS: &[(&str, i32, bool)] = &[
    ("stat-swap-in", 0, true),
    ("stat-swap-out", 1, true),
    ("stat-major-faults", 2, false),
    ("stat-minor-faults", 3, false),
    ("stat-free-memory", 4, true),
    ("stat-total-memory", 5, true),
    ("stat-available-memory", 8, true),
    ("stat-disk-caches", 10, true),
    ("stat-htlb-pgalloc", 11, false),
    ("stat-htlb-pgfail", 12, false),
];
const ACTUAL_BALLOON: i32 = 6;
const RSS: i32 = 7;
const LAST_UPDATE: i32 = 9;

struct Stat(i32, u64);

impl Encode for Stat {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&(self.0, self.1))
    }
}

/// What the guest reports of its memory, by virDomainMemoryStatTags; nothing where QEMU does not answer.
pub(super) fn reported_memory(answer: &Value) -> Vec<(i32, u64)> {
    let reported = |name: &str| answer.get("stats").and_then(|stats| stats.get(name)?.as_u64());
    // What the guest does not report is the largest number.
    let known = GUEST_STATS.iter().filter_map(|(name, tag, bytes)| {
        let value = reported(name).filter(|value| *value != u64::MAX)?;
        Some((*tag, if *bytes { value / 1024 } else { value }))
    });
    known.chain(answer.get("last-update").and_then(|when| Some((LAST_UPDATE, when.as_u64()?)))).collect()
}

fn memory_stats(call: &Call<'_>) -> Answer {
    let (reference, room, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    let (manager, uuid) = target.parts();
    let mut stats = vec![Stat(ACTUAL_BALLOON, manager.memory(uuid)? / 1024)];
    let answer = manager.ask(uuid, Ask::GuestMemory).unwrap_or_default();
    stats.extend(reported_memory(&answer).into_iter().map(|(tag, value)| Stat(tag, value)));
    stats.extend(super::usage::resident(&target.domain).map(|bytes| Stat(RSS, bytes / 1024)));
    stats.truncate(usize::try_from(room).unwrap_or(usize::MAX));
    call.answer(&List::<Stat, 1024>(stats))
}

fn set_period(call: &Call<'_>) -> Answer {
    let (reference, period, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let wrong = |text: &str| Failure::new(Code::InvalidArgument, From::Domain, text);
    let seconds = u32::try_from(period).map_err(|_| wrong("period must not be negative"))?;
    let impact = impact(&target, flags)?;
    let (manager, uuid) = target.parts();
    manager.set_balloon_period(uuid, impact.unforced(), seconds)?;
    call.answer(&())
}

fn bytes(kibibytes: u64) -> Result<u64, Failure> {
    let bytes = kibibytes.checked_mul(1024).filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| Failure::new(Code::InvalidArgument, From::Domain, "memory is out of its bounds"))
}

fn set_memory(call: &Call<'_>) -> Answer {
    let (reference, memory): (rpc::Domain<'_>, u64) = call.arguments()?;
    change_memory(call, &call.domain(&reference, 0)?, memory, AFFECT_LIVE)
}

fn set_max_memory(call: &Call<'_>) -> Answer {
    let (reference, memory): (rpc::Domain<'_>, u64) = call.arguments()?;
    change_memory(call, &call.domain(&reference, 0)?, memory, MAXIMUM)
}

fn set_memory_flags(call: &Call<'_>) -> Answer {
    let (reference, memory, flags): (rpc::Domain<'_>, u64, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | MAXIMUM)?;
    change_memory(call, &target, memory, flags)
}

fn change_memory(call: &Call<'_>, target: &Target<'_>, memory: u64, flags: u32) -> Answer {
    let impact = impact(target, flags)?;
    let (manager, uuid) = target.parts();
    let bytes = bytes(memory)?;
    let maximum = flags & MAXIMUM != 0;
    if maximum && impact.live {
        let text = "cannot resize the maximum memory on an active domain";
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, text));
    }
    if maximum {
        manager.edit(uuid, |tree| {
            tree.set_memory(bytes);
            Ok(())
        })?;
    } else {
        manager.set_memory(uuid, impact.unforced(), bytes)?;
    }
    call.answer(&())
}

fn set_vcpus(call: &Call<'_>) -> Answer {
    let (reference, count): (rpc::Domain<'_>, u32) = call.arguments()?;
    change_vcpus(call, &call.domain(&reference, 0)?, count, AFFECT_LIVE)
}

fn set_vcpus_flags(call: &Call<'_>) -> Answer {
    let (reference, count, flags): (rpc::Domain<'_>, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | MAXIMUM | GUEST | HOTPLUGGABLE)?;
    let invalid = |text: &str| Failure::new(Code::InvalidArgument, From::Domain, text);
    if flags & HOTPLUGGABLE != 0 && impact(&target, flags)?.config {
        let text = "virtual CPUs that a guest starts with stay: only those that setvcpus --live adds can be taken out again";
        return Err(Failure::new(Code::ConfigUnsupported, From::Qemu, text));
    }
    if flags & GUEST == 0 {
        return change_vcpus(call, &target, count, flags);
    }
    if flags & (MAXIMUM | AFFECT_CONFIG) != 0 {
        return Err(invalid("the guest itself has neither a maximum nor a kept count of vcpus"));
    }
    if count == 0 {
        return Err(invalid("the number of vcpus must not be 0"));
    }
    super::agent::use_vcpus(&target, count)?;
    call.answer(&())
}

fn set_vcpu(call: &Call<'_>) -> Answer {
    let (reference, map, state, flags): (rpc::Domain<'_>, &str, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let invalid = |text: String| Failure::new(Code::InvalidArgument, From::Domain, text);
    let on = match state {
        0 => false,
        1 => true,
        _ => return Err(invalid("unsupported state value".into())),
    };
    let wanted = TypedCpus::parse(map);
    let wanted = wanted.ok_or_else(|| invalid(format!("Failed to parse bitmap '{map:.80}'")))?;
    let impact = impact(&target, flags)?;
    let (manager, uuid) = target.parts();
    manager.set_these_vcpus(uuid, impact.unforced(), &wanted, on)?;
    call.answer(&())
}

/// Virtual CPUs are plugged in while the guest runs, as many as it may have, and those taken out again.
fn change_vcpus(call: &Call<'_>, target: &Target<'_>, count: u32, flags: u32) -> Answer {
    let impact = impact(target, flags)?;
    let (manager, uuid) = target.parts();
    let invalid = |text: String| Failure::new(Code::InvalidArgument, From::Domain, text);
    if count == 0 {
        return Err(invalid("the number of vcpus must not be 0".into()));
    }
    let maximum = flags & MAXIMUM != 0;
    let beyond = |of: &str, most: u32| {
        format!("requested vcpus is greater than max allowable vcpus for the {of} domain: {count} > {most}")
    };
    let live = target.domain.running().and_then(|live| live.definition.as_ref());
    let (most, kept) =
        (live.map_or(0, |it| it.vcpus), target.domain.definition.as_ref().map_or(0, |it| it.vcpus));
    if impact.live && maximum {
        return Err(invalid("maximum vcpu count of a live domain can't be modified".into()));
    }
    if impact.live && count > most {
        return Err(invalid(beyond("live", most)));
    }
    if impact.config && !maximum && count > kept {
        return Err(invalid(beyond("persistent", kept)));
    }
    if maximum {
        manager.edit(uuid, |tree| {
            tree.set_vcpus(count);
            Ok(())
        })?;
    } else {
        manager.set_vcpus(uuid, impact.unforced(), count)?;
    }
    call.answer(&())
}
