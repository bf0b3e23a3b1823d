//! Interfaces on bridges: what the network `default` is here, and which bridges and names a domain may have.

use std::borrow::Cow;

use super::PlanError;
use crate::base::{Layer, Refusal};
use crate::conf::domain::{Domain, InterfaceBackend, Vsock};
use crate::settings::{Settings, USER_NETWORK};

/// Puts the domain's own user network, or the configured bridge, in the place of the network `default`.
pub(super) fn resolve<'a>(domain: Cow<'a, Domain>, settings: &Settings) -> Cow<'a, Domain> {
    let asks = |backend: &InterfaceBackend| matches!(backend, InterfaceBackend::DefaultNetwork { .. });
    if !domain.devices.interfaces.iter().any(|interface| asks(&interface.backend)) {
        return domain;
    }
    let mut domain = domain.into_owned();
    for interface in &mut domain.devices.interfaces {
        if let InterfaceBackend::DefaultNetwork { target } = &mut interface.backend {
            interface.backend = if settings.network.default == USER_NETWORK {
                InterfaceBackend::User
            } else {
                InterfaceBackend::Bridge { bridge: settings.network.default.clone(), target: target.take() }
            };
        }
    }
    Cow::Owned(domain)
}

/// Whether a domain may be plugged into this bridge, under this name.
pub(super) fn check(
    bridge: &str,
    name: Option<&str>,
    line: u32,
    settings: &Settings,
) -> Result<(), PlanError> {
    let refuse = |object: String, rule: &str, remedy: String| -> Result<(), PlanError> {
        Err(Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into())
    };
    if !settings.network.allows_bridge(bridge) {
        return refuse(
            format!("the bridge {bridge:?} (line {line})"),
            "it is not in network.bridges",
            format!("if domains may be plugged into it, add {bridge:?} to bridges in [network]"),
        );
    }
    match name {
        Some(name) if !settings.network.allows_tap(name) => refuse(
            format!("the tap device {name:?} (line {line})"),
            "a name of its own must be in network.taps",
            format!(
                "leave out <target dev>, and svirt names it vnet0 and so on; or add {name:?} to taps in [network]"
            ),
        ),
        _ => Ok(()),
    }
}

/// The context id of a guest's vsock; one that is drawn lies where neither other managers, which count from 3, nor
/// people look for one. The kernel refuses one that is taken.
pub(super) fn cid(vsock: &Vsock, seed: u64) -> u32 {
    let drawn = 0x1000_0000 | (crate::base::mix(seed, 0x7673_6f63) & 0x6fff_ffff);
    vsock.cid.unwrap_or_else(|| u32::try_from(drawn).unwrap_or(0x1000_0000))
}

/// The tap device's own address, as libvirt makes it: higher than every other one's, so that the bridge takes its
/// address from none of its guests' ports.
pub(super) fn tap_address(guest: [u8; 6]) -> [u8; 6] {
    let [_, rest @ ..] = guest;
    let [b, c, d, e, f] = rest;
    [0xfe, b, c, d, e, f]
}
