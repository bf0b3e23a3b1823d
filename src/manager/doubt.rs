//! Domains of which it is not known what a call did to them, because its answer never came: what runs is found out, and
//! shown, as soon as labeller and QEMU tell it.
//!
//! What is true of devices QEMU knows, of what they hold and of limits the labeller. Cables and what an end means nobody
//! tells: these are put again as they are shown.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::shown::Shown;
use super::table::Live;
use super::{Definition, Manager, ManagerError, What};
use crate::base::DomainUuid;
use crate::conf::domain::DiskBus;
use crate::driver::{Control, DriverError, Labeller};
use crate::privsep::ask::Ask;
use crate::privsep::plug::Gone;
use crate::privsep::request::Described;

/// How long one device model, and all together, may take to answer; those that do not are asked again later.
const ASKED_EACH: Duration = Duration::from_secs(5);
const ASKED_ALL: Duration = Duration::from_secs(15);
/// Where QEMU keeps the devices that have a name.
const DEVICES: &str = "/machine/peripheral";

/// The domains, whoever has waited longest first.
#[derive(Debug, Default)]
pub(super) struct Doubts(Vec<DomainUuid>);

impl Doubts {
    /// One more; behind all others, for the time of one round may end before everybody had a turn.
    fn add(&mut self, uuid: DomainUuid) {
        if !self.0.contains(&uuid) {
            self.0.push(uuid);
        }
    }

    fn remove(&mut self, uuid: DomainUuid) {
        self.0.retain(|other| *other != uuid);
    }

    /// In the order of their turns.
    fn all(&self) -> Vec<DomainUuid> {
        self.0.clone()
    }
}

/// What a device model says of what changed since it started; nothing of what it did not answer.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Its virtual CPUs.
    pub(super) cpus: Option<Value>,
    /// Its drives and their limits.
    pub(super) blocks: Option<Value>,
    /// The devices that have a name.
    devices: Option<Value>,
}

impl Told {
    /// Asks, no longer than until then.
    pub(super) fn by(control: &str, until: Instant) -> Self {
        let Ok(mut control) = Control::connect_by(control, until) else { return Self::default() };
        let mut ask =
            |execute: &str, arguments| control.ask(Ask::Monitor { execute: execute.into(), arguments }).ok();
        Self {
            cpus: ask("query-cpus-fast", Value::Null),
            blocks: ask("query-block", Value::Null),
            devices: ask("qom-list", json!({ "path": DEVICES })),
        }
    }

    fn is_whole(&self) -> bool {
        self.cpus.is_some() && self.blocks.is_some() && self.devices.is_some()
    }

    /// What a domain is believed to have and QEMU does not have.
    pub(super) fn lacks(&self, believed: &Definition, interfaces: &[String]) -> Vec<Gone> {
        let all = if self.devices.is_some() { aliases(believed, interfaces) } else { Vec::new() };
        let lacking = all.into_iter().filter(|alias| !self.has(alias));
        lacking.map(|alias| Gone { alias, medium: false }).collect()
    }

    fn has(&self, alias: &str) -> bool {
        let named = |device: &Value| device.get("name").and_then(Value::as_str) == Some(alias);
        self.devices.as_ref().and_then(Value::as_array).into_iter().flatten().any(named)
    }
}

impl Definition {
    /// What runs of a definition that was started, with all that changed since; `noted` is what was noted of its cables.
    /// And the aliases of its interfaces.
    pub(super) fn as_it_runs(
        &self,
        described: &Described,
        told: &Told,
        noted: &[(String, String)],
    ) -> (Self, Vec<String>) {
        let interfaces = super::interface::aliases_of(self.interfaces().unwrap_or(0), described);
        let now = self
            .clone()
            .with_plugged(described)
            .with_tuned(described)
            .with_pinned(described)
            .with_vcpus(told.cpus.as_ref())
            .with_throttles(told.blocks.as_ref())
            .with_links(noted, &interfaces);
        (now, interfaces)
    }
}

/// The aliases of what can come and go while a domain runs.
fn aliases(definition: &Definition, interfaces: &[String]) -> Vec<String> {
    let goes = |bus| matches!(bus, DiskBus::Virtio | DiskBus::Scsi | DiskBus::Usb);
    let domain = definition.to_start().ok();
    let kept = |target: &str| {
        let disks = domain.iter().flat_map(|domain| &domain.devices.disks);
        disks.into_iter().any(|disk| disk.target == target && goes(disk.bus))
    };
    let disks = definition.disks().unwrap_or_default().into_iter();
    let disks = disks.filter(|disk| kept(&disk.target)).map(|disk| disk.alias);
    disks.chain(interfaces.iter().cloned()).collect()
}

impl Manager {
    fn doubts(&self) -> MutexGuard<'_, Doubts> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything to be found out.
    #[must_use]
    pub fn is_in_doubt(&self) -> bool {
        !self.doubts().0.is_empty()
    }

    /// Has somebody find out what runs of a domain.
    pub(super) fn doubt(&self, uuid: DomainUuid) {
        self.doubts().add(uuid);
    }

    /// Passes on how a change of what runs went, and says of one that came to nothing because the domain ended that this is
    /// why. Where nobody said whether it was done, that is found out.
    pub(super) fn sure<T>(&self, uuid: DomainUuid, done: Result<T, ManagerError>) -> Result<T, ManagerError> {
        if done.as_ref().is_err_and(ManagerError::is_unclear) {
            self.doubt(uuid);
        }
        let Err(ManagerError::Driver(error)) = &done else { return done };
        let runs = || self.by_uuid(uuid).ok().and_then(|domain| domain.live).is_some_and(|live| !live.ending);
        if !error.is_not_running() && runs() {
            return done;
        }
        tracing::debug!(%uuid, %error, "its end came first");
        Err(ManagerError::state("domain is not running"))
    }

