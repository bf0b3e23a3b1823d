//! Calls that read how a domain is scheduled and limited: it stands in the definition. `tuning` changes it.

use super::call::{Answer, Call};
use super::domain::definition;
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, STRING_OKAY, impact};
use crate::conf::definition::{DISK_TUNING, Definition as Tree};
use crate::rpc::{self, Encode, Encoder, List, Opaque, ParamValue, Procedure, TypedParam, XdrError};

/// All of them read the definition's text.
pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetBlkioParameters => blkio,
        P::DomainGetBlockIoTune => disk,
        P::DomainGetIothreadInfo => iothreads,
        P::DomainGetMemoryParameters => memory,
        P::DomainGetNumaParameters => numa,
        P::DomainGetSchedulerParameters => |call| {
            let (reference, room): (rpc::Domain<'_>, i32) = call.arguments()?;
            scheduler(call, &reference, room, 0)
        },
        P::DomainGetSchedulerParametersFlags => |call| {
            let (reference, room, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
            scheduler(call, &reference, room, flags)
        },
        P::DomainGetSchedulerType => |call| {
            let reference: rpc::Domain<'_> = call.arguments()?;
            let _seen = call.domain(&reference, 0)?;
            call.answer(&("posix", i32::try_from(SCHEDULER.len()).unwrap_or(0)))
        },
        P::DomainGetVcpus => vcpus,
        _ => return None,
    })
}

/// The definition that a call with these flags is about.
fn tree(call: &Call<'_>, reference: &rpc::Domain<'_>, flags: u32) -> Result<Tree, Failure> {
    let target = call.domain(reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | STRING_OKAY)?;
    definition(&target.domain)?;
    let kept = impact(&target, flags)?.config;
    Ok(call.manager().tree(&target.domain, kept)?)
}

