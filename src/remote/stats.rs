//! Calls that measure a domain.

use std::collections::HashMap;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::call::{Answer, Call, Target, reference};
use super::domain::{definition, state};
use super::error::{Code, Failure, From};
use super::live::reported_memory;
use super::{interface, usage};
use crate::access::Verb;
use crate::manager::{BlockInfo, BlockStats, Domain, Summary};
use crate::privsep::ask::Ask;
use crate::rpc::{self, Encode, Encoder, List, ParamValue, Procedure, TypedParam, XdrError};

/// How many domains are asked at once.
const AT_ONCE: usize = 16;
/// How long one domain's supervisor has for its part of everybody's statistics.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long all of them have together: those that are not asked by then have what is known without asking.
const TOGETHER: Duration = Duration::from_secs(30);

/// What asks QEMU, and so may wait.
pub(super) fn waiting(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    (procedure == Procedure::ConnectGetAllDomainStats).then_some(all_stats)
}

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetControlInfo => control_info,
        P::DomainGetInfo => info,
        _ => return None,
    })
}

fn info(call: &Call<'_>) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    let domain = &target.domain;
    let definition = definition(domain)?;
    let memory = current_memory(domain, definition) / 1024;
    let cpu = usage::cpu(domain).map_or(0, |[all, ..]| all);
    call.answer(&(state(domain).0, definition.memory / 1024, memory, definition.current_vcpus, cpu))
}

/// How much memory the guest has, in bytes, as it was last heard of.
fn current_memory(domain: &Domain, definition: &Summary) -> u64 {
    domain.running().and_then(|live| live.runtime.balloon).unwrap_or(definition.current_memory)
}

fn active(target: &Target<'_>) -> Result<(), Failure> {
    if target.domain.is_active() {
        return Ok(());
    }
    Err(Failure::new(Code::OperationInvalid, From::Qemu, "domain is not running"))
}

/// State, details and since when: the monitor is never taken by one client alone.
fn control_info(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    call.only_flags(flags, 0)?;
    active(&target)?;
    call.answer(&(0_u32, 0_u32, 0_u64))
}

struct Record<'a> {
    domain: &'a Domain,
    stats: Vec<(String, Measured)>,
}

/// A value.
enum Measured {
    Count(u32),
    Number(u64),
    State(i32),
    Signed(i64),
    Text(String),
}

impl Measured {
    fn value(&self) -> ParamValue<'_> {
        match self {
            Self::Count(count) => ParamValue::Uint(*count),
            Self::Number(number) => ParamValue::Ullong(*number),
            Self::State(state) => ParamValue::Int(*state),
            Self::Signed(number) => ParamValue::Llong(*number),
            Self::Text(text) => ParamValue::Text(text),
        }
    }
}

impl Encode for Record<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&reference(self.domain))?;
        // The list is short; its elements are encoded one by one, for they borrow nothing.
        to.put(&u32::try_from(self.stats.len()).unwrap_or(0))?;
        let stats = self.stats.iter().map(|(field, value)| TypedParam { field, value: value.value() });
        stats.into_iter().try_for_each(|stat| to.put(&stat))
    }
}

/// virDomainStatsTypes
const STATE: u32 = 1;
const CPU: u32 = 2;
const BALLOON: u32 = 4;
const VCPU: u32 = 8;
const INTERFACE: u32 = 16;
const BLOCK: u32 = 32;
const DIRTY_RATE: u32 = 512;
const KNOWN: u32 = STATE | CPU | BALLOON | VCPU | INTERFACE | BLOCK | DIRTY_RATE;
/// virConnectGetAllDomainStatsFlags: those that select domains, and those that only ask not to wait or to be told.
const ACTIVE: u32 = 1;
const INACTIVE: u32 = 2;
const PERSISTENT: u32 = 4;
const TRANSIENT: u32 = 8;
const STATE_RUNNING: u32 = 16;
const STATE_PAUSED: u32 = 32;
const STATE_SHUTOFF: u32 = 64;
const STATE_OTHER: u32 = 128;
/// virDomainMemoryStatTags as the balloon's group names them, in libvirt's order.
const BALLOON_STATS: &[(i32, &str)] = &[
    (0, "swap_in"),
    (1, "swap_out"),
    (2, "major_fault"),
    (3, "minor_fault"),
    (4, "unused"),
    (5, "available"),
    (8, "usable"),
    (9, "last-update"),
    (10, "disk_caches"),
    (11, "hugetlb_pgalloc"),
    (12, "hugetlb_pgfail"),
];
const NOWAIT: u32 = 1 << 29;
const BACKING: u32 = 1 << 30;
const ENFORCE: u32 = 1 << 31;

