//! Domains that are device models: started by the labeller, looked after by supervisors.

use std::time::Instant;

use super::{Begun, Core, Label, ManagerError, Wanted};
use crate::base::DomainUuid;
use crate::conf::domain::Domain;
use crate::conf::facts::HostFacts;
use crate::driver::{self, Begin, Control, DriverError, Labeller, Launch, find_firmware};
use crate::privsep::apparmor::profile_name;
use crate::privsep::op::{LaunchPlan, Op, Spawn};
use crate::privsep::supervisor::{Ended, PtySpec, Verb};
use crate::settings::Settings;

/// The labeller of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Labelled;

impl Core for Labelled {
    fn start(&self, wanted: &Wanted<'_>) -> Result<Begun, ManagerError> {
        let uuid = wanted.definition.uuid;
        let mut domain = wanted.definition.to_start()?;
        domain.uuid = Some(uuid);
        let mut labeller = Labeller::connect(wanted.settings).map_err(ManagerError::Away)?;
        let chosen = firmware(&domain, uuid, wanted);
        let from = Begin { paused: wanted.paused, restore: wanted.restore };
        let launch = driver::start(
            &mut labeller,
            (domain, wanted.definition.files()),
            wanted.facts,
            wanted.settings,
            from,
        )?;
        Ok(Begun {
            labels: labels(&launch.plan, wanted.facts),
            consoles: consoles(&launch),
            cgroup: launch.started.cgroup,
            listening: shown(launch.started.listening).into_iter().chain(chosen).collect(),
            control: launch.started.control,
        })
    }

    fn kill(&self, uuid: DomainUuid, settings: &Settings) -> Result<Option<Ended>, ManagerError> {
        match Labeller::connect(settings)?.kill(uuid) {
            Ok(ended) => Ok(Some(ended)),
            // It was gone already, whoever ended it.
            Err(DriverError::NoDomain) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn order(&self, control: &str, verb: &Verb) -> Result<Option<Ended>, ManagerError> {
        Control::connect(control)?.order(verb)?;
        Ok(None)
    }

    fn control(&self, control: &str, until: Option<Instant>) -> Result<Control, ManagerError> {
        Ok(until.map_or_else(|| Control::connect(control), |until| Control::connect_by(control, until))?)
    }

    fn labeller(&self, settings: &Settings) -> Result<Labeller, ManagerError> {
        Ok(Labeller::connect(settings)?)
    }

    fn tells_between(&self) -> bool {
        true
    }

    fn opens_files(&self) -> bool {
        true
    }
}

/// The files of UEFI firmware that a start of this domain takes; none where it takes none, or is refused.
fn firmware(domain: &Domain, uuid: DomainUuid, wanted: &Wanted<'_>) -> Vec<(String, String)> {
    let Ok(Some(flash)) = find_firmware(domain, uuid, wanted.facts, wanted.settings) else {
        return Vec::new();
    };
    let loader = if flash.secure { "secure-loader" } else { "loader" };
    [(loader, flash.code), ("nvram", flash.nvram), ("nvram-template", flash.template)]
        .map(|(slot, path)| (slot.to_owned(), path))
        .into()
}

fn spawn(plan: &LaunchPlan) -> Option<&Spawn> {
    plan.ops.iter().find_map(|op| match op {
        Op::Spawn(spawn) => Some(spawn.as_ref()),
        _ => None,
    })
}

/// The consoles of a start and their terminals, as a supervisor tells them. It is not asked: it would ask a device model
/// that has just begun to run its guest, and is slow to answer then.
fn consoles(launch: &Launch) -> Vec<(String, Option<String>)> {
    let specs = spawn(&launch.plan).map(|spawn| spawn.supervisor.consoles.as_slice()).unwrap_or_default();
    let terminal = |pty: &PtySpec| {
        let made = launch.started.listening.iter().find(|(slot, _)| *slot == pty.slot.as_str());
        made.map(|(_, path)| path.clone())
    };
    specs.iter().map(|spec| (spec.alias.clone(), spec.pty.as_ref().and_then(terminal))).collect()
}

/// The labels that a plan gives, as the models of this host.
pub(super) fn labels(plan: &LaunchPlan, facts: &HostFacts) -> Vec<Label> {
    let Some(spawn) = spawn(plan) else { return Vec::new() };
    let enforcing = facts.selinux.as_ref().is_some_and(|selinux| selinux.enforcing);
    let context = spawn.confinement.selinux_exec.clone();
    let image = plan.ops.iter().find_map(|op| match op {
        Op::LabelSelinux { label, .. } => Some(label.clone()),
        _ => None,
    });
    let selinux = context.map(|label| Label { model: "selinux", label, image, enforcing });
    let enforcing = facts.apparmor.as_ref().is_some_and(|apparmor| apparmor.enforcing);
    let profiled = plan.ops.iter().any(|op| matches!(op, Op::LoadProfile { .. }));
    let name = || profile_name(plan.domain.uuid);
    let apparmor = profiled.then(|| Label { model: "apparmor", label: name(), image: None, enforcing });
    let uid = spawn.confinement.uid;
    let dac = Label { model: "dac", label: format!("+{uid}:+{uid}"), image: None, enforcing: true };
    selinux.into_iter().chain(apparmor).chain([dac]).collect()
}

/// What of it a definition shows: where displays listen, tap devices, the number of a vsock.
fn shown(listening: Vec<(String, String)>) -> Vec<(String, String)> {
    let kinds = ["vnc:", "spice", "net", "vsock"];
    listening.into_iter().filter(|(slot, _)| kinds.iter().any(|kind| slot.starts_with(kind))).collect()
}
