//! A network interface for a domain that runs.

use std::borrow::Cow;

use serde_json::Value;

use super::{Planned, argv, pair, place, port, refuse, spawn};
use crate::base::{DomainUuid, Slot};
use crate::conf::domain::{Domain, Interface, InterfaceBackend, InterfaceModel};
use crate::conf::facts::HostFacts;
use crate::plan::{PlanError, network, ports, qemu, slots};
use crate::privsep::op::{Op, Spawn, UidRole, VNET};
use crate::privsep::plug::{Plug, PlugSteps, Top, backend};
use crate::privsep::request::{Described, Survey};
use crate::security::LabelError;
use crate::security::{dac, selinux};
use crate::settings::Settings;

/// Everything that an interface is made from.
#[derive(Clone, Copy, Debug)]
pub struct InterfaceInputs<'a> {
    /// What runs, everything that it was started with included, and the new interface as the last.
    pub domain: &'a Domain,
    /// Its uuid.
    pub uuid: DomainUuid,
    /// The host.
    pub host: &'a HostFacts,
    /// The configuration.
    pub settings: &'a Settings,
    /// What runs, as the labeller tells it.
    pub described: &'a Described,
    /// What is leased.
    pub survey: &'a Survey,
    /// Decides every draw.
    pub seed: u64,
}

/// Plans it. The plug's note is empty.
pub fn interface(inputs: &InterfaceInputs<'_>) -> Result<Planned, PlanError> {
    let InterfaceInputs { settings, described, .. } = *inputs;
    let domain = network::resolve(Cow::Borrowed(inputs.domain), settings);
    let domain = domain.as_ref();
    let last = domain.devices.interfaces.last();
    let interface = last.ok_or_else(|| refuse("an interface", "there is none", ""))?;
    let spawn = spawn(&described.plan)?;
    check(interface, domain, spawn)?;
    let number = number(described, spawn);
    let alias = format!("net{number}");
    let mut device = device(inputs, domain, spawn, &alias)?;
    if interface.address.is_none() {
        port(&mut device, &domain.os.machine, described, spawn, format!("interface {alias}"))?;
    }
    let slot = slots::net(number)?;
    let tap = !is_user(&interface.backend);
    let ops = ops(inputs, interface, &alias, &slot)?;
    let place = place(&device);
    let top = Top::Interface { slot, tap, object: device.to_string() };
    let steps = PlugSteps { alias: alias.clone(), sets: Vec::new(), nodes: Vec::new(), top };
    Ok((Plug { alias, ops, steps, note: String::new() }, place))
}

fn is_user(backend: &InterfaceBackend) -> bool {
    matches!(backend, InterfaceBackend::DefaultNetwork { .. } | InterfaceBackend::User)
}

fn objects(spawn: &Spawn) -> impl Iterator<Item = Value> {
    spawn.argv.iter().filter_map(|text| serde_json::from_str(text).ok())
}

fn check(interface: &Interface, domain: &Domain, spawn: &Spawn) -> Result<(), PlanError> {
    let what = "an interface";
    if interface.boot_order.is_some() {
        return Err(refuse(what, "one that is plugged in boots nothing", "remove its <boot>"));
    }
    let old = matches!(interface.model, InterfaceModel::E1000 | InterfaceModel::Rtl8139);
    if old && qemu::is_q35(&domain.os.machine) {
        return Err(refuse(
            what,
            "the machine's PCI Express ports take no device of this model",
            "use the model virtio or e1000e",
        ));
    }
    // A filter cannot be widened: what the domain was not started for stays refused.
    let is_tap = |object: Value| object.get("type").and_then(Value::as_str) == Some("tap");
    if !is_user(&interface.backend) && !objects(spawn).any(is_tap) {
        return Err(refuse(
            what,
            "the domain was started without a tap device, and its filter has no calls for one",
            "start it with an interface on a bridge, or use type='user'",
        ));
    }
    Ok(())
}

/// A number that no interface of this run has or had at the start.
fn number(described: &Described, spawn: &Spawn) -> usize {
    let number = |alias: &str| alias.strip_prefix("net")?.parse::<usize>().ok();
    let started = objects(spawn).filter_map(|object| number(object.get("id")?.as_str()?));
    let plugged = described.plugs.iter().filter_map(|plug| number(&plug.alias));
    started.chain(plugged).max().map_or(0, |most| most + 1)
}

/// QEMU's words for the last interface, under its own alias.
fn device(
    inputs: &InterfaceInputs<'_>,
    domain: &Domain,
    spawn: &Spawn,
    alias: &str,
) -> Result<Value, PlanError> {
    let argv = argv(domain, inputs.uuid, spawn)?;
    let planned = format!("net{}", domain.devices.interfaces.len().saturating_sub(1));
    let objects = argv.iter().filter_map(|text| serde_json::from_str::<Value>(text).ok());
    let found =
        objects.into_iter().find(|object| object.get("id").and_then(Value::as_str) == Some(&*planned));
    let mut device = found.ok_or_else(|| refuse(alias, "it has no device", ""))?;
    if let Some(device) = device.as_object_mut() {
        device.insert("id".into(), alias.into());
        device.insert("netdev".into(), backend(alias).into());
    }
    Ok(device)
}

/// What the labeller opens or starts: the same as at a start.
fn ops(
    inputs: &InterfaceInputs<'_>,
    interface: &Interface,
    alias: &str,
    slot: &Slot,
) -> Result<Vec<Op>, PlanError> {
    let settings = inputs.settings;
    let slot = slot.clone();
    match &interface.backend {
        InterfaceBackend::Bridge { bridge, target } => {
            network::check(bridge, target.as_deref(), interface.line, settings)?;
            let name = target.clone().unwrap_or_else(|| VNET.to_owned());
            let index = inputs.domain.devices.interfaces.len().saturating_sub(1);
            let mac = network::tap_address(qemu::mac(inputs.uuid, interface, index));
            Ok(vec![Op::MakeTap { slot, bridge: bridge.clone(), name, mac, mtu: interface.mtu }])
        }
        InterfaceBackend::Tap(name) => {
            ports::check_tap(name, interface.line, settings)?;
            Ok(vec![Op::OpenTap { slot, interface: name.clone() }])
        }
        InterfaceBackend::DefaultNetwork { .. } | InterfaceBackend::User => {
            let taken = inputs.survey.uids.iter().map(|(_, uid)| *uid).collect();
            let range = dac::range_of(&settings.uids, UidRole::Helper);
            let uid = dac::allocate(range, &taken, crate::base::mix(inputs.seed, 4))
                .ok_or(LabelError::NoUid(dac::role_name(UidRole::Helper)))?;
            let labels = match (inputs.host.selinux.is_some(), pair(&inputs.described.plan)) {
                (true, Some(pair)) => Some(selinux::running(inputs.domain, &settings.selinux, pair)?),
                _ => None,
            };
            let selinux_label = labels.map(|labels| labels.passt.to_string());
            let peer = slots::console(alias, "peer")?;
            Ok(vec![
                Op::LeaseUid { role: UidRole::Helper, uid },
                Op::Channel { slot, peer: peer.clone() },
                Op::SpawnPasst { alias: alias.to_owned(), slot: peer, uid, selinux_label },
            ])
        }
    }
}
