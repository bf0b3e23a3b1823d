//! Calls that measure a domain.

use super::call::{Answer, Call, Target, reference};
use super::domain::{definition, state};
use super::error::{Code, Failure, From};
use crate::access::Verb;
use crate::manager::{Domain, Manager, Summary};
use crate::rpc::{self, Encode, Encoder, List, ParamValue, Procedure, TypedParam, XdrError};

/// What asks QEMU, and so may wait.
pub(super) fn waiting(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    (procedure == Procedure::ConnectGetAllDomainStats).then_some(all_stats)
}

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainGetControlInfo => control_info,
        P::DomainGetInfo => info,
        P::DomainGetJobInfo => job_info,
        _ => return None,
    })
}

/// CPU time in nanoseconds, as the domain's cgroup counts it; 0 where there is none.
fn cpu_time(domain: &Domain) -> u64 {
    domain.running().and_then(|live| live.cgroup.as_deref()).and_then(super::node::cpu_time).unwrap_or(0)
}

fn info(call: &Call<'_>) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    let domain = &target.domain;
    let definition = definition(domain)?;
    let memory = current_memory(domain, definition) / 1024;
    call.answer(&(state(domain).0, definition.memory / 1024, memory, definition.vcpus, cpu_time(domain)))
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

/// There are no jobs: type 0 and eleven zeroes.
fn job_info(call: &Call<'_>) -> Answer {
    let reference: rpc::Domain<'_> = call.arguments()?;
    active(&call.domain(&reference, 0)?)?;
    let none = [0_u64; 11];
    call.answer(&(0_i32, Words(&none)))
}

struct Words<'a>(&'a [u64]);

impl Encode for Words<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        self.0.iter().try_for_each(|word| to.put(word))
    }
}

struct Record<'a> {
    domain: &'a Domain,
    stats: Vec<TypedParam<'static>>,
    /// Those whose names are made for each disk.
    blocks: Vec<(String, Measured)>,
}

/// A value of a disk.
enum Measured {
    Count(u32),
    Number(u64),
    Text(String),
}

impl Measured {
    fn value(&self) -> ParamValue<'_> {
        match self {
            Self::Count(count) => ParamValue::Uint(*count),
            Self::Number(number) => ParamValue::Ullong(*number),
            Self::Text(text) => ParamValue::Text(text),
        }
    }
}

impl Encode for Record<'_> {
    fn encode(&self, to: &mut Encoder) -> Result<(), XdrError> {
        to.put(&reference(self.domain))?;
        // The list is short; its elements are encoded one by one, for they borrow nothing.
        let count = self.stats.len() + self.blocks.len();
        to.put(&u32::try_from(count).unwrap_or(0))?;
        self.stats.iter().try_for_each(|stat| to.put(stat))?;
        let blocks = self.blocks.iter();
        blocks
            .map(|(field, value)| TypedParam { field, value: value.value() })
            .try_for_each(|stat| to.put(&stat))
    }
}

/// virDomainStatsTypes
const STATE: u32 = 1;
const CPU: u32 = 2;
const BALLOON: u32 = 4;
const VCPU: u32 = 8;
const BLOCK: u32 = 32;
const KNOWN: u32 = STATE | CPU | BALLOON | VCPU | BLOCK;
/// virConnectGetAllDomainStatsFlags: those that select domains, and those that only ask not to wait or to be told.
const ACTIVE: u32 = 1;
const INACTIVE: u32 = 2;
const PERSISTENT: u32 = 4;
const TRANSIENT: u32 = 8;
const STATE_RUNNING: u32 = 16;
const STATE_PAUSED: u32 = 32;
const STATE_SHUTOFF: u32 = 64;
const NOWAIT: u32 = 1 << 29;
const BACKING: u32 = 1 << 30;
const ENFORCE: u32 = 1 << 31;