fn all_stats(call: &Call<'_>) -> Answer {
    let (wanted, stats, flags): (List<rpc::Domain<'_>, 16_384>, u32, u32) = call.arguments()?;
    let states = STATE_RUNNING | STATE_PAUSED | STATE_SHUTOFF | STATE_OTHER;
    let filters = ACTIVE | INACTIVE | PERSISTENT | TRANSIENT | states;
    call.only_flags(flags, filters | NOWAIT | BACKING | ENFORCE)?;
    if flags & ENFORCE != 0 && stats & !KNOWN != 0 {
        let text = format!("Stats types bits 0x{:x} are not supported by this daemon", stats & !KNOWN);
        return Err(Failure::raw(Code::InvalidArgument, From::Domain, text));
    }
    let mut domains = call.visible(Verb::Read);
    if !wanted.0.is_empty() {
        // As they are asked for, each once.
        let mut places: HashMap<[u8; 16], usize> = HashMap::new();
        for (place, domain) in wanted.0.iter().enumerate() {
            places.entry(domain.uuid).or_insert(place);
        }
        let place = |domain: &Domain| places.get(domain.uuid.0.as_bytes()).copied();
        domains.retain(|domain| place(domain).is_some());
        domains.sort_by_key(place);
    }
    domains.retain(|domain| selected(domain, flags));
    let stats = if stats == 0 { KNOWN } else { stats };
    let until = (flags & NOWAIT == 0).then(|| Instant::now() + TOGETHER);
    let records = side_by_side(&domains, |domain| record(call, domain, stats, until));
    call.answer(&List::<Record<'_>, 16_384>(records))
}

/// Does something for each domain, several at once: those whose supervisors do not answer hold up those that do only where
/// there are as many of them as threads. Answers are in the order of the domains.
fn side_by_side<'a, D: Sync, T: Send>(domains: &'a [D], each: impl Fn(&'a D) -> T + Sync) -> Vec<T> {
    if let [domain] = domains {
        return vec![each(domain)];
    }
    let next = AtomicUsize::new(0);
    let some = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(domain) = domains.get(at) else { return done };
            done.push((at, each(domain)));
        }
    };
    let mut all: Vec<(usize, T)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE.min(domains.len())).map(|_| scope.spawn(some)).collect();
        // One that panicked has no records, and to leave them out would be to say that there are no such domains.
        let joined =
            |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().flat_map(joined).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, done)| done).collect()
}

/// What is known and asked of one domain, until then; what nobody is to wait for is not asked.
fn record<'a>(call: &Call<'_>, domain: &'a Domain, stats: u32, until: Option<Instant>) -> Record<'a> {
    let rate = Ask::Monitor { execute: "query-dirty-rate".into(), arguments: Value::Null };
    let asks =
        [(BALLOON, Ask::GuestMemory), (BLOCK, Ask::BlockStats), (BLOCK, Ask::Blocks), (DIRTY_RATE, rate)];
    let until = until.filter(|until| domain.is_active() && *until > Instant::now());
    let wanted = |group: u32| until.is_some() && stats & group != 0;
    let asked: Vec<Ask> =
        asks.iter().filter(|(group, _)| wanted(*group)).map(|(_, ask)| ask.clone()).collect();
    let mut answers = match until.filter(|_| !asked.is_empty()) {
        None => Vec::new(),
        Some(until) => call.manager().ask_each(domain.uuid, asked, until.min(Instant::now() + PATIENCE)),
    }
    .into_iter();
    let mut answer = |group| if wanted(group) { answers.next().flatten() } else { None };
    let mut record = Record { domain, stats: measure(domain, stats) };
    let memory = answer(BALLOON);
    if wanted(BALLOON) {
        record.stats.extend(balloon(domain, memory.as_ref()));
    }
    record.stats.extend(behind(domain, stats));
    if stats & BLOCK != 0 {
        let (did, sizes) = (answer(BLOCK), answer(BLOCK));
        record.stats.extend(blocks(call, domain, did.as_ref(), sizes.as_ref()));
    }
    record.stats.extend(answer(DIRTY_RATE).as_ref().map(dirty_rate).unwrap_or_default());
    record
}

