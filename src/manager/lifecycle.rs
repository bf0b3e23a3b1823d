//! From defined to running and back.

use std::sync::Arc;

use super::change::ChangeLock;
use super::core::Wanted;
use super::table::{Label, Live, State};
use super::{Definition, Domain, Lifecycle, Manager, ManagerError, Runtime, Text};
use crate::base::DomainUuid;
use crate::conf::definition::{Running, RunningLabel};
use crate::driver::DriverError;
use crate::privsep::save::Restore;
use crate::privsep::supervisor::{Ended, PANICKED, SAVED, Verb};
use crate::store::Change;

/// libvirt's reasons for a state.
const BOOTED: i32 = 1;
const RUNNING_RESTORED: i32 = 3;
const RUNNING_UNPAUSED: i32 = 5;
pub(super) const RUNNING_SAVE_CANCELED: i32 = 7;
const PAUSED_USER: i32 = 1;
const PAUSED_MIGRATION: i32 = 2;
pub(super) const PAUSED_SAVE: i32 = 3;
const SHUTOFF_SHUTDOWN: i32 = 1;
const SHUTOFF_DESTROYED: i32 = 2;
const SHUTOFF_CRASHED: i32 = 3;
const SHUTOFF_SAVED: i32 = 5;
const SHUTOFF_FAILED: i32 = 6;

/// How a domain is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StartFlags {
    /// Its virtual CPUs stay stopped.
    pub paused: bool,
    /// Whether it boots although it was saved; what was saved is gone then.
    pub force_boot: bool,
    /// The connection whose end is also its own.
    pub autodestroy: Option<u64>,
}

