//! A disk or a medium for a domain that runs, as one value: what is opened and labelled, and what QEMU is told.
//!
//! QEMU's words are those that a start with the same disk would have on its command line; they are taken from there.

mod controller;
mod interface;

use serde_json::Value;

pub use controller::controller;
pub use interface::{InterfaceInputs, interface};

use super::chain::Chain;
use super::images;
use super::qemu::{self, Guest};
use super::{PlanError, doi};
use crate::base::{DomainUuid, Layer, Refusal};
use crate::conf::domain::{Disk, DiskBus, DiskDevice, Domain};
use crate::conf::facts::HostFacts;
use crate::privsep::op::{LaunchPlan, Op, Spawn, UidRole};
use crate::privsep::plug::{Plug, PlugSteps, SetGrant, Top};
use crate::privsep::request::Described;
use crate::security::dac::Owners;
use crate::security::decide::Stack;
use crate::security::{apparmor, selinux};
use crate::settings::Settings;

/// Everything that a plug is made from.
#[derive(Clone, Copy, Debug)]
pub struct PlugInputs<'a> {
    /// What runs, every disk that it was started with included, and the new disk as the last.
    pub domain: &'a Domain,
    /// Its uuid.
    pub uuid: DomainUuid,
    /// The host.
    pub host: &'a HostFacts,
    /// The configuration.
    pub settings: &'a Settings,
    /// The new disk's layers.
    pub chain: &'a Chain,
    /// What runs, as the labeller tells it.
    pub described: &'a Described,
    /// Whether the disk is a drive that is there already, and only gets this medium.
    pub medium: bool,
    /// Whether a guest that holds the tray shut is not asked.
    pub force: bool,
}

/// A plug, and where the device sits, as bus and slot, where it is a PCI device on a port.
pub type Planned = (Plug, Option<(u8, u8)>);

/// Plans it. The plug's note is empty.
pub fn plug(inputs: &PlugInputs<'_>) -> Result<Planned, PlanError> {
    let PlugInputs { domain, host, settings, chain, described, .. } = *inputs;
    let disk = domain.devices.disks.last().ok_or_else(|| refuse("a disk", "there is none", ""))?;
    check(disk, inputs)?;
    let only = Domain {
        devices: crate::conf::domain::Devices { disks: vec![disk.clone()], ..domain.devices.clone() },
        ..domain.clone()
    };
    let chains = [chain.clone()];
    let bound = doi::bind(&only, &chains, host, settings, &|model| doi::runs(host, model))?;
    let (only, chains) = (bound.domain.as_ref(), bound.chains.as_ref());
    let spawn = spawn(&described.plan)?;
    let owners = owners(&described.plan);
    let labels = match (host.selinux.is_some(), pair(&described.plan)) {
        (true, Some(pair)) => Some(selinux::running(only, &settings.selinux, pair)?),
        _ => None,
    };
    let profile = match &host.apparmor {
        Some(_) => apparmor::profile(only, inputs.uuid)?,
        None => None,
    };
    let mut stack = vec![Stack::Dac(&owners)];
    stack.extend(labels.as_ref().map(|labels| Stack::Selinux(labels, &settings.selinux)));
    stack.extend(profile.as_ref().map(Stack::Apparmor));
    let images = images::plan(only, chains, settings, &stack)?;
    let mut words = Words::of(inputs, spawn)?;
    if !inputs.medium && disk.bus == DiskBus::Virtio && disk.address.is_none() {
        let what = format!("disk {}", disk.target);
        port(&mut words.device, &domain.os.machine, described, spawn, what)?;
    }
    let sets = images.opens.iter().zip(words.first_set..).filter_map(|(op, set)| match op {
        Op::OpenImage(image) => Some(SetGrant { slot: image.slot.clone(), set }),
        _ => None,
    });
    let sets = sets.collect();
    let top = match inputs.medium {
        true => Top::Medium { node: words.top, force: inputs.force },
        false => Top::Device { object: words.device.to_string() },
    };
    let ops = images.opens.into_iter().chain(images.labels).collect();
    let steps = PlugSteps { alias: words.alias.clone(), sets, nodes: words.nodes, top };
    let place = if inputs.medium { None } else { place(&words.device) };
    Ok((Plug { alias: words.alias, ops, steps, note: String::new() }, place))
}