fn all_stats(call: &Call<'_>) -> Answer {
    let (wanted, stats, flags): (List<rpc::Domain<'_>, 16_384>, u32, u32) = call.arguments()?;
    let filters = ACTIVE | INACTIVE | PERSISTENT | TRANSIENT | STATE_RUNNING | STATE_PAUSED | STATE_SHUTOFF;
    call.only_flags(flags, filters | NOWAIT | BACKING | ENFORCE)?;
    if flags & ENFORCE != 0 && stats & !KNOWN != 0 {
        let text = format!("Stats types bits 0x{:x} are not supported by this daemon", stats & !KNOWN);
        return Err(Failure { code: Code::InvalidArgument, from: From::Domain, message: text });
    }
    let mut domains = call.visible(Verb::Read);
    if !wanted.0.is_empty() {
        let uuids: std::collections::HashSet<[u8; 16]> = wanted.0.iter().map(|domain| domain.uuid).collect();
        domains.retain(|domain| uuids.contains(domain.uuid.0.as_bytes()));
    }
    domains.retain(|domain| selected(domain, flags));
    let stats = if stats == 0 { KNOWN } else { stats };
    let record = |domain| {
        let mut record = Record { domain, stats: measure(domain, stats), blocks: Vec::new() };
        if stats & BLOCK != 0 && flags & NOWAIT == 0 && domain.is_active() {
            record.blocks = blocks(call.manager(), domain);
        }
        record
    };
    let records = domains.iter().map(record).collect();
    call.answer(&List::<Record<'_>, 16_384>(records))
}

fn selected(domain: &Domain, flags: u32) -> bool {
    let group = |choices: &[(u32, bool)]| {
        let asked = choices.iter().any(|(flag, _)| flags & flag != 0);
        !asked || choices.iter().any(|(flag, holds)| flags & flag != 0 && *holds)
    };
    let (active, defined, state) = (domain.is_active(), domain.definition.is_some(), state(domain).0);
    group(&[(ACTIVE, active), (INACTIVE, !active)])
        && group(&[(PERSISTENT, defined), (TRANSIENT, !defined)])
        && group(&[(STATE_RUNNING, state == 1), (STATE_PAUSED, state == 3), (STATE_SHUTOFF, state == 5)])
}

fn measure(domain: &Domain, wanted: u32) -> Vec<TypedParam<'static>> {
    let mut stats = Vec::new();
    let mut put = |group: u32, field, value| {
        if wanted & group != 0 {
            stats.push(TypedParam { field, value });
        }
    };
    let (now, reason) = state(domain);
    put(STATE, "state.state", ParamValue::Int(now));
    put(STATE, "state.reason", ParamValue::Int(reason));
    if domain.is_active() {
        put(CPU, "cpu.time", ParamValue::Ullong(cpu_time(domain)));
    }
    if let Ok(definition) = definition(domain) {
        if domain.is_active() {
            let current = current_memory(domain, definition) / 1024;
            put(BALLOON, "balloon.current", ParamValue::Ullong(current));
        }
        put(BALLOON, "balloon.maximum", ParamValue::Ullong(definition.memory / 1024));
        put(VCPU, "vcpu.current", ParamValue::Uint(definition.vcpus));
        put(VCPU, "vcpu.maximum", ParamValue::Uint(definition.vcpus));
    }
    stats
}

/// What each disk did; nothing where its supervisor does not answer, since the others' statistics are wanted too.
fn blocks(manager: &Manager, domain: &Domain) -> Vec<(String, Measured)> {
    let live = domain.running().and_then(|live| live.definition.as_ref());
    let disks = live.and_then(|definition| definition.disks().ok()).unwrap_or_default();
    let Ok(measured) = manager.all_block_stats(domain.uuid) else { return Vec::new() };
    let mut all = vec![("block.count".to_owned(), Measured::Count(u32::try_from(disks.len()).unwrap_or(0)))];
    for (number, disk) in disks.into_iter().enumerate() {
        let name = |name: &str| format!("block.{number}.{name}");
        all.push((name("name"), Measured::Text(disk.target.clone())));
        all.extend(disk.source.map(|path| (name("path"), Measured::Text(path))));
        let Some((_, stats)) = measured.iter().find(|(target, _)| *target == disk.target) else { continue };
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
    all
}