impl Manager {
    /// Starts a persistent domain.
    pub fn start(&self, uuid: DomainUuid, flags: StartFlags) -> Result<Domain, ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let _job = self.change(&domain.job, "DomainCreate")?;
        // What the store says of one that runs would be overwritten.
        self.settle(uuid, true)?;
        match self.start_held(uuid, flags) {
            // It was saved by somebody else, and what is known here is older: now it is known.
            Err(ManagerError::Driver(DriverError::IsSaved(_))) => self.start_held(uuid, flags),
            other => other,
        }
    }

    /// The same, whose job is held.
    fn start_held(&self, uuid: DomainUuid, flags: StartFlags) -> Result<Domain, ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let runs = || ManagerError::state("domain is already running");
        if domain.live.is_some() {
            return Err(runs());
        }
        let mut flags = flags;
        let asked = flags.paused;
        let (definition, restore) = match self.to_go_on(&domain, &mut flags)? {
            Some((definition, restore)) => (definition, Some((restore, asked))),
            None => {
                // One that was kept by an earlier version may lack what is chosen.
                let kept = self.definition(&domain)?;
                (kept.chosen(&self.choices)?.map_or(kept, Arc::new), None)
            }
        };
        let definition = self.resolved(definition)?.aligned()?;
        let id = self.claim(&definition, flags).ok_or_else(runs)?;
        let started = self.launch(&definition, id, flags, restore.as_ref());
        if started.is_ok() && restore.is_some() {
            // The labeller has removed it before it said that the guest runs.
            self.note_managed(uuid, false);
        }
        started
    }

    /// Starts a domain that is gone when it ends, or, where it is defined too, runs with another definition.
    pub fn start_transient(&self, definition: Definition, flags: StartFlags) -> Result<Domain, ManagerError> {
        self.start_other(Arc::new(definition), flags, None)
    }

    /// The same of one that goes on from what was saved, and whether somebody asked for it to stand.
    pub(super) fn start_other(
        &self,
        definition: Arc<Definition>,
        flags: StartFlags,
        restore: Option<(Restore, bool)>,
    ) -> Result<Domain, ManagerError> {
        let (uuid, name) = (definition.uuid, definition.name.clone());
        let definition = self.resolved(definition)?.aligned()?;
        let job = {
            let _reserved = self.reserve(uuid, &name);
            self.admit(uuid, &name)?;
            // Nobody sees a domain that somebody only wants to start.
            self.table().job(uuid)
        };
        let _job = self.change(&job, "DomainCreateXML")?;
        self.settle(uuid, true)?;
        let id = {
            // Whoever held the job may have let the domain be forgotten, and somebody else taken its name.
            let _reserved = self.reserve(uuid, &name);
            self.admit(uuid, &name)?;
            let runs = || ManagerError::state(&format!("domain '{name}' is already active"));
            self.claim(&definition, flags).ok_or_else(runs)?
        };
        self.launch(&definition, id, flags, restore.as_ref())
    }

    /// Notes that a domain is being started, and gives it its number; `None` where it runs. Its job is held, but what
    /// is found to run while the labeller is asked does not wait for that.
    fn claim(&self, definition: &Arc<Definition>, flags: StartFlags) -> Option<i32> {
        let mut table = self.table();
        if table.entry(definition.uuid, &definition.name).live.is_some() {
            return None;
        }
        let id = table.next_id();
        let starting = Live {
            id,
            definition: Some(definition.clone()),
            state: State::Starting,
            control: String::new(),
            text: Text::default(),
            labels: Vec::new(),
            cgroup: None,
            consoles: Vec::new(),
            autodestroy: flags.autodestroy,
            ending: false,
            crashes: false,
            listening: Vec::new(),
            runtime: Runtime::default(),
        };
        table.set_live(definition.uuid, starting);
        Some(id)
    }

    /// Starts what is not running; its job is held.
    fn launch(
        &self,
        definition: &Arc<Definition>,
        id: i32,
        flags: StartFlags,
        restore: Option<&(Restore, bool)>,
    ) -> Result<Domain, ManagerError> {
        let uuid = definition.uuid;
        // Written first: a daemon that is killed in between finds the domain again, and what it was started with.
        let row = definition.row(id, Vec::new(), definition.files());
        let launched = self
            .commit(vec![Change::Start(row.clone())])
            .map_err(ManagerError::from)
            .and_then(|()| self.run(definition, id, flags.paused, restore.map(|(restore, _)| restore)));
        match launched {
            Ok(live) => {
                let live = Live { autodestroy: flags.autodestroy, ..live };
                Ok(self.launched(definition, live, flags.paused, restore.map(|(_, asked)| *asked)))
            }
            Err(error) if error.is_unclear() => {
                // The labeller may have it, or begin it yet: the next survey tells.
                self.leave(row);
                self.table().take_live(uuid, id, SHUTOFF_FAILED);
                Err(error)
            }
            Err(error) => {
                if matches!(error, ManagerError::Driver(DriverError::IsSaved(_))) {
                    self.note_managed(uuid, true);
                }
                self.table().take_live(uuid, id, SHUTOFF_FAILED);
                // A row that stays is found to be nobody's at the next start of the daemon.
                if let Err(error) = self.commit(vec![Change::End(uuid, id)]) {
                    tracing::error!(%error, domain = %definition.name, "a start that failed stays in the store");
                }
                Err(error)
            }
        }
    }

    /// Has the driver start it.
    fn run(
        &self,
        definition: &Arc<Definition>,
        id: i32,
        paused: bool,
        restore: Option<&Restore>,
    ) -> Result<Live, ManagerError> {
        let (facts, settings) = (&self.facts, &self.settings);
        let definition = &Arc::new(definition.to_run());
        let wanted = Wanted { definition, id, paused, restore, facts, settings };
        let (stands, goes) = match restore {
            Some(_) => (PAUSED_MIGRATION, RUNNING_RESTORED),
            None => (PAUSED_USER, BOOTED),
        };
        let mut begun = std::thread::scope(|scope| {
            // While the device model starts, what is shown of it is made ready. What fails here fails again below.
            let ahead = std::thread::Builder::new().name("ahead".into());
            let ahead = ahead.spawn_scoped(scope, || definition.read_ahead());
            let begun = self.core.start(&wanted);
            let _ = ahead.map(std::thread::ScopedJoinHandle::join);
            begun
        })?;
        begun.listening.extend(self.agent_note(definition.uuid));
        if !begun.listening.is_empty() {
            // Nobody else remembers what the kernel chose. The row is there; what is added is only shown.
            let row = definition.row(id, begun.listening.clone(), definition.files());
            if let Err(error) = self.commit(vec![Change::Start(row)]) {
                tracing::warn!(%error, domain = %definition.name, "its ports and tap devices are forgotten when svirtd ends");
            }
        }
        let running = running(id, &begun.labels, &begun.consoles, begun.listening.clone());
        Ok(Live {
            id,
            definition: Some(definition.clone()),
            state: if paused { State::Paused(stands) } else { State::Running(goes) },
            control: begun.control,
            text: definition.running(&running),
            listening: begun.listening,
            labels: begun.labels,
            cgroup: begun.cgroup,
            consoles: begun.consoles,
            autodestroy: None,
            ending: false,
            crashes: false,
            runtime: Runtime { running, ..Runtime::default() },
        })
    }

    /// `asked` is there where it goes on from what was saved: whether somebody wanted it to stand.
    fn launched(&self, definition: &Definition, live: Live, paused: bool, asked: Option<bool>) -> Domain {
        let (uuid, id, name) = (definition.uuid, live.id, definition.name.clone());
        let domain = {
            let mut table = self.table();
            let domain = table.entry(uuid, &name).clone();
            // Whoever destroys it while it starts goes on with that.
            let ending = domain.live.as_ref().is_some_and(|starting| starting.ending);
            table.set_live(uuid, Live { ending, ..live });
            table.by_uuid(uuid).unwrap_or(domain)
        };
        (self.watch)(uuid, id);
        let steps = match (asked, paused) {
            (None, true) => [Lifecycle::Booted, Lifecycle::Paused],
            (None, false) => [Lifecycle::Running, Lifecycle::Booted],
            (Some(_), false) => [Lifecycle::Restored, Lifecycle::UnpausedRestored],
            (Some(true), true) => [Lifecycle::Restored, Lifecycle::Paused],
            (Some(false), true) => [Lifecycle::Restored, Lifecycle::PausedRestored],
        };
        steps.into_iter().for_each(|step| self.tell(&domain, step));
        domain
    }

    /// Ends a domain without asking its guest. It waits for nobody but whoever starts it.
    pub fn destroy(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let (id, state, job) = self.condemn(uuid, None)?;
        if state == State::Starting {
            // Whoever runs it may know it already, or not yet, or answer for an earlier one: what it says is no answer
            // to this. Whoever starts it finds out, and once that is over there is something to end, or there is not.
            let _ = self.core.kill(uuid, &self.settings)?;
            self.change(&job, "DomainDestroy").map(drop).inspect_err(|_| self.spare(uuid, id))?;
            if self.condemn(uuid, Some(id)).is_err() {
                return Ok(());
            }
        }
        let ended = self.core.kill(uuid, &self.settings)?;
        self.ended(uuid, id, ended.as_ref());
        Ok(())
    }

    /// Notes that what runs is being ended: its number, its state, and the job of whoever changes it.
    fn condemn(
        &self,
        uuid: DomainUuid,
        id: Option<i32>,
    ) -> Result<(i32, State, Arc<ChangeLock>), ManagerError> {
        let mut table = self.table();
        let domain = table.get(uuid).ok_or(ManagerError::NoUuid(uuid))?;
        let job = domain.job.clone();
        match &mut domain.live {
            Some(live) if id.is_none_or(|id| live.id == id) => {
                let live = Arc::make_mut(live);
                live.ending = true;
                Ok((live.id, live.state, job))
            }
            _ => Err(ManagerError::state("domain is not running")),
        }
    }

    /// Takes that back: whoever wanted its end was told that it did not come to it.
    fn spare(&self, uuid: DomainUuid, id: i32) {
        let mut table = self.table();
        let live = table.get(uuid).and_then(|domain| domain.live.as_mut()).filter(|live| live.id == id);
        live.into_iter().for_each(|live| Arc::make_mut(live).ending = false);
    }

    /// Asks the guest to power off.
    pub fn shutdown(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        // A guest that stands would hear of it when it goes on, whenever that is; one that is made up is there at once, as in
        // libvirt's test driver.
        let made_up = !self.core.tells_between();
        let may = |live: &&Arc<Live>| match live.state {
            State::Crashed | State::Starting => false,
            State::Paused(_) => made_up,
            State::Running(_) => true,
        };
        let lacks = || ManagerError::state("domain is not running");
        let live = domain.running().ok_or_else(lacks)?;
        if matches!(live.state, State::Paused(_)) && !made_up {
            // It is refused on no mere belief.
            self.look_at(uuid, live)?;
        }
        let domain = self.by_uuid(uuid)?;
        let live = domain.running().filter(may).ok_or_else(lacks)?;
        let ended = self.core.order(&live.control, &Verb::Shutdown);
        if let Some(ended) = self.unless_ended(uuid, live.id, ended)? {
            self.ended(uuid, live.id, Some(&ended));
        }
        Ok(())
    }

    /// Stops the virtual CPUs.
    pub fn suspend(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        self.switch(uuid, &Verb::Pause, State::Paused(PAUSED_USER), Lifecycle::Paused)
    }

    /// Lets the virtual CPUs go on.
    pub fn resume(&self, uuid: DomainUuid) -> Result<(), ManagerError> {
        self.switch(uuid, &Verb::Resume, State::Running(RUNNING_UNPAUSED), Lifecycle::Unpaused)
    }

    fn switch(
        &self,
        uuid: DomainUuid,
        verb: &Verb,
        state: State,
        lifecycle: Lifecycle,
    ) -> Result<(), ManagerError> {
        let domain = self.by_uuid(uuid)?;
        let call = if matches!(verb, Verb::Pause) { "DomainSuspend" } else { "DomainResume" };
        let _job = self.change(&domain.job, call)?;
        let mut live = self.live(uuid)?;
        if matches!(
            (verb, live.state),
            (Verb::Pause, State::Paused(_) | State::Crashed) | (Verb::Resume, State::Running(_))
        ) {
            // Nothing is to be done only where that is true, and not where it is believed.
            let looked = self.look_at(uuid, &live);
            self.unless_ended(uuid, live.id, looked)?;
            live = self.live(uuid)?;
        }
        match (verb, live.state) {
            (Verb::Pause, State::Paused(_) | State::Crashed) => return Ok(()),
            (Verb::Resume, State::Running(_)) => {
                return Err(ManagerError::state("domain is already running"));
            }
            // Its supervisor tells that it goes on, too, which is not to be taken for what follows from <on_crash>.
            (Verb::Resume, State::Crashed) => self.stand_after_crash(uuid, live.id),
            _ => {}
        }
        let ordered = self.core.order(&live.control, verb);
        match &ordered {
            Err(error) if error.is_unclear() => self.look_later(uuid, live.id),
            Err(_) if live.state == State::Crashed => self.crashed_still(uuid, live.id),
            _ => {}
        }
        self.unless_ended(uuid, live.id, ordered)?;
        let domain = {
            let mut table = self.table();
            let now = table.get(uuid).and_then(|domain| domain.live.as_mut());
            // A guest that goes on may have panicked already.
            if let Some(now) = now.filter(|now| now.id == live.id && now.state != State::Crashed) {
                Arc::make_mut(now).state = state;
            }
            table.by_uuid(uuid)
        };
        if let Some(domain) = domain {
            self.tell(&domain, lifecycle);
        }
        Ok(())
    }

    /// A domain has ended, as the labeller says; `None` where it could not say how. The first to notice tells it.
    pub fn ended(&self, uuid: DomainUuid, id: i32, ended: Option<&Ended>) {
        let (destroyed, crashes) = {
            let domain = self.table().by_uuid(uuid);
            let live = domain.and_then(|domain| domain.live).filter(|live| live.id == id);
            live.map_or((false, false), |live| (live.ending, live.crashes))
        };
        let guest = ended.is_some_and(|ended| ended.signal.is_none() && ended.code == Some(0));
        let reason = ended.and_then(|ended| ended.reason.as_deref());
        let (saved, panicked) = (reason == Some(SAVED), reason == Some(PANICKED));
        // Before anybody can start it: whoever asked for the save may have lost the labeller on the way.
        if saved && let Err(error) = self.still_managed(uuid) {
            tracing::warn!(%uuid, %error, "whether its next start goes on from there is not known yet");
        }
        let (before, after, reason) = match (destroyed, guest) {
            _ if saved => (None, Lifecycle::StoppedSaved, SHUTOFF_SAVED),
            _ if crashes => (None, Lifecycle::StoppedCrashed, SHUTOFF_CRASHED),
            (true, _) => (Some(Lifecycle::Ending), Lifecycle::StoppedDestroyed, SHUTOFF_DESTROYED),
            (false, _) if panicked => (None, Lifecycle::StoppedCrashed, SHUTOFF_CRASHED),
            (false, true) => (Some(Lifecycle::PoweredOff), Lifecycle::StoppedShutdown, SHUTOFF_SHUTDOWN),
            (false, false) => (None, Lifecycle::StoppedFailed, SHUTOFF_CRASHED),
        };
        let Some(was) = self.table().take_live(uuid, id, reason) else { return };
        self.forget_job(uuid);
        if let Err(error) = self.commit(vec![Change::End(uuid, id)]) {
            tracing::error!(%error, domain = %was.name, "a domain that has ended stays in the store");
        }
        if was.running().is_none() {
            // It never got so far that anybody saw it; whoever starts it hears why.
            return;
        }
        if let Some(before) = before {
            self.tell(&was, before);
        }
        self.tell(&Domain { live: None, ended: reason, ..was }, after);
    }

    /// Ends what was started to end with this connection.
    pub fn connection_ended(&self, connection: u64) {
        let bound = |table: &super::table::Table| table.bound_to(connection);
        let domains = bound(&self.table());
        for domain in domains {
            let is_bound = || bound(&self.table()).iter().any(|other| other.uuid == domain.uuid);
            while let Err(error) = self.destroy(domain.uuid) {
                match error {
                    // One that is being started goes on with that, and nobody else would end it.
                    ManagerError::Busy { .. } if is_bound() => continue,
                    // Somebody else was quicker.
                    ManagerError::Busy { .. } | ManagerError::State(_) | ManagerError::NoUuid(_) => {}
                    error => {
                        tracing::error!(%error, domain = %domain.name, "cannot end a domain whose client is gone");
                    }
                }
                break;
            }
        }
    }
}