/// A client asks for nothing first, and is told how many there are.
fn counted<const MAX: usize>(call: &Call<'_>, mut params: Vec<TypedParam<'_>>, room: i32) -> Answer {
    let count = i32::try_from(params.len()).unwrap_or(0);
    match usize::try_from(room) {
        Ok(0) | Err(_) => call.answer(&(List::<TypedParam<'_>, MAX>(Vec::new()), count)),
        Ok(room) => {
            params.truncate(room);
            let count = i32::try_from(params.len()).unwrap_or(0);
            call.answer(&(List::<_, MAX>(params), count))
        }
    }
}

fn number(text: Option<&str>) -> Option<u64> {
    text?.parse().ok()
}

/// virDomainSchedParameter names, the elements behind them, and whether they may be negative.
const SCHEDULER: &[(&str, &str, bool)] = &[
    ("cpu_shares", "shares", false),
    ("vcpu_period", "period", false),
    ("vcpu_quota", "quota", true),
    ("emulator_period", "emulator_period", false),
    ("emulator_quota", "emulator_quota", true),
    ("global_period", "global_period", false),
    ("global_quota", "global_quota", true),
    ("iothread_period", "iothread_period", false),
    ("iothread_quota", "iothread_quota", true),
];

fn scheduler(call: &Call<'_>, reference: &rpc::Domain<'_>, room: i32, flags: u32) -> Answer {
    let tree = tree(call, reference, flags)?;
    let param = |(field, element, signed): &(&'static str, &str, bool)| {
        let text = tree.tuned(&["cputune", element]);
        let value = if *signed {
            ParamValue::Llong(text.and_then(|text| text.parse().ok()).unwrap_or(0))
        } else {
            ParamValue::Ullong(number(text).unwrap_or(0))
        };
        TypedParam { field, value }
    };
    let room = usize::try_from(room).unwrap_or(0);
    call.answer(&List::<_, 16>(SCHEDULER.iter().take(room).map(param).collect()))
}

/// VIR_DOMAIN_MEMORY_PARAM_UNLIMITED, in KiB.
pub(super) const UNLIMITED: u64 = 9_007_199_254_740_991;

fn memory(call: &Call<'_>) -> Answer {
    let (reference, room, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let tree = tree(call, &reference, flags)?;
    let param = |field| {
        let value = number(tree.tuned(&["memtune", field])).unwrap_or(UNLIMITED);
        TypedParam { field, value: ParamValue::Ullong(value) }
    };
    counted::<16>(call, ["hard_limit", "soft_limit", "swap_hard_limit"].map(param).into(), room)
}

fn blkio(call: &Call<'_>) -> Answer {
    let (reference, room, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let tree = tree(call, &reference, flags)?;
    let weight = number(tree.tuned(&["blkiotune", "weight"])).unwrap_or(0);
    let weight = ParamValue::Uint(u32::try_from(weight).unwrap_or(u32::MAX));
    let mut params = vec![TypedParam { field: "weight", value: weight }];
    let texts = [
        ("device_weight", "weight"),
        ("device_read_iops_sec", "read_iops_sec"),
        ("device_write_iops_sec", "write_iops_sec"),
        ("device_read_bytes_sec", "read_bytes_sec"),
        ("device_write_bytes_sec", "write_bytes_sec"),
    ]
    .map(|(field, element)| (field, tree.device_tuning(element)));
    if flags & STRING_OKAY != 0 {
        params.extend(texts.iter().map(|(field, text)| TypedParam { field, value: ParamValue::Text(text) }));
    }
    counted::<16>(call, params, room)
}

fn numa(call: &Call<'_>) -> Answer {
    let (reference, room, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let tree = tree(call, &reference, flags)?;
    let of = |attribute| tree.tuned_by(&["numatune", "memory"], attribute);
    // virDomainNumatuneMemMode
    let mode = match of("mode") {
        Some("preferred") => 1,
        Some("interleave") => 2,
        Some("restrictive") => 3,
        _ => 0,
    };
    let mut params = vec![TypedParam { field: "numa_mode", value: ParamValue::Int(mode) }];
    if flags & STRING_OKAY != 0 {
        let nodes = ParamValue::Text(of("nodeset").unwrap_or_default());
        params.push(TypedParam { field: "numa_nodeset", value: nodes });
    }
    counted::<16>(call, params, room)
}

fn disk(call: &Call<'_>) -> Answer {
    const GROUP: &str = "group_name";
    let (reference, disk, room, flags): (rpc::Domain<'_>, Option<&str>, i32, u32) = call.arguments()?;
    let tree = tree(call, &reference, flags)?;
    let text = flags & STRING_OKAY != 0;
    let Some(disk) = disk else {
        // How many there are is asked without a disk.
        let count = DISK_TUNING.len() - usize::from(!text);
        return call.answer(&(List::<TypedParam<'_>, 32>(Vec::new()), i32::try_from(count).unwrap_or(0)));
    };
    let missing = || {
        let text = format!("disk '{disk}' was not found in the domain config");
        Failure::new(Code::InvalidArgument, From::Qemu, text)
    };
    let tuning = tree.disk_tuning(disk).ok_or_else(missing)?;
    let param = |(field, value): (&&'static str, _)| match *field {
        GROUP if !text => None,
        GROUP => Some(TypedParam { field, value: ParamValue::Text(Option::unwrap_or_default(value)) }),
        field => Some(TypedParam { field, value: ParamValue::Ullong(number(value).unwrap_or(0)) }),
    };
    counted::<32>(call, DISK_TUNING.iter().zip(tuning).filter_map(param).collect(), room)
}

/// Number and CPUs of each.
struct Iothread(u32, Vec<u8>);

impl Encode for Iothread {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&self.0)?;
        to.put(&Opaque::<8192>(self.1.clone()))
    }
}

fn iothreads(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let tree = tree(call, &reference, flags)?;
    let count = number(tree.tuned(&["iothreads"])).unwrap_or(0).min(1024);
    let count = u32::try_from(count).unwrap_or(0);
    let cpus = super::connect::bits(call.facts().cpus);
    let all: Vec<Iothread> = (1..=count).map(|number| Iothread(number, cpus.clone())).collect();
    call.answer(&(List::<_, 16_384>(all), count))
}

/// Number, state, time and CPU of a virtual CPU.
struct Vcpu(u32);

impl Encode for Vcpu {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        // virVcpuState and virVcpuHostCpuState: it is there, and where and how long it ran is not known: its thread
        // belongs to a process namespace that this one does not see into.
        const RUNNING: i32 = 1;
        const UNAVAILABLE: i32 = -2;
        to.put(&(self.0, RUNNING, 0_u64, UNAVAILABLE))
    }
}

fn vcpus(call: &Call<'_>) -> Answer {
    const MAP_MAX: usize = 8 << 20;
    let (reference, most, length): (rpc::Domain<'_>, i32, i32) = call.arguments()?;
    let tree = tree(call, &reference, AFFECT_LIVE)?;
    let invalid = |what: &str| {
        Failure::new(Code::InvalidArgument, From::Domain, format!("{what} is out of its bounds"))
    };
    let most = u32::try_from(most).map_err(|_| invalid("maxinfo"))?;
    let length = usize::try_from(length).map_err(|_| invalid("maplen"))?;
    let count = tree.current_vcpus().min(most);
    if (count as usize).saturating_mul(length) > MAP_MAX {
        return Err(invalid("maplen"));
    }
    let pins = tree.vcpu_pins(call.facts().cpus);
    let maps = (0..count).flat_map(|vcpu| super::measure::map(&pins.of(vcpu), length)).collect();
    call.answer(&(List::<_, 16_384>((0..count).map(Vcpu).collect()), Opaque::<MAP_MAX>(maps)))
}
