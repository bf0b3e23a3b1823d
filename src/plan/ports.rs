//! The operations for the monitor, consoles, VNC servers and interfaces, and the supervisor's share of them.

use super::images::inside;
use super::{PlanError, network, slots};
use crate::base::{DomainUuid, Layer, Refusal, Slot};
use crate::conf::domain::{CharDevice, CharSource, CharTarget, Domain, InterfaceBackend, VncListen};
use crate::privsep::op::{FdGrant, ListenAt, Op, VNET};
use crate::privsep::supervisor::{ConsoleSpec, FIRST_PLAN_FD, Graphics, PtySpec, VncSpec};
use crate::settings::Settings;

/// The most VNC connections to one domain at once.
const VNC_CLIENTS: u32 = 8;

/// The most connections to one SPICE server at once: a client has one for each of a dozen channels.
const SPICE_CONNECTIONS: u32 = 48;

/// libvirt's alias of the one TPM.
pub(super) const TPM: &str = "tpm0";

/// `sizeof sun_path` of unix(7).
const SOCKET_PATH_MAX: usize = 108;

/// Channels, listeners and files, and what the supervisor gets of them.
#[derive(Debug, Default)]
pub(super) struct Ports {
    pub(super) taps: Vec<Op>,
    pub(super) channels: Vec<Op>,
    pub(super) outside: Vec<Op>,
    pub(super) fds: Vec<FdGrant>,
    pub(super) consoles: Vec<ConsoleSpec>,
    pub(super) vncs: Vec<VncSpec>,
    /// The end of the TPM's channel that its helper gets.
    pub(super) tpm: Option<Slot>,
    /// Alias of each user network and the end that its helper gets.
    pub(super) passts: Vec<(String, Slot)>,
}

pub(super) fn plan(domain: &Domain, uuid: DomainUuid, settings: &Settings) -> Result<Ports, PlanError> {
    let mut ports = Ports::default();
    ports.channels.push(Op::Channel { slot: slots::monitor()?, peer: slots::monitor_peer()? });
    ports.grant(slots::monitor_peer()?);
    ports.outside.push(Op::Listen { slot: slots::control()?, at: ListenAt::Control });
    ports.grant(slots::control()?);
    for (alias, port) in super::qemu::ports(domain) {
        // The SPICE server has it to itself.
        if port.source != CharSource::SpiceVmc {
            ports.console(&alias, port, uuid, settings)?;
        }
    }
    for (index, vnc) in domain.devices.vncs.iter().enumerate() {
        let slot = slots::vnc(index)?;
        ports.graphics(slot, &vnc.listen, vnc.line, Graphics::Vnc, settings)?;
    }
    if let Some(spice) = &domain.devices.spice {
        ports.graphics(slots::spice()?, &spice.listen, spice.line, Graphics::Spice, settings)?;
    }
    if domain.devices.tpm.is_some() {
        let peer = slots::console(TPM, "peer")?;
        ports.channels.push(Op::Channel { slot: slots::console(TPM, "")?, peer: peer.clone() });
        ports.tpm = Some(peer);
    }
    for (index, interface) in domain.devices.interfaces.iter().enumerate() {
        let slot = slots::net(index)?;
        match &interface.backend {
            InterfaceBackend::Bridge { bridge, target } => {
                network::check(bridge, target.as_deref(), interface.line, settings)?;
                ports.taps.push(Op::MakeTap {
                    slot,
                    bridge: bridge.clone(),
                    name: target.clone().unwrap_or_else(|| VNET.to_owned()),
                    mac: network::tap_address(super::qemu::mac(uuid, interface, index)),
                    mtu: interface.mtu,
                });
            }
            InterfaceBackend::Tap(name) => {
                check_tap(name, interface.line, settings)?;
                ports.taps.push(Op::OpenTap { slot, interface: name.clone() });
            }
            InterfaceBackend::DefaultNetwork { .. } | InterfaceBackend::User => {
                let alias = format!("net{index}");
                let peer = slots::console(&alias, "peer")?;
                ports.channels.push(Op::Channel { slot, peer: peer.clone() });
                ports.passts.push((alias, peer));
            }
        }
    }
    Ok(ports)
}

impl Ports {
    fn grant(&mut self, slot: Slot) {
        let number = FIRST_PLAN_FD + i32::try_from(self.fds.len()).unwrap_or(i32::MAX - FIRST_PLAN_FD);
        self.fds.push(FdGrant { slot, number });
    }

