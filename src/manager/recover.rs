//! Finding again what is defined and what runs, when the daemon starts and while others start domains too.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, PoisonError};

use super::labelled::labels;
use super::lifecycle::running;
use super::table::{Live, State};
use super::{Definition, Manager, StartFlags};
use crate::base::{DomainName, DomainUuid};
use crate::driver::{Control, DriverError, Labeller};
use crate::privsep::request::DomainStatus;
use crate::store::{Change, Contents};

/// libvirt's reasons for a state that was found and not made.
const UNKNOWN: i32 = 0;

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
        for stored in contents.definitions {
            match Definition::kept(&stored.xml) {
                Ok(definition) => {
                    let name = definition.name.clone();
                    let mut table = self.table();
                    let domain = table.entry(stored.uuid, &name);
                    domain.definition = Some(definition.into());
                    domain.autostart = stored.autostart;
                }
                Err(error) => tracing::error!(uuid = %stored.uuid, %error, "a stored definition is not used"),
            }
        }
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) =
            contents.live.into_iter().map(|live| (live.uuid, live)).collect();
    }

    /// Compares what is known with what runs, and takes over what is new. To be called again and again.
    pub fn survey(&self, labeller: &mut Labeller) -> Result<(), DriverError> {
        let running = labeller.survey()?.domains;
        for status in &running {
            let known = self.by_uuid(status.domain.uuid).is_ok_and(|domain| domain.live.is_some());
            if !known {
                self.adopt(labeller, status);
            }
        }
        // What was started before the daemon was, and does not run any longer.
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Change> = left.drain().map(|(uuid, _)| Change::End(uuid)).collect();
        drop(left);
        if !gone.is_empty()
            && let Err(error) = self.commit(gone)
        {
            tracing::error!(%error, "domains that have ended stay in the store");
        }
        Ok(())
    }

    /// Takes over a domain that runs.
    fn adopt(&self, labeller: &mut Labeller, status: &DomainStatus) {
        let (uuid, name) = (status.domain.uuid, &status.domain.name);
        let row = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(&uuid);
        let definition = row.as_ref().and_then(|row| Definition::kept(&row.xml).ok());
        // One that has ended meanwhile is none.
        let Ok(described) = labeller.describe(uuid) else { return };
        let found = Control::connect(&status.control).and_then(|mut control| control.status()).ok();
        let goes_on = found.as_ref().is_none_or(|found| found.state == "running");
        let mut table = self.table();
        if table.by_name(name.as_str()).is_some_and(|other| other.uuid != uuid) {
            // Its name is a defined domain's; the labeller goes by uuid and lets both be.
            tracing::warn!(%name, %uuid, "a domain runs under the name of another one, and is not shown");
            return;
        }
        let domain = table.entry(uuid, name);
        if domain.live.is_some() {
            return;
        }
        let (id, ports) = match row {
            Some(row) => (row.id, row.ports),
            None => (table.next_id(), Vec::new()),
        };
        let (labels, consoles) =
            (labels(&described.plan, &self.facts), found.map(|found| found.consoles).unwrap_or_default());
        let running = running(id, &labels, &consoles, ports);
        let live = Live {
            id,
            text: definition.as_ref().map(|definition| definition.running(&running)).unwrap_or_default(),
            definition: definition.map(Into::into),
            state: if goes_on { State::Running(UNKNOWN) } else { State::Paused(UNKNOWN) },
            control: status.control.clone(),
            labels,
            cgroup: described.cgroup,
            consoles,
            autodestroy: None,
            ending: false,
        };
        table.set_live(uuid, live);
        drop(table);
        tracing::info!(%name, id, "runs already");
        (self.watch)(uuid, id);
    }

    /// Starts what is to be started with the host.
    pub fn autostart(&self) {
        for domain in self.all() {
            if !domain.autostart || domain.live.is_some() {
                continue;
            }
            match self.start(domain.uuid, StartFlags::default()) {
                Ok(_) => tracing::info!(name = %domain.name, "started with the host"),
                Err(error) => tracing::error!(name = %domain.name, %error, "cannot be started with the host"),
            }
        }
    }
}

/// What the store said of domains that nobody has found again yet.
pub(super) type Left = Mutex<HashMap<DomainUuid, crate::store::Live>>;