/// How fast the guest wrote its memory when that was measured last, or that it was not.
fn dirty_rate(answer: &Value) -> Vec<(String, Measured)> {
    // virDomainDirtyRateStatus
    let status = match answer.get("status").and_then(Value::as_str) {
        Some("measuring") => 1,
        Some("measured") => 2,
        _ => 0,
    };
    let number = |name: &str| answer.get(name).and_then(Value::as_i64);
    let mut all = vec![("dirtyrate.calc_status".to_owned(), Measured::State(status))];
    let period = number("calc-time").and_then(|it| i32::try_from(it).ok()).map(Measured::State);
    // QEMU's words are libvirt's.
    let mode = answer.get("mode").and_then(Value::as_str).filter(|mode| mode.len() < 32);
    for (name, value) in [
        ("calc_start_time", number("start-time").map(Measured::Signed)),
        ("calc_period", period),
        ("calc_mode", mode.map(|mode| Measured::Text(mode.to_owned()))),
        ("megabytes_per_second", number("dirty-rate").map(Measured::Signed)),
    ] {
        all.extend(value.map(|value| (format!("dirtyrate.{name}"), value)));
    }
    all
}

fn selected(domain: &Domain, flags: u32) -> bool {
    let group = |choices: &[(u32, bool)]| {
        let asked = choices.iter().any(|(flag, _)| flags & flag != 0);
        !asked || choices.iter().any(|(flag, holds)| flags & flag != 0 && *holds)
    };
    let (active, defined, state) = (domain.may_run(), domain.definition.is_some(), state(domain).0);
    group(&[(ACTIVE, active), (INACTIVE, !active)])
        && group(&[(PERSISTENT, defined), (TRANSIENT, !defined)])
        && group(&[
            (STATE_RUNNING, state == 1),
            (STATE_PAUSED, state == 3),
            (STATE_SHUTOFF, state == 5),
            (STATE_OTHER, !matches!(state, 1 | 3 | 5)),
        ])
}

/// What is in memory, up to the balloon.
fn measure(domain: &Domain, wanted: u32) -> Vec<(String, Measured)> {
    let mut stats = Vec::new();
    let mut put = |group: u32, field: &str, value| {
        if wanted & group != 0 {
            stats.push((field.to_owned(), value));
        }
    };
    let (now, reason) = state(domain);
    put(STATE, "state.state", Measured::State(now));
    put(STATE, "state.reason", Measured::State(reason));
    match usage::cpu(domain) {
        Some(times) => {
            for (field, time) in ["cpu.time", "cpu.user", "cpu.system"].iter().zip(times) {
                put(CPU, field, Measured::Number(time));
            }
        }
        None if domain.is_active() => put(CPU, "cpu.time", Measured::Number(0)),
        None => {}
    }
    if let Ok(definition) = definition(domain) {
        let current = current_memory(domain, definition) / 1024;
        put(BALLOON, "balloon.current", Measured::Number(current));
        put(BALLOON, "balloon.maximum", Measured::Number(definition.memory / 1024));
    }
    stats
}

/// What the guest reports of its memory, and what its device model has.
fn balloon(domain: &Domain, answer: Option<&Value>) -> Vec<(String, Measured)> {
    let reported = answer.map(reported_memory).unwrap_or_default();
    let named = BALLOON_STATS.iter().filter_map(|(tag, name)| {
        let (_, value) = reported.iter().find(|(reported, _)| reported == tag)?;
        Some((format!("balloon.{name}"), Measured::Number(*value)))
    });
    let resident = usage::resident(domain).map(|bytes| bytes / 1024);
    named.chain(resident.map(|value| ("balloon.rss".to_owned(), Measured::Number(value)))).collect()
}

/// What is in memory, behind the balloon.
fn behind(domain: &Domain, wanted: u32) -> Vec<(String, Measured)> {
    // virVcpuState
    const RUNNING: i32 = 1;
    let mut stats = Vec::new();
    if let Ok(definition) = definition(domain)
        && wanted & VCPU != 0
    {
        for (name, count) in [("vcpu.current", definition.current_vcpus), ("vcpu.maximum", definition.vcpus)]
        {
            stats.push((name.to_owned(), Measured::Count(count)));
        }
        let running = if domain.is_active() { definition.current_vcpus } else { 0 };
        stats.extend((0..running).map(|vcpu| (format!("vcpu.{vcpu}.state"), Measured::State(RUNNING))));
    }
    if wanted & INTERFACE != 0 && domain.current().is_some() {
        stats.extend(interfaces(domain));
    }
    stats
}