    fn console(
        &mut self,
        alias: &str,
        port: &CharDevice,
        uuid: DomainUuid,
        settings: &Settings,
    ) -> Result<(), PlanError> {
        let peer = slots::console(alias, "peer")?;
        self.channels.push(Op::Channel { slot: slots::console(alias, "")?, peer: peer.clone() });
        self.grant(peer.clone());
        let mut spec = ConsoleSpec { alias: alias.into(), channel: peer, pty: None, listen: None, log: None };
        match &port.source {
            CharSource::Pty => {
                let slot = slots::console(alias, "pty")?;
                let peer = slots::console(alias, "tty")?;
                self.outside.push(Op::Pty { slot: slot.clone(), peer: peer.clone() });
                spec.pty = Some(PtySpec { slot, peer });
            }
            CharSource::UnixAuto | CharSource::UnixListen { .. } => {
                let path = socket(port, uuid, settings)?;
                check_place(&path, &settings.console.sockets, "sockets", alias, port.line)?;
                let slot = slots::console(alias, "listen")?;
                self.outside.push(Op::Listen { slot: slot.clone(), at: ListenAt::Unix { path } });
                spec.listen = Some(slot);
            }
            CharSource::SpiceVmc => {}
            CharSource::File { .. } if port.log.is_some() => {
                return Err(PlanError::definition(
                    format!("{alias} (line {})", port.line),
                    "a port of type file is its own log",
                    "remove the <log>, or use type='pty'",
                ));
            }
            CharSource::File { .. } => {}
        }
        let file = match (&port.source, &port.log) {
            (CharSource::File { path, append }, _) => Some((path, *append)),
            (_, Some((path, append))) => Some((path, *append)),
            _ => None,
        };
        if let Some((path, append)) = file {
            check_place(path, &settings.console.logs, "logs", alias, port.line)?;
            let slot = slots::console(alias, "log")?;
            self.outside.push(Op::OpenLog { slot: slot.clone(), path: path.clone(), append });
            spec.log = Some(slot);
        }
        let pty = spec.pty.iter().flat_map(|pty| [&pty.slot, &pty.peer]);
        for slot in pty.chain(&spec.listen).chain(&spec.log) {
            self.grant(slot.clone());
        }
        self.consoles.push(spec);
        Ok(())
    }

    fn graphics(
        &mut self,
        slot: Slot,
        listen: &VncListen,
        line: u32,
        protocol: Graphics,
        settings: &Settings,
    ) -> Result<(), PlanError> {
        let (name, max_clients) = match protocol {
            Graphics::Spice => ("SPICE", SPICE_CONNECTIONS),
            Graphics::Vnc => ("VNC", VNC_CLIENTS),
        };
        let at = match listen {
            VncListen::None => return Ok(()),
            VncListen::Socket(path) => {
                check_place(path, &settings.console.sockets, "sockets", &format!("the {name} server"), line)?;
                ListenAt::Unix { path: path.clone() }
            }
            VncListen::Address(address, port) => {
                if !settings.vnc.addresses.contains(address) {
                    return Err(configured(
                        format!("the {name} server (line {line})"),
                        format!("{address} is not in vnc.addresses"),
                        format!(
                            "{name} is not encrypted here, with or without a password: listen on 127.0.0.1 and reach it through ssh, or add the address to [vnc]"
                        ),
                    ));
                }
                let (port, port_last) = port.map_or(settings.vnc.ports, |port| (port, port));
                ListenAt::Tcp { address: *address, port, port_last }
            }
        };
        self.outside.push(Op::Listen { slot: slot.clone(), at });
        self.grant(slot.clone());
        self.vncs.push(VncSpec { listen: slot, protocol, max_clients });
        Ok(())
    }
}

/// Where a port of type unix is listened on; one that names no path is found by the domain's uuid and its own name.
fn socket(port: &CharDevice, uuid: DomainUuid, settings: &Settings) -> Result<String, PlanError> {
    let name = match (&port.source, &port.target) {
        (CharSource::UnixListen { path }, _) => return Ok(path.clone()),
        (_, CharTarget::Channel(name)) => name,
        _ => "console",
    };
    let place = settings.console.sockets.first().map_or("", String::as_str);
    let path = format!("{place}/{uuid}.{name}");
    if path.len() < SOCKET_PATH_MAX {
        return Ok(path);
    }
    Err(configured(
        format!("{path} (line {})", port.line),
        format!("the name of a socket has less than {SOCKET_PATH_MAX} bytes"),
        "write a shorter <source mode='bind' path=…/>, or a shorter first directory in console.sockets",
    ))
}

fn configured(object: impl Into<String>, rule: impl Into<String>, remedy: impl Into<String>) -> PlanError {
    Refusal::new(Layer::Configuration, "plan the start with", object, rule, remedy).into()
}

fn check_place(
    path: &str,
    places: &[String],
    setting: &str,
    alias: &str,
    line: u32,
) -> Result<(), PlanError> {
    let plain = super::chain::normalise("/", path).is_some_and(|plain| plain == path);
    if plain && places.iter().any(|place| inside(path, place)) {
        return Ok(());
    }
    Err(configured(
        format!("{path} of {alias} (line {line})"),
        format!("it lies in none of the directories of console.{setting}"),
        format!(
            "name a file in {}, or add its directory to {setting} in [console]",
            places.first().map_or("a configured directory", String::as_str)
        ),
    ))
}

pub(super) fn check_tap(name: &str, line: u32, settings: &Settings) -> Result<(), PlanError> {
    if settings.network.allows_tap(name) {
        return Ok(());
    }
    Err(configured(
        format!("tap device {name:?} (line {line})"),
        "it is not in network.taps",
        format!("if domains may attach to it, add {name:?} to taps in [network]"),
    ))
}