    /// Finds out what became of changes whose answers never came. To be called again and again.
    pub fn clear_doubts(&self, labeller: &mut Labeller) {
        let all = self.doubts().all();
        let until = Instant::now() + ASKED_ALL;
        for uuid in all {
            // Whoever had no turn has the first one of the next round.
            if Instant::now() >= until {
                break;
            }
            let job = self.table().job(uuid);
            // Whoever changes it now may be in doubt of it too.
            let Some(_held) = job.try_take("DomainGetXMLDesc") else { continue };
            // Before anybody is asked: what is in doubt since then is so still.
            self.doubts().remove(uuid);
            if let Err(error) = self.clear_doubt(labeller, uuid, until) {
                tracing::debug!(%uuid, %error, "what runs of it is not known yet");
                self.doubt(uuid);
            }
        }
    }

    /// The same of one, which nobody else changes.
    fn clear_doubt(
        &self,
        labeller: &mut Labeller,
        uuid: DomainUuid,
        until: Instant,
    ) -> Result<(), ManagerError> {
        // One that has ended is in no doubt.
        let Ok(live) = self.live(uuid) else { return Ok(()) };
        let started = live.runtime.started.as_ref().or(live.definition.as_ref());
        let Some(started) = started else { return Ok(()) };
        let started = Definition::clone(started).with_files(live.files());
        let told = Told::by(&live.control, until.min(Instant::now() + ASKED_EACH));
        if !told.is_whole() {
            return Err(ManagerError::Driver(DriverError::Silent));
        }
        let media = live.runtime.kept.iter().filter(|gone| gone.medium);
        for medium in media {
            let gone = labeller.unplug(uuid, medium.clone(), false)?;
            self.note_kept(uuid, medium.clone(), !gone);
        }
        let found = started.as_it_runs(&labeller.describe(uuid)?, &told, &live.listening);
        let (now, interfaces) = match self.give_back_gone(labeller, uuid, &found, &told)? {
            false => found,
            true => started.as_it_runs(&labeller.describe(uuid)?, &told, &live.listening),
        };
        self.put_again(&live, &now, &interfaces)?;
        self.show(uuid, &live, now, interfaces);
        Ok(())
    }

    /// Has the labeller take back what devices held that it believes to be there and QEMU does not have; whether there were
    /// any. Of a guest that stands QEMU keeps it, and they stay.
    fn give_back_gone(
        &self,
        labeller: &mut Labeller,
        uuid: DomainUuid,
        (believed, interfaces): &(Definition, Vec<String>),
        told: &Told,
    ) -> Result<bool, ManagerError> {
        let mut any = false;
        for which in told.lacks(believed, interfaces) {
            let gone = labeller.unplug(uuid, which.clone(), false)?;
            self.note_kept(uuid, which, !gone);
            any = true;
        }
        Ok(any)
    }

    /// Has QEMU do what nobody can be asked about.
    fn put_again(&self, live: &Live, now: &Definition, interfaces: &[String]) -> Result<(), ManagerError> {
        let domain = now.to_start()?;
        let mut control = self.core.control(&live.control, Some(Instant::now() + ASKED_EACH))?;
        for (alias, interface) in interfaces.iter().zip(&domain.devices.interfaces) {
            control.ask(Ask::Link { alias: alias.clone(), up: !interface.link_down })?;
        }
        control.ask(Ask::SetLifecycle { lifecycle: super::tune::actions(&domain) })?;
        Ok(())
    }

    /// Shows what runs, and tells what came and went unseen.
    fn show(&self, uuid: DomainUuid, live: &Live, now: Definition, interfaces: Vec<String>) {
        let before = live.definition.as_deref().map(|it| aliases(it, &live.interface_aliases()));
        let (before, after) = (before.unwrap_or_default(), aliases(&now, &interfaces));
        let mut running = live.runtime.running.clone();
        running.interfaces = interfaces;
        self.put_shown(uuid, live, Some(Shown::new(now, running)));
        let Ok(domain) = self.by_uuid(uuid) else { return };
        for alias in before.iter().filter(|alias| !after.contains(alias)) {
            self.tell_what(&domain, What::DeviceRemoved(alias.clone()));
        }
        for alias in after.iter().filter(|alias| !before.contains(alias)) {
            self.tell_what(&domain, What::DeviceAdded(alias.clone()));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_found_by_their_names() {
        let devices = json!([{"name": "type", "type": "string"}, {"name": "virtio-disk0"}, 7, {"name": 1}]);
        let told = Told { devices: Some(devices), ..Told::default() };
        assert!(told.has("virtio-disk0") && !told.has("virtio-disk1") && !told.is_whole());
        assert!(!Told::default().has("virtio-disk0"));
    }

    #[test]
    fn whoever_had_its_turn_waits_for_all_others() {
        let uuids = [1, 2, 3].map(|number| DomainUuid(uuid::Uuid::from_u128(number)));
        let mut doubts = Doubts::default();
        uuids.iter().chain(&uuids).for_each(|uuid| doubts.add(*uuid));
        assert_eq!(doubts.all(), uuids);
        doubts.remove(uuids[0]);
        doubts.add(uuids[0]);
        assert_eq!(doubts.all(), [uuids[1], uuids[2], uuids[0]]);
        uuids.iter().for_each(|uuid| doubts.remove(*uuid));
        assert!(doubts.0.is_empty());
    }
}