fn refuse(object: impl Into<String>, rule: impl Into<String>, remedy: impl Into<String>) -> PlanError {
    Refusal::new(Layer::Definition, "plug in", object, rule, remedy).into()
}

fn check(disk: &Disk, inputs: &PlugInputs<'_>) -> Result<(), PlanError> {
    let object = || format!("disk {}", disk.target);
    let hot = matches!(disk.bus, DiskBus::Virtio | DiskBus::Scsi | DiskBus::Usb);
    if !inputs.medium && !hot {
        return Err(refuse(
            object(),
            "disks on this bus are there from the start or not at all",
            "use the virtio, scsi or usb bus, or --config and start the domain again",
        ));
    }
    if inputs.medium && disk.device != DiskDevice::Cdrom {
        return Err(refuse(
            object(),
            "only the medium of a cdrom drive can be changed",
            "attach another disk",
        ));
    }
    // A filter cannot be widened: what the domain was not started for stays refused.
    let before = inputs.domain.devices.disks.len() > 1 || inputs.domain.os.firmware.is_some();
    if !before && !inputs.medium {
        return Err(refuse(
            object(),
            "the domain was started without any disk, and its filter has no calls for one",
            "start it with a disk or an empty cdrom drive",
        ));
    }
    Ok(())
}

fn spawn(plan: &LaunchPlan) -> Result<&Spawn, PlanError> {
    match plan.ops.last() {
        Some(Op::Spawn(spawn)) => Ok(spawn),
        _ => Err(refuse("a device", "what runs has no plan", "start the domain again")),
    }
}

fn owners(plan: &LaunchPlan) -> Owners {
    let uids = |wanted: UidRole| {
        plan.ops.iter().filter_map(move |op| match op {
            Op::LeaseUid { role, uid } if *role == wanted => Some(*uid),
            _ => None,
        })
    };
    Owners {
        domain: uids(UidRole::Domain).next().unwrap_or(0),
        supervisor: uids(UidRole::Supervisor).next().unwrap_or(0),
        helpers: uids(UidRole::Helper).collect(),
    }
}

fn pair(plan: &LaunchPlan) -> Option<crate::base::CategoryPair> {
    plan.ops.iter().find_map(|op| match op {
        Op::LeaseCategories { pair } => Some(*pair),
        _ => None,
    })
}

/// QEMU's words for the last disk.
struct Words {
    alias: String,
    device: Value,
    nodes: Vec<String>,
    top: Option<String>,
    first_set: u32,
}

impl Words {
    fn of(inputs: &PlugInputs<'_>, spawn: &Spawn) -> Result<Self, PlanError> {
        let disks = &inputs.domain.devices.disks;
        let last = disks.len().saturating_sub(1);
        let layers = |(at, disk): (usize, &Disk)| Chain {
            target: disk.target.clone(),
            layers: if at == last { inputs.chain.layers.clone() } else { Vec::new() },
        };
        let chains: Vec<Chain> = disks.iter().enumerate().map(layers).collect();
        let line = qemu::argv(&Guest {
            domain: inputs.domain,
            uuid: inputs.uuid,
            program: &spawn.program,
            chains: &chains,
            flash: None,
            // Only where the device sits is read.
            cid: inputs.domain.devices.vsock.as_ref().map(|_| 3),
            dump: false,
            incoming: false,
        })?;
        let alias = qemu::disk_alias(disks, last).unwrap_or_default();
        let target = disks.last().map(|disk| disk.target.clone()).unwrap_or_default();
        // Each of the disk's own objects is named by its alias, or its target.
        let named = |text: &&String| text.contains(&*alias) || text.contains(&*target);
        let objects: Vec<Value> =
            line.argv.iter().filter(named).filter_map(|text| serde_json::from_str(text).ok()).collect();
        let word = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let device = objects.iter().find(|object| word(object, "id").as_ref() == Some(&alias)).cloned();
        let device = device.ok_or_else(|| refuse(format!("disk {target}"), "it has no device", ""))?;
        let first_set = next_set(inputs.described, spawn);
        let mine = |name: &String| name.strip_prefix(&target).is_some_and(|rest| rest.starts_with('-'));
        let mut nodes: Vec<Value> = objects
            .into_iter()
            .filter(|object| word(object, "node-name").as_ref().is_some_and(mine))
            .collect();
        // From the bottom up, while sets are numbered from the top down.
        let files = nodes.iter_mut().rev().filter_map(|node| node.get_mut("filename"));
        for (filename, set) in files.zip(first_set..) {
            *filename = format!("/dev/fdset/{set}").into();
        }
        let top = nodes.last().and_then(|node| word(node, "node-name"));
        let nodes = nodes.iter().map(Value::to_string).collect();
        Ok(Self { alias, device, nodes, top, first_set })
    }
}

