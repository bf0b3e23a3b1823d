//! The network `default`: what `<interface type='network'>` means on this host, or what the test driver makes up. It can
//! be looked at and not changed.

use super::Kind;
use super::call::{Answer, Call};
use super::connect::most;
use super::error::{Code, Failure, From};
use super::pretend;
use crate::access::Object;
use crate::conf::xml::write::Writer;
use crate::rpc::{List, Procedure};
use crate::settings::USER_NETWORK;

/// The only network's name.
const NAME: &str = "default";
/// Its uuid, the same everywhere: it is a rule and no object that could be two.
const UUID: uuid::Uuid = uuid::uuid!("2f4c1c47-58d1-4a5c-9d1c-0f3a6a1b7e52");

/// A network as messages refer to it: name and uuid, of which only the uuid counts.
type NetworkRef<'a> = (&'a str, [u8; 16]);

/// The one of libvirt's test driver.
const TEST_UUID: uuid::Uuid = uuid::uuid!("dd8fe884-6c02-601e-7551-cca97df1c5df");
const TEST_BRIDGE: &str = "virbr0";

/// The network, as messages refer to it.
fn own(call: &Call<'_>) -> NetworkRef<'static> {
    (NAME, if is_made_up(call) { TEST_UUID } else { UUID }.into_bytes())
}

fn is_made_up(call: &Call<'_>) -> bool {
    call.kind() == Kind::Test
}

pub(super) fn handler(procedure: Procedure) -> Option<fn(&Call<'_>) -> Answer> {
    use Procedure as P;
    Some(match procedure {
        P::ConnectListAllNetworks => list_all,
        P::ConnectListDefinedNetworks => |call| {
            most(call.arguments()?)?;
            call.answer(&List::<&str, 0>(Vec::new()))
        },
        P::ConnectListNetworks => |call| {
            let max = most(call.arguments()?)?;
            call.answer(&List::<&str, 1>(visible(call).map(|_| NAME).take(max).collect()))
        },
        P::ConnectNumOfDefinedNetworks => |call| call.answer(&0_i32),
        P::ConnectNumOfNetworks => |call| call.answer(&i32::from(visible(call).next().is_some())),
        P::NetworkGetAutostart => |call| {
            found(call, call.arguments()?)?;
            call.answer(&!is_made_up(call))
        },
        P::NetworkIsActive | P::NetworkIsPersistent => |call| {
            found(call, call.arguments()?)?;
            call.answer(&true)
        },
        P::NetworkGetBridgeName => bridge_name,
        P::NetworkGetDhcpLeases => leases,
        P::NetworkGetXmlDesc => xml,
        P::NetworkListAllPorts => ports,
        P::NetworkLookupByName => by_name,
        P::NetworkLookupByUuid => |call| {
            let uuid = call.arguments()?;
            found(call, ("", uuid))?;
            call.answer(&own(call))
        },
        _ => return None,
    })
}

/// The network, where the caller may know of it.
fn visible<'a>(call: &Call<'a>) -> impl Iterator<Item = NetworkRef<'static>> + use<'a> {
    call.sees(Object::Network).then(|| own(call)).into_iter()
}

fn missing(what: &str) -> Failure {
    Failure::new(Code::NoNetwork, From::Network, format!("no network with matching {what}"))
}

/// Checks that a reference means the network, and that the call is permitted on it.
fn found(call: &Call<'_>, (_, uuid): NetworkRef<'_>) -> Result<(), Failure> {
    let unseen = || missing(&format!("uuid '{}'", uuid::Uuid::from_bytes(uuid)));
    if uuid != own(call).1 || visible(call).next().is_none() {
        return Err(unseen());
    }
    call.permit_on(Object::Network, 0, unseen)
}

fn by_name(call: &Call<'_>) -> Answer {
    let name: &str = call.arguments()?;
    if name != NAME || visible(call).next().is_none() {
        return Err(missing(&format!("name '{name}'")));
    }
    call.answer(&own(call))
}

/// virConnectListAllNetworksFlags: inactive and transient are what it is not.
const LIST_KNOWN: u32 = 0x3f;
const AUTOSTART: u32 = 16;
const NO_AUTOSTART: u32 = 32;

fn list_all(call: &Call<'_>) -> Answer {
    let (need_results, flags): (bool, u32) = call.arguments()?;
    call.only_flags(flags, LIST_KNOWN)?;
    let autostart = if is_made_up(call) { NO_AUTOSTART } else { AUTOSTART };
    let groups = [(3, 2), (12, 4), (AUTOSTART | NO_AUTOSTART, autostart)];
    let selected = groups.iter().all(|(group, own)| flags & group == 0 || flags & own != 0);
    let found: Vec<NetworkRef<'_>> = visible(call).filter(|_| selected).collect();
    let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
    call.answer(&(List::<_, 1>(if need_results { found } else { Vec::new() }), count))
}

/// The bridge that the network is, where it is one.
fn bridge<'a>(call: &'a Call<'_>) -> Option<&'a str> {
    if is_made_up(call) {
        return Some(TEST_BRIDGE);
    }
    Some(call.settings().network.default.as_str()).filter(|default| *default != USER_NETWORK)
}

fn bridge_name(call: &Call<'_>) -> Answer {
    found(call, call.arguments()?)?;
    let none = || {
        Failure::new(Code::Internal, From::Network, format!("network '{NAME}' does not have a bridge name."))
    };
    call.answer(&bridge(call).ok_or_else(none)?)
}

/// Whoever gives addresses is not svirt: passt tells each guest the host's own, and a bridge has its own server.
fn leases(call: &Call<'_>) -> Answer {
    let (reference, _mac, _need_results, flags): (NetworkRef<'_>, Option<&str>, bool, u32) =
        call.arguments()?;
    found(call, reference)?;
    call.only_flags(flags, 0)?;
    call.answer(&(List::<u32, 0>(Vec::new()), 0_u32))
}

fn ports(call: &Call<'_>) -> Answer {
    let (reference, _need_results, flags): (NetworkRef<'_>, bool, u32) = call.arguments()?;
    found(call, reference)?;
    call.only_flags(flags, 0)?;
    call.answer(&(List::<u32, 0>(Vec::new()), 0_u32))
}

/// VIR_NETWORK_XML_INACTIVE: there is one definition, so it asks for nothing else.
const XML_INACTIVE: u32 = 1;

fn xml(call: &Call<'_>) -> Answer {
    let (reference, flags): (NetworkRef<'_>, u32) = call.arguments()?;
    found(call, reference)?;
    call.only_flags(flags, XML_INACTIVE)?;
    if is_made_up(call) {
        return call.answer(&pretend::NETWORK_XML);
    }
    let mut w = Writer::new();
    w.open("network", &[]);
    w.text("name", &[], NAME);
    w.text("uuid", &[], UUID);
    match bridge(call) {
        Some(bridge) => {
            w.empty("forward", &[("mode", &"bridge")]);
            w.empty("bridge", &[("name", &bridge)]);
        }
        // Of libvirt's modes the one whose guests reach out and are not reached.
        None => w.empty("forward", &[("mode", &"nat")]),
    }
    call.answer(&w.finish())
}
