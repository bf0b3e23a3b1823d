//! Calls on the connection and the host.

use std::collections::{BTreeSet, HashSet};

use super::Kind;
use super::call::{Answer, Call, reference};
use super::error::{Code, Failure, From};
use crate::access::Verb;
use crate::base::DomainUuid;
use crate::conf::domain_capabilities::{DomainCapabilities, Wanted};
use crate::manager::Domain;
use crate::rpc::{Chars, List, Opaque, Procedure};

/// The release of libvirt whose interface this is.
const LIBVIRT: u64 = 9_000_000;
/// What libvirt's test driver says of itself.
const TEST_VERSION: u64 = 2;
const TEST_VCPUS: i32 = 32;
/// virConnectFlags
const OPEN_READ_ONLY: u32 = 1;
const OPEN_NO_ALIASES: u32 = 2;
/// What an ordinary user's client sends: that it would have started a daemon.
const OPEN_AUTOSTART: u32 = 4;

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::AuthList => |call| call.answer(&List::<i32, 20>(vec![0])),
        P::ConnectGetCapabilities => |call| call.answer(&call.node().capabilities_xml()),
        P::ConnectGetCpuModelNames => cpu_model_names,
        P::ConnectGetDomainCapabilities => domain_capabilities,
        P::ConnectGetHostname => |call| call.answer(&call.node().hostname),
        P::ConnectGetLibVersion => |call| call.answer(&LIBVIRT),
        P::ConnectGetMaxVcpus => max_vcpus,
        P::ConnectGetSysinfo => sysinfo,
        P::ConnectGetType => |call| call.answer(&call.kind().driver()),
        P::ConnectGetUri => |call| call.answer(&call.kind().uri()),
        P::ConnectGetVersion => version,
        P::ConnectIsSecure => |call| call.answer(&true),
        P::ConnectListAllDomains => list_all,
        P::ConnectListDefinedDomains => list_defined,
        P::ConnectListDomains => list_ids,
        P::ConnectNumOfDefinedDomains => |call| call.answer(&count(call, |domain| !domain.may_run())?),
        P::ConnectNumOfDomains => |call| call.answer(&count(call, Domain::may_run)?),
        P::ConnectOpen => open,
        P::ConnectRegisterCloseCallback | P::ConnectUnregisterCloseCallback => |call| call.answer(&()),
        P::ConnectSupportsFeature => feature,
        P::NodeGetCpuMap => cpu_map,
        P::NodeGetFreeMemory => |call| call.answer(&call.node().free_memory()?),
        P::NodeGetInfo => node_info,
        P::NodeGetSecurityModel => security_model,
        _ => return None,
    })
}

fn open(call: &Call<'_>) -> Answer {
    let (name, flags): (Option<&str>, u32) = call.arguments()?;
    call.only_flags(flags, OPEN_READ_ONLY | OPEN_NO_ALIASES | OPEN_AUTOSTART)?;
    let views = || call.service().views();
    let uri = name.map(|name| name.split_once('?').map_or(name, |(before, _)| before));
    let view = views().find(|view| uri.is_none_or(|uri| uri == view.kind.uri()));
    let Some(view) = view else {
        let shown: String = name.unwrap_or_default().chars().take(200).collect();
        let served: Vec<&str> = views().map(|view| view.kind.uri()).collect();
        if let Some(why) = uri.and_then(|uri| call.service().absent(uri)) {
            return Err(Failure::new(Code::NoConnect, From::None, format!("{shown}: {why}")));
        }
        let text = format!("{shown}; this svirtd serves {}", served.join(" and "));
        return Err(Failure::new(Code::NoConnect, From::None, text));
    };
    if !call.session.open(view.clone(), flags & OPEN_READ_ONLY != 0) {
        return Err(Failure::new(Code::Internal, From::Rpc, "connection is already open"));
    }
    call.answer(&())
}

/// virDrvFeature
fn feature(call: &Call<'_>) -> Answer {
    const FD_PASSING: i32 = 8;
    const TYPED_PARAM_STRING: i32 = 9;
    const KEEPALIVE: i32 = 10;
    const EVENT_CALLBACK: i32 = 14;
    const CLOSE_CALLBACK: i32 = 15;
    const NETWORK_UPDATE_ORDER: i32 = 16;
    let feature: i32 = call.arguments()?;
    if feature == KEEPALIVE {
        call.session.answers_pings();
    }
    call.answer(&matches!(
        feature,
        FD_PASSING | TYPED_PARAM_STRING | KEEPALIVE | EVENT_CALLBACK | CLOSE_CALLBACK | NETWORK_UPDATE_ORDER
    ))
}