/// What was made for a domain that runs, as its text shows it.
pub(super) fn running(
    id: i32,
    labels: &[Label],
    consoles: &[(String, Option<String>)],
    listening: Vec<(String, String)>,
) -> Running {
    let terminal = |(alias, path): &(String, Option<String>)| Some((alias.clone(), path.clone()?));
    let label = |label: &Label| RunningLabel {
        model: label.model.into(),
        label: label.label.clone(),
        imagelabel: label.image.clone(),
    };
    Running {
        id: u32::try_from(id).unwrap_or(0),
        labels: labels.iter().map(label).collect(),
        terminals: consoles.iter().filter_map(terminal).collect(),
        listening,
        interfaces: Vec::new(),
        disks: Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::conf::facts::HostFacts;
    use crate::manager::testing::Deaf;
    use crate::manager::{Leaves, Memory};
    use crate::settings::Settings;

    #[test]
    fn nobody_waits_long_for_a_save_and_an_end_waits_not_at_all() {
        let mut settings = Settings::default();
        settings.daemon.change_wait = 1;
        let facts = HostFacts::default();
        let manager = Manager::new(settings, facts, Box::new(Memory), None, Arc::new(Deaf), |_, _| {});
        manager.furnish().unwrap();
        let domain = manager.by_name("test").unwrap();
        let uuid = domain.uuid;
        let _held = manager.change(&domain.job, "DomainSave").unwrap();
        let refused = [manager.suspend(uuid), manager.reset(uuid), manager.undefine(uuid, Leaves::default())];
        for refused in refused {
            assert!(matches!(refused, Err(ManagerError::Busy { call: "DomainSave", .. })), "{refused:?}");
        }
        manager.destroy(uuid).unwrap();
        assert!(!manager.by_uuid(uuid).unwrap().is_active());
        let start = manager.start(uuid, StartFlags::default());
        assert!(matches!(start, Err(ManagerError::Busy { .. })), "{start:?}");
    }
}
