//! Finding again what is defined and what runs, when the daemon starts and while others start domains too.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::doubt::Told;
use super::labelled::labels;
use super::lifecycle::running;
use super::stands::{self, UNKNOWN};
use super::table::{Kept, Live, State};
use super::{Definition, Domain, Lifecycle, Manager, ManagerError, Runtime, StartFlags, Summary};
use crate::base::{DomainName, DomainUuid, Files};
use crate::conf::identity;
use crate::driver::{Control, DriverError, Labeller};
use crate::privsep::request::DomainStatus;
use crate::store::{self, Change, Contents, Known};

/// How long one device model, and all together, may take to tell what changed since they started; those that do not tell
/// are shown with what they were started with. Every start waits for it.
const ASKED_EACH: Duration = Duration::from_secs(5);
const ASKED_ALL: Duration = Duration::from_secs(30);

/// Names and uuids of definitions that are being changed.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    held: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// Name and uuid are nobody else's to define until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    reservations: &'a Reservations,
    keys: [String; 2],
}

impl Reservations {
    pub(super) fn take(&self, uuid: DomainUuid, name: &DomainName) -> Reserved<'_> {
        // A name cannot begin with a slash, so the two kinds never meet.
        let keys = [format!("/{uuid}"), name.to_string()];
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        while keys.iter().any(|key| held.contains(key)) {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        held.extend(keys.iter().cloned());
        Reserved { reservations: self, keys }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut held = self.reservations.held.lock().unwrap_or_else(PoisonError::into_inner);
        for key in &self.keys {
            held.remove(key);
        }
        self.reservations.freed.notify_all();
    }
}

impl Manager {
    /// Takes over what the store holds and what the labeller says runs.
    ///
    /// A definition that can no longer be read is left out and named in the log; it stays in the store.
    pub fn recover(&self, contents: Contents) {
        let mut rewritten = Vec::new();
        for known in contents.definitions {
            let (owner, bytes, autostart, files) =
                (known.owner, known.bytes, known.autostart, known.files.clone());
            let summary = match Summary::kept(known.uuid, &known.summary) {
                Some(summary) => summary.into(),
                None => match self.summarise(known) {
                    Ok(definition) => {
                        let summary = definition.summary().clone();
                        let (text, stored) = (definition.texts().clone(), summary.stored());
                        let uuid = summary.uuid;
                        let files = files.clone();
                        let row = store::Definition { uuid, summary: stored, text, autostart, owner, files };
                        rewritten.push(Change::Define(row));
                        summary
                    }
                    Err((uuid, error)) => {
                        tracing::error!(%uuid, %error, "a stored definition is not used");
                        continue;
                    }
                },
            };
            let files = Files::new(files, Vec::new());
            let mut table = self.table();
            let uuid = summary.uuid;
            table.entry(uuid, &summary.name).autostart = autostart;
            table.define(uuid, Some(Kept { summary, whole: None, owner, bytes, files }));
        }
        if !rewritten.is_empty()
            && let Err(error) = self.commit(rewritten)
        {
            tracing::warn!(%error, "what was read of definitions is read again at the next start");
        }
        self.managed().expect();
        for row in contents.live {
            // One that is not defined is known by what it was started with.
            let name = identity::read(&row.xml).ok().map(|found| found.name);
            if let Some(name) = name.filter(|name| self.admit(row.uuid, name).is_ok()) {
                self.table().entry(row.uuid, &name);
            }
            self.leave(row);
        }
    }

    /// Reads a definition whose summary another program wrote.
    fn summarise(&self, known: Known) -> Result<Definition, (DomainUuid, ManagerError)> {
        let uuid = known.uuid;
        let text = self.text(uuid).map_err(ManagerError::from);
        let text = text.and_then(|text| text.ok_or(ManagerError::NoUuid(uuid)));
        let read = text.and_then(|text| Definition::kept(&text.secure)).map_err(|error| (uuid, error))?;
        if read.uuid == uuid {
            return Ok(read);
        }
        Err((uuid, ManagerError::Malformed("its uuid is another one".into())))
    }

    /// Notes something of what runs for a later daemon, then here.
    pub(super) fn note_row(
        &self,
        row: store::Live,
        change: impl FnOnce(&mut Live),
    ) -> Result<(), ManagerError> {
        let (uuid, id) = (row.uuid, row.id);
        self.commit(vec![Change::Start(row)])?;
        let mut table = self.table();
        let now = table.get(uuid).and_then(|domain| domain.live.as_mut());
        if let Some(now) = now.filter(|now| now.id == id) {
            change(Arc::make_mut(now));
            return Ok(());
        }
        drop(table);
        // It has ended meanwhile, and its row went before this one came.
        Ok(self.commit(vec![Change::End(uuid, id)])?)
    }

    /// Compares what is known with what runs, and takes over what is new. To be called again and again.
    pub fn survey(&self, labeller: &mut Labeller) -> Result<(), DriverError> {
        let _one = self.surveying.lock().unwrap_or_else(PoisonError::into_inner);
        // Before the labeller is asked: what is left behind afterwards may be too new for its answer.
        let before: Vec<DomainUuid> = self.left().keys().copied().collect();
        let asked = self.managed().ask();
        self.table().note_ends();
        let taken = labeller.survey().map(|survey| {
            self.managed().replace(survey.saved, asked);
            self.take_over(labeller, &survey.domains, before);
        });
        self.table().forget_ends();
        self.left.asked(taken.is_ok());
        taken
    }

