//! What the test driver makes up besides its domains, as libvirt's does: an interface of the host that is only looked at,
//! and counters that follow the clock. Of the host itself nothing is asked.

use std::time::{SystemTime, UNIX_EPOCH};

use super::call::{Answer, Call, Target};
use super::connect::most;
use super::error::{Code, Failure, From};
use crate::access::Object;
use crate::rpc::{self, List, Procedure};

/// An interface of the host, as messages refer to it: name and address.
type InterfaceRef<'a> = (&'a str, &'a str);

/// The only one.
const INTERFACE: InterfaceRef<'static> = ("eth1", "aa:bb:cc:dd:ee:ff");
const INTERFACE_XML: &str = include_str!("interface.xml");
/// The network `default`, as the test driver shows it.
pub(super) const NETWORK_XML: &str = include_str!("network.xml");
/// The sizes of every disk in bytes: capacity, allocation, length.
const DISK: (u64, u64, u64) = (1_099_506_450_432, 1_099_511_627_776, 1_099_511_627_776);

/// What takes the place of other views' calls.
pub(super) fn fast(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectListAllInterfaces => interfaces,
        P::ConnectListInterfaces => |call| {
            let max = most(call.arguments()?)?;
            let names = visible(call).map(|(name, _)| name).take(max).collect();
            call.answer(&List::<&str, 1>(names))
        },
        P::ConnectNumOfInterfaces => |call| call.answer(&i32::from(visible(call).next().is_some())),
        P::InterfaceGetXmlDesc => interface_xml,
        P::InterfaceIsActive => |call| {
            interface(call, call.arguments()?, 0)?;
            call.answer(&true)
        },
        P::InterfaceLookupByMacString => |call| {
            let mac = call.arguments()?;
            found(call, "mac", mac, mac == INTERFACE.1)
        },
        P::InterfaceLookupByName => |call| {
            let name = call.arguments()?;
            found(call, "name", name, name == INTERFACE.0)
        },
        P::DomainGetHostname => hostname,
        // Clients ask for the older form of the first where there is none of these.
        P::DomainBlockStatsFlags | P::NetworkGetDhcpLeases | P::NetworkListAllPorts => {
            |call| Err(Failure::unsupported(call.procedure.api()))
        }
        _ => return None,
    })
}

/// The same of calls that read whole definitions.
pub(super) fn slow(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::DomainBlockStats => block_stats,
        P::DomainGetBlockInfo => block_info,
        P::DomainInterfaceStats => interface_stats,
        _ => return None,
    })
}

/// The interface, where the caller may know of it.
fn visible<'a>(call: &Call<'a>) -> impl Iterator<Item = InterfaceRef<'static>> + use<'a> {
    call.sees(Object::Interface).then_some(INTERFACE).into_iter()
}

fn missing(what: &str, value: &str) -> Failure {
    Failure::new(Code::NoInterface, From::Interface, format!("no interface with matching {what} '{value}'"))
}

fn found(call: &Call<'_>, what: &str, value: &str, is: bool) -> Answer {
    let unseen = || missing(what, value);
    call.permit_on(Object::Interface, 0, unseen)?;
    if is { call.answer(&INTERFACE) } else { Err(unseen()) }
}

/// Checks that a reference means the interface, and that the call is permitted on it.
fn interface(call: &Call<'_>, (name, _): InterfaceRef<'_>, flags: u32) -> Result<(), Failure> {
    call.permit_on(Object::Interface, flags, || missing("name", name))?;
    if name == INTERFACE.0 { Ok(()) } else { Err(missing("name", name)) }
}

/// virConnectListAllInterfacesFlags
const INACTIVE: u32 = 1;
const ACTIVE: u32 = 2;

fn interfaces(call: &Call<'_>) -> Answer {
    let (need_results, flags): (bool, u32) = call.arguments()?;
    call.only_flags(flags, INACTIVE | ACTIVE)?;
    let selected = flags != INACTIVE;
    let found: Vec<InterfaceRef<'_>> = visible(call).filter(|_| selected).collect();
    let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
    call.answer(&(List::<_, 1>(if need_results { found } else { Vec::new() }), count))
}

fn interface_xml(call: &Call<'_>) -> Answer {
    let (reference, flags): (InterfaceRef<'_>, u32) = call.arguments()?;
    interface(call, reference, flags)?;
    call.only_flags(flags, 0)?;
    call.answer(&INTERFACE_XML)
}

fn active(target: &Target<'_>) -> Result<(), Failure> {
    if target.domain.is_active() {
        return Ok(());
    }
    Err(Failure::new(Code::OperationInvalid, From::Domain, "domain is not running"))
}

/// Microseconds and seconds since 1970.
fn now() -> (i64, i64) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let signed = |number: u128| i64::try_from(number).unwrap_or(i64::MAX);
    (signed(since.as_micros()), signed(since.as_secs().into()))
}

fn wrong(text: String) -> Failure {
    Failure::new(Code::InvalidArgument, From::Domain, text)
}

fn block_stats(call: &Call<'_>) -> Answer {
    let (reference, name): (rpc::Domain<'_>, &str) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    active(&target)?;
    if name.is_empty() {
        let text = "summary statistics are not supported yet";
        return Err(Failure::new(Code::OperationUnsupported, From::Domain, text));
    }
    if !call.manager().tree(&target.domain, false)?.has_disk(name) {
        return Err(wrong(format!("invalid path: {name}")));
    }
    let (micros, seconds) = now();
    // Reads, their bytes, writes, theirs, errors.
    call.answer(&(micros / 10, micros / 20, micros / 30, micros / 40, seconds / 2))
}

fn block_info(call: &Call<'_>) -> Answer {
    let (reference, name, flags): (rpc::Domain<'_>, &str, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    if !call.manager().tree(&target.domain, false)?.has_disk(name) {
        return Err(wrong(format!("invalid path {name} not assigned to domain")));
    }
    let (capacity, allocation, physical) = DISK;
    call.answer(&(allocation, capacity, physical))
}

fn interface_stats(call: &Call<'_>) -> Answer {
    let (reference, name): (rpc::Domain<'_>, &str) = call.arguments()?;
    let target = call.domain(&reference, 0)?;
    active(&target)?;
    if !call.manager().tree(&target.domain, false)?.has_interface(name) {
        return Err(wrong(format!("'{name}' is not a known interface")));
    }
    let (micros, seconds) = now();
    // Bytes, packets, errors and drops: received, then sent.
    let received = (micros / 10, micros / 100, seconds, seconds / 2);
    let sent = (micros / 20, micros / 110, seconds / 3, seconds / 4);
    call.answer(&(received, sent))
}

fn hostname(call: &Call<'_>) -> Answer {
    let (reference, flags): (rpc::Domain<'_>, u32) = call.arguments()?;
    let target = call.domain(&reference, flags)?;
    call.only_flags(flags, 0)?;
    active(&target)?;
    call.answer(&format!("{}host", target.domain.name))
}