/// How many interfaces what runs has, and what went through those with a device on the host.
fn interfaces(domain: &Domain) -> Vec<(String, Measured)> {
    if !domain.is_active() {
        return Vec::new();
    }
    let all = interface::running(domain).unwrap_or_default();
    let mut stats =
        vec![("net.count".to_owned(), Measured::Count(u32::try_from(all.len()).unwrap_or(u32::MAX)))];
    for (at, one) in all.iter().enumerate() {
        let Some(device) = &one.device else { continue };
        stats.push((format!("net.{at}.name"), Measured::Text(device.clone())));
        for (way, count) in ["rx", "tx"].iter().zip(interface::counted(device).into_iter().flatten()) {
            let numbers = [
                ("bytes", count.bytes),
                ("pkts", count.packets),
                ("errs", count.errors),
                ("drop", count.dropped),
            ];
            let named =
                numbers.map(|(what, number)| (format!("net.{at}.{way}.{what}"), Measured::Number(number)));
            stats.extend(named);
        }
    }
    stats
}

/// Which disks there are, what each did, and how large it is. Where a supervisor does not answer, its domain has less
/// of it, since the others' statistics are wanted too.
fn blocks(
    call: &Call<'_>,
    domain: &Domain,
    did: Option<&Value>,
    sizes: Option<&Value>,
) -> Vec<(String, Measured)> {
    let Ok(disks) = call.manager().disks(domain) else {
        return Vec::new();
    };
    let measured = did.map(BlockStats::each).unwrap_or_default();
    let sizes = sizes.map(|answer| BlockInfo::each(answer, &disks)).unwrap_or_default();
    let mut all = vec![("block.count".to_owned(), Measured::Count(u32::try_from(disks.len()).unwrap_or(0)))];
    for (number, disk) in disks.into_iter().enumerate() {
        let name = |name: &str| format!("block.{number}.{name}");
        all.push((name("name"), Measured::Text(disk.target.clone())));
        let medium = disk.source.is_some();
        all.extend(disk.source.map(|path| (name("path"), Measured::Text(path))));
        let did = measured.iter().find(|(target, _)| *target == disk.target).map(|(_, stats)| stats);
        if let Some(stats) = did {
            for (what, value) in [
                ("rd.reqs", stats.reads),
                ("rd.bytes", stats.read_bytes),
                ("rd.times", stats.read_time),
                ("wr.reqs", stats.writes),
                ("wr.bytes", stats.write_bytes),
                ("wr.times", stats.write_time),
                ("fl.reqs", stats.flushes),
                ("fl.times", stats.flush_time),
            ] {
                all.push((name(what), Measured::Number(value)));
            }
        }
        let size = sizes.iter().find(|(target, _)| *target == disk.target).filter(|_| medium);
        if let Some((_, size)) = size {
            // As libvirt tells them of what runs: how far it was written, and how much that takes on the host.
            let written = did.map_or(0, |stats| stats.highest);
            for (what, value) in
                [("allocation", written), ("capacity", size.capacity), ("physical", size.allocation)]
            {
                all.push((name(what), Measured::Number(value)));
            }
            let watched = (size.threshold > 0).then(|| (name("threshold"), Measured::Number(size.threshold)));
            all.extend(watched);
        }
    }
    all
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::{Condvar, Mutex};

    use super::*;

    #[test]
    fn domains_are_asked_side_by_side_and_told_in_order() {
        let (asked, all) = (Mutex::new(0), Condvar::new());
        let together = |number: &u32| {
            let mut count = asked.lock().unwrap();
            *count += 1;
            all.notify_all();
            let most = Duration::from_secs(60);
            let (count, _) = all.wait_timeout_while(count, most, |count| *count < 3).unwrap();
            (*number, *count)
        };
        assert_eq!(side_by_side(&[5, 6, 7], together), [(5, 3), (6, 3), (7, 3)]);
        assert!(side_by_side(&[] as &[u32], together).is_empty());
    }

    #[test]
    #[should_panic(expected = "as a mistake would")]
    fn what_panics_leaves_no_record_out() {
        side_by_side(&[5, 6, 7], |number| assert!(*number != 6, "as a mistake would"));
    }
}