    /// Takes over what runs by what the labeller said, and forgets what it did not name.
    fn take_over(&self, labeller: &mut Labeller, running: &[DomainStatus], before: Vec<DomainUuid>) {
        let all = Instant::now() + ASKED_ALL;
        for status in running {
            let known = self.by_uuid(status.domain.uuid).is_ok_and(|domain| domain.live.is_some());
            if !known {
                self.adopt(labeller, status, all);
            }
        }
        // What was started before the daemon was, and does not run any longer.
        let runs: HashSet<DomainUuid> = running.iter().map(|status| status.domain.uuid).collect();
        self.forget(before.into_iter().filter(|uuid| !runs.contains(uuid)).collect());
    }

    /// Drops the rows of domains that have ended. Until they are off the disk nobody may start these domains.
    pub(super) fn forget(&self, gone: Vec<DomainUuid>) {
        let ended: Vec<Change> = {
            let left = self.left();
            gone.iter().filter_map(|uuid| left.get(uuid)).map(|row| Change::End(row.uuid, row.id)).collect()
        };
        if ended.is_empty() {
            return;
        }
        match self.commit(ended) {
            Ok(()) => {
                self.left().retain(|uuid, _| !gone.contains(uuid));
                for uuid in gone {
                    let domain = self.by_uuid(uuid).ok().filter(|domain| domain.left.is_some());
                    self.table().leave(uuid, None);
                    // Whoever was shown it as one that may run hears that it does not.
                    if let Some(domain) = domain {
                        self.tell(&Domain { left: None, ..domain }, Lifecycle::StoppedFailed);
                    }
                }
            }
            Err(error) => tracing::error!(%error, "domains that have ended stay in the store"),
        }
    }

    /// Takes over a domain that runs. Where it cannot be asked about now, its row stays for the next survey.
    fn adopt(&self, labeller: &mut Labeller, status: &DomainStatus, all: Instant) {
        let (uuid, name) = (status.domain.uuid, &status.domain.name);
        let described = match labeller.describe(uuid) {
            Ok(described) => described,
            // One that has ended meanwhile is none.
            Err(DriverError::NoDomain) => return self.forget(vec![uuid]),
            Err(error) => return tracing::warn!(%name, %error, "what runs cannot be described yet"),
        };
        let row = self.left().get(&uuid).cloned();
        let definition = row.as_ref().and_then(started_by);
        let started = definition.clone().map(Arc::new);
        let until = all.min(Instant::now() + ASKED_EACH);
        let noted = row.as_ref().map(|row| row.listening.as_slice()).unwrap_or_default();
        let told = Told::by(&status.control, until);
        let as_it_runs = |started: Definition| started.as_it_runs(&described, &told, noted);
        let (definition, interfaces) = definition.map(as_it_runs).unzip();
        let interfaces = interfaces.unwrap_or_default();
        // Taken out for an earlier daemon, and kept open while the guest stood.
        let kept = definition.as_ref().map(|now| told.lacks(now, &interfaces)).unwrap_or_default();
        let found = Control::connect(&status.control).and_then(|mut control| control.status()).ok();
        let state = found.as_ref().map_or(State::Running(UNKNOWN), |found| stands::state(&found.state));
        let doubtful = !kept.is_empty() && matches!(state, State::Running(_));
        let mut table = self.table();
        if table.by_name(name.as_str()).is_some_and(|other| other.uuid != uuid) {
            // Its name is a defined domain's; the labeller goes by uuid and lets both be.
            tracing::warn!(%name, %uuid, "a domain runs under the name of another one, and is not shown");
            return;
        }
        // What the labeller said is older than its end.
        if table.has_ended(uuid) || table.entry(uuid, name).live.is_some() {
            return;
        }
        let (id, listening) = match row {
            Some(row) => (row.id, row.listening),
            None => (table.next_id(), Vec::new()),
        };
        let (labels, consoles) =
            (labels(&described.plan, &self.facts), found.map(|found| found.consoles).unwrap_or_default());
        let mut running = running(id, &labels, &consoles, listening.clone());
        running.interfaces = interfaces;
        let live = Live {
            id,
            text: definition.as_ref().map(|definition| definition.running(&running)).unwrap_or_default(),
            definition: definition.map(Into::into),
            state,
            control: status.control.clone(),
            labels,
            cgroup: described.cgroup,
            consoles,
            autodestroy: None,
            ending: false,
            crashes: false,
            listening,
            runtime: Runtime { running, started, kept, ..Runtime::default() },
        };
        table.set_live(uuid, live);
        drop(table);
        self.left().remove(&uuid);
        if doubtful {
            self.doubt(uuid);
        }
        tracing::info!(%name, id, "runs already");
        (self.watch)(uuid, id);
    }

    /// Starts what is to be started with the host.
    pub fn autostart(&self) {
        for domain in self.all() {
            if !domain.autostart || domain.live.is_some() || domain.may_run() {
                continue;
            }
            match self.start(domain.uuid, StartFlags::default()) {
                Ok(_) => tracing::info!(name = %domain.name, "started with the host"),
                Err(error) => tracing::error!(name = %domain.name, %error, "cannot be started with the host"),
            }
        }
    }
}

/// What a domain was started with, by its row.
fn started_by(row: &store::Live) -> Option<Definition> {
    let files = Files::new(row.files.clone(), Vec::new());
    Definition::kept(&row.xml).ok().map(|definition| definition.with_files(files).to_run())
}