fn sysinfo(call: &Call<'_>) -> Answer {
    let flags: u32 = call.arguments()?;
    if call.kind() == Kind::Test {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    call.only_flags(flags, 0)?;
    let none =
        || Failure::new(Code::ConfigUnsupported, From::Qemu, "Host SMBIOS information is not available");
    call.answer(&call.node().sysinfo().ok_or_else(none)?)
}

fn version(call: &Call<'_>) -> Answer {
    if call.kind() == Kind::Test {
        return call.answer(&TEST_VERSION);
    }
    let emulator = call.facts().emulators.first();
    let (major, minor, micro) = emulator
        .map(|emulator| emulator.version)
        .ok_or_else(|| Failure::new(Code::Internal, From::Qemu, "none of emulators.allowed is there"))?;
    call.answer(&(u64::from(major) * 1_000_000 + u64::from(minor) * 1000 + u64::from(micro)))
}

fn max_vcpus(call: &Call<'_>) -> Answer {
    let kind: Option<&str> = call.arguments()?;
    if call.kind() == Kind::Test {
        return call.answer(&TEST_VCPUS);
    }
    match kind {
        None | Some("kvm" | "qemu") => {
            call.answer(&i32::try_from(call.settings().limits.vcpus).unwrap_or(i32::MAX))
        }
        Some(other) => {
            Err(Failure::new(Code::InvalidArgument, From::Qemu, format!("unknown type '{other}'")))
        }
    }
}

/// None but what each emulator itself knows: empty is libvirt's word for that.
fn cpu_model_names(call: &Call<'_>) -> Answer {
    let (arch, need_results, flags): (&str, i32, u32) = call.arguments()?;
    call.only_flags(flags, 0)?;
    if call.kind() != Kind::Test && arch != call.node().capabilities.host.cpu.arch {
        let text = format!("cannot find architecture {arch}");
        return Err(Failure::new(Code::InvalidArgument, From::None, text));
    }
    let emulators = call.node().emulators.iter().filter(|emulator| emulator.arch == arch);
    let names: BTreeSet<&str> = emulators.flat_map(|emulator| &emulator.cpus).map(|cpu| &*cpu.name).collect();
    let count = i32::try_from(names.len()).unwrap_or(i32::MAX);
    let told = if need_results == 0 { Vec::new() } else { names.into_iter().collect() };
    call.answer(&(List::<&str, 8192>(told), count))
}

fn node_info(call: &Call<'_>) -> Answer {
    let [nodes, sockets, cores, threads] = call.node().arrangement();
    let model = Chars(&call.node().capabilities.host.cpu.arch).fixed::<32>();
    let cpus = (signed(call.facts().cpus), signed(call.node().mhz));
    let places = (signed(nodes), signed(sockets), signed(cores), signed(threads));
    call.answer(&(model, call.facts().memory / 1024, cpus, places))
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// libvirt's count of CPUs, those among them that are online, and which: all, for only those are counted here.
fn cpu_map(call: &Call<'_>) -> Answer {
    let (need_map, need_online, flags): (bool, bool, u32) = call.arguments()?;
    call.only_flags(flags, 0)?;
    let cpus = call.facts().cpus;
    let map: Vec<u8> = if need_map { bits(cpus) } else { Vec::new() };
    call.answer(&(Opaque::<2048>(map), if need_online { cpus } else { 0 }, signed(cpus)))
}

/// The lowest `count` bits set.
pub(super) fn bits(count: u32) -> Vec<u8> {
    let whole = count / 8;
    let mut map = vec![0xff; whole as usize];
    if !count.is_multiple_of(8) {
        map.push(((1_u16 << (count % 8)) - 1).to_le_bytes()[0]);
    }
    map
}

fn security_model(call: &Call<'_>) -> Answer {
    let none =
        || Failure::new(Code::NoSupport, From::None, "virNodeGetSecurityModel: this host has no model");
    let (model, doi) = call.node().model().ok_or_else(none)?;
    call.answer(&(Chars(model), Chars(doi)))
}

/// What a device model can do, for one combination of what may be left out.
fn domain_capabilities(call: &Call<'_>) -> Answer {
    type Words<'a> = (Option<&'a str>, Option<&'a str>, Option<&'a str>, Option<&'a str>, u32);
    let (emulator, arch, machine, virt, flags): Words<'_> = call.arguments()?;
    if call.kind() == Kind::Test {
        return Err(Failure::unsupported(call.procedure.api()));
    }
    call.only_flags(flags, 0)?;
    let wanted = Wanted { emulator, arch, machine, virt, firmwares: &call.facts().firmwares };
    let (kvm, vcpus) = (call.facts().kvm, call.settings().limits.vcpus);
    let found = DomainCapabilities::new(&call.node().emulators, wanted, kvm, vcpus);
    let found =
        found.map_err(|refusal| Failure::new(Code::InvalidArgument, From::Qemu, refusal.to_string()))?;
    call.answer(&found.to_xml())
}

fn count(call: &Call<'_>, which: impl Fn(&Domain) -> bool) -> Result<i32, Failure> {
    let found = call.visible(Verb::Getattr).iter().filter(|domain| which(domain)).count();
    i32::try_from(found).map_err(|_| Failure::new(Code::Internal, From::Rpc, "too many domains"))
}

fn list_ids(call: &Call<'_>) -> Answer {
    let max = most(call.arguments()?)?;
    let ids = call
        .visible(Verb::Getattr)
        .iter()
        .filter(|domain| domain.may_run())
        .map(Domain::id)
        .take(max)
        .collect();
    call.answer(&List::<i32, 16_384>(ids))
}

fn list_defined(call: &Call<'_>) -> Answer {
    let max = most(call.arguments()?)?;
    let all = call.visible(Verb::Getattr);
    let names = all.iter().filter(|domain| !domain.may_run()).map(|domain| domain.name.as_str());
    call.answer(&List::<&str, 16_384>(names.take(max).collect()))
}

/// How many a client wants at most.
pub(super) fn most(max: i32) -> Result<usize, Failure> {
    const MAX: usize = 16_384;
    usize::try_from(max)
        .ok()
        .filter(|max| *max <= MAX)
        .ok_or_else(|| Failure::new(Code::Rpc, From::Rpc, format!("{max} is not between 0 and {MAX}")))
}

/// virConnectListAllDomainsFlags: groups, each of flags and what they select.
type Group = &'static [(u32, fn(&HashSet<DomainUuid>, &Domain) -> bool)];

const SAVED: u32 = 256;
const NOT_SAVED: u32 = 512;

const GROUPS: &[Group] = &[
    &[(1, |_, domain| domain.may_run()), (2, |_, domain| !domain.may_run())],
    &[(4, |_, domain| domain.definition.is_some()), (8, |_, domain| domain.definition.is_none())],
    &[
        (16, |_, domain| super::domain::state(domain).0 == 1),
        (32, |_, domain| super::domain::state(domain).0 == 3),
        (64, |_, domain| super::domain::state(domain).0 == 5),
        (128, |_, domain| !matches!(super::domain::state(domain).0, 1 | 3 | 5)),
    ],
    &[
        (SAVED, |saved, domain| saved.contains(&domain.uuid)),
        (NOT_SAVED, |saved, domain| !saved.contains(&domain.uuid)),
    ],
    &[(1024, |_, domain| domain.autostart), (2048, |_, domain| !domain.autostart)],
    // Snapshots and checkpoints: there are none.
    &[(4096, |_, _| false), (8192, |_, _| true)],
    &[(16_384, |_, _| false), (32_768, |_, _| true)],
];

fn list_all(call: &Call<'_>) -> Answer {
    let (need_results, flags): (bool, u32) = call.arguments()?;
    call.only_flags(flags, 0xffff)?;
    let mut all = call.visible(Verb::Getattr);
    let mut saved = HashSet::new();
    if flags & (SAVED | NOT_SAVED) != 0 {
        for domain in &all {
            if call.manager().has_managed_save(domain.uuid)? {
                saved.insert(domain.uuid);
            }
        }
    }
    let selected = |domain: &Domain| {
        GROUPS.iter().all(|group| {
            let asked = group.iter().any(|(flag, _)| flags & flag != 0);
            !asked || group.iter().any(|(flag, holds)| flags & flag != 0 && holds(&saved, domain))
        })
    };
    all.retain(selected);
    let found = u32::try_from(all.len()).unwrap_or(u32::MAX);
    let shown = if need_results { all.iter().map(reference).collect() } else { Vec::new() };
    call.answer(&(List::<_, 16_384>(shown), found))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_map_has_one_bit_a_cpu() {
        assert_eq!(super::bits(2), [3]);
        assert_eq!(super::bits(8), [255]);
        assert_eq!(super::bits(11), [255, 7]);
        assert!(super::bits(0).is_empty());
    }
}
