//! Calls about what the host's and QEMU's counters say of a domain: processor time, perf events, dirty memory.

use super::call::{Answer, Call};
use super::error::{Code, Failure, From};
use super::live::{AFFECT_CONFIG, AFFECT_LIVE, STRING_OKAY, impact};
use super::usage;
use crate::privsep::ask::{Ask, DIRTY_SECONDS_MAX, DirtyMode};
use crate::rpc::{self, List, ParamValue, Procedure, TypedParam};

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetCpuStats => cpu_stats,
        P::DomainGetPerfEvents => perf,
        P::DomainSetPerfEvents => set_perf,
        P::DomainStartDirtyRateCalc => dirty_rate,
        _ => return None,
    })
}

/// The whole domain, or each of the host's CPUs: the second is not counted by control groups of the second version.
fn cpu_stats(call: &Call<'_>) -> Answer {
    const TOTAL: i32 = -1;
    const NAMES: [&str; 3] = ["cpu_time", "user_time", "system_time"];
    let (reference, room, first, count, flags): (rpc::Domain<'_>, u32, i32, u32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, STRING_OKAY)?;
    if !target.domain.is_active() {
        return Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"));
    }
    let absent = || {
        let text =
            "cgroup CPUACCT controller is not mounted: svirtd reads groups of the second version alone";
        Failure::new(Code::OperationInvalid, From::Qemu, text)
    };
    let times = usage::cpu(&target.domain).ok_or_else(absent)?;
    if first != TOTAL {
        let text = "operation 'getCpuacctPercpuUsage' not supported for backend 'cgroup V2'";
        return Err(Failure::new(Code::OperationUnsupported, From::None, text));
    }
    if count != 1 {
        let text = "ncpus must be 1 for the time of all CPUs together";
        return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
    }
    let names = i32::try_from(NAMES.len()).unwrap_or(0);
    let all = NAMES.iter().zip(times);
    let all = all.map(|(field, time)| TypedParam { field, value: ParamValue::Ullong(time) });
    let all: Vec<_> = all.take(room as usize).collect();
    let found = if room == 0 { names } else { i32::try_from(all.len()).unwrap_or(0) };
    call.answer(&(List::<_, 2048>(all), found))
}

/// virPerfEventType, in libvirt's order.
const PERF: &[&str] = &[
    "cmt",
    "mbmt",
    "mbml",
    "cpu_cycles",
    "instructions",
    "cache_references",
    "cache_misses",
    "branch_instructions",
    "branch_misses",
    "bus_cycles",
    "stalled_cycles_frontend",
    "stalled_cycles_backend",
    "ref_cpu_cycles",
    "cpu_clock",
    "task_clock",
    "page_faults",
    "context_switches",
    "cpu_migrations",
    "page_faults_min",
    "page_faults_maj",
    "alignment_faults",
    "emulation_faults",
];

/// None is ever counted: perf shows what other processes on the same processor do.
fn perf(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG | STRING_OKAY)?;
    impact(&target, flags)?;
    let off = |field: &&'static str| TypedParam { field, value: ParamValue::Boolean(false) };
    call.answer(&List::<_, 64>(PERF.iter().map(off).collect()))
}

fn set_perf(call: &Call<'_>) -> Answer {
    type Arguments<'a> = (rpc::Domain<'a>, List<TypedParam<'a>, 64>, u32);
    let (reference, params, flags): Arguments<'_> = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, AFFECT_LIVE | AFFECT_CONFIG)?;
    let refused = |text: String| Failure::new(Code::ArgumentUnsupported, From::None, text);
    for param in &params.0 {
        match (PERF.contains(&param.field), &param.value) {
            (false, _) => return Err(refused(format!("parameter '{}' not supported", param.field))),
            (true, ParamValue::Boolean(false)) => {}
            (true, _) => {
                return Err(refused(format!("unable to enable host cpu perf event for {}", param.field)));
            }
        }
    }
    impact(&target, flags)?;
    call.answer(&())
}

/// virDomainDirtyRateCalcFlags
const BITMAP: u32 = 1;
const RING: u32 = 2;

fn dirty_rate(call: &Call<'_>) -> Answer {
    let (reference, seconds, flags): (rpc::Domain<'_>, i32, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, BITMAP | RING)?;
    let mode = match flags {
        0 => DirtyMode::PageSampling,
        BITMAP => DirtyMode::DirtyBitmap,
        RING => DirtyMode::DirtyRing,
        _ => {
            let text = "ways of measuring exclude each other";
            return Err(Failure::new(Code::InvalidArgument, From::Domain, text));
        }
    };
    let known = u32::try_from(seconds).ok().filter(|seconds| (1..=DIRTY_SECONDS_MAX).contains(seconds));
    let wrong = || {
        let text =
            format!("seconds={seconds} is invalid, please choose value within [1, {DIRTY_SECONDS_MAX}].");
        Failure::new(Code::ConfigUnsupported, From::Qemu, text)
    };
    let seconds = known.ok_or_else(wrong)?;
    let (manager, uuid) = target.parts();
    manager.ask(uuid, Ask::DirtyRate { seconds, mode })?;
    call.answer(&())
}