/// A number that no set of the domain has.
fn next_set(described: &Described, spawn: &Spawn) -> u32 {
    let started = spawn.argv.iter().filter(|text| text.starts_with("fd=") && text.contains(",set=")).count();
    let plugged = described.plugs.iter().flat_map(|plug| &plug.steps.sets).map(|grant| grant.set).max();
    plugged.unwrap_or(0).max(u32::try_from(started).unwrap_or(u32::MAX / 2)).saturating_add(1)
}

/// The arguments of a device model with these devices; what its disks hold does not matter.
fn argv(domain: &Domain, uuid: DomainUuid, spawn: &Spawn) -> Result<Vec<String>, PlanError> {
    let disks = domain.devices.disks.iter();
    let chains = disks.map(|disk| Chain { target: disk.target.clone(), layers: Vec::new() });
    let chains: Vec<Chain> = chains.collect();
    let line = qemu::argv(&Guest {
        domain,
        uuid,
        program: &spawn.program,
        chains: &chains,
        flash: None,
        // Only where a device sits is read.
        cid: domain.devices.vsock.as_ref().map(|_| 3),
        dump: false,
        incoming: false,
    })?;
    Ok(line.argv)
}

/// Gives a device the first port of a machine with PCI Express that nothing is plugged into.
fn port(
    device: &mut Value,
    machine: &str,
    described: &Described,
    spawn: &Spawn,
    what: String,
) -> Result<(), PlanError> {
    if !qemu::is_q35(machine) {
        // The bus of the older machine takes devices itself, and QEMU finds the slot.
        if let Some(device) = device.as_object_mut() {
            device.retain(|key, _| key != "bus" && key != "addr");
        }
        return Ok(());
    }
    let started: Vec<Value> = spawn.argv.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    let plugged = described.plugs.iter().filter_map(|plug| match &plug.steps.top {
        Top::Device { object } | Top::Interface { object, .. } => serde_json::from_str(object).ok(),
        Top::Medium { .. } => None,
    });
    let plugged: Vec<Value> = plugged.collect();
    let word = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let gone = |object: &Value| {
        let alias = word(object, "id");
        described.gone.iter().any(|gone| !gone.medium && Some(&gone.alias) == alias.as_ref())
    };
    let there = started.iter().filter(|object| !gone(object)).chain(&plugged);
    let taken: Vec<String> = there.filter_map(|object| word(object, "bus")).collect();
    let ports = started.iter().filter(|object| word(object, "driver").as_deref() == Some("pcie-root-port"));
    let free = ports.filter_map(|port| word(port, "id")).find(|id| !taken.contains(id));
    let Some(free) = free else {
        return Err(refuse(
            what,
            "No more available PCI slots: no PCI Express port of the domain is free",
            "start it with more <controller type='pci' model='pcie-root-port'/>",
        ));
    };
    if let Some(device) = device.as_object_mut() {
        device.insert("bus".into(), free.into());
        device.insert("addr".into(), "0x0".into());
        device.remove("multifunction");
    }
    Ok(())
}

/// Bus and slot of a device that was placed on a port.
fn place(device: &Value) -> Option<(u8, u8)> {
    let bus = device.get("bus")?.as_str()?.strip_prefix("pci.")?.parse().ok()?;
    let slot = device.get("addr")?.as_str()?.strip_prefix("0x")?;
    Some((bus, u8::from_str_radix(slot, 16).ok()?))
}
