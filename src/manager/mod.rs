//! The domains that svirtd answers for: what is defined, what runs, and how one becomes the other.
//!
//! Owns the table of domains in memory, the store beside it, and domains' numbers. One manager serves one view; what
//! runs its domains is a [`Core`]: the labeller and their supervisors, or nothing but memory. Each call runs on the
//! caller's own thread; a change is told only once it is on the disk, where there is one. Knows nothing of the wire,
//! of sockets, or of who may do what.
#![forbid(unsafe_code)]

mod agent;
mod block;
mod change;
mod core;
mod crash;
mod define;
mod definition;
mod display;
mod doubt;
mod dump;
mod edit;
mod error;
mod event;
mod files;
mod given;
mod happen;
mod interface;
mod job;
mod labelled;
mod left;
mod lifecycle;
mod link;
mod live;
mod managed;
mod medium;
mod memory;
mod metadata;
mod native;
mod peek;
mod pin;
mod plug;
mod recent;
mod recover;
mod runtime;
mod save;
mod scsi;
mod shown;
mod stands;
mod table;
#[cfg(test)]
mod testing;
mod tune;
mod vcpus;
mod volume;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::{DomainName, DomainUuid};
use crate::conf::definition::Choices;
use crate::conf::facts::HostFacts;
use crate::settings::Settings;
use crate::store::{Change, Store, StoreError};

pub use agent::PATIENCE_MAX as AGENT_PATIENCE_MAX;
pub use core::{Begun, Core, Wanted};
pub use define::Leaves;
pub use definition::{Definition, Summary, Text};
pub use dump::Afterwards;
pub use error::ManagerError;
pub use event::{Event, Lifecycle, Sink, What};
pub use given::target as disk_target;
pub use interface::{InterfaceName, is_interface};
pub use labelled::Labelled;
pub use lifecycle::StartFlags;
pub use link::InterfaceHere;
pub use live::{BlockInfo, BlockStats, DiskName};
pub use memory::Memory;
pub use metadata::Metadata;
pub use pin::Threads;
pub use plug::Impact;
pub use runtime::Runtime;
pub use save::{Goes, Handed, SavedDomain};
pub use table::{Domain, Kept, Label, Live, State};
pub use volume::Volumes;

use left::Left;
use recent::Recent;
use recover::{Reservations, Reserved};
use table::Table;

/// Everything that svirtd knows of domains.
pub struct Manager {
    settings: Settings,
    facts: HostFacts,
    /// What a definition that leaves it open gets.
    choices: Choices,
    /// What runs its domains.
    core: Box<dyn Core>,
    /// `None` where nothing is to survive.
    store: Option<Store>,
    /// Whom definitions may leave it to say which file a volume is.
    volumes: Option<Arc<dyn Volumes>>,
    table: Mutex<Table>,
    /// Definitions whose texts were read or written a short while ago.
    recent: Mutex<Recent>,
    reservations: Reservations,
    /// What the store says of domains of which it is not known yet whether they run.
    left: Left,
    /// Held by whoever asks the labeller what runs.
    surveying: Mutex<()>,
    /// Domains whose next start goes on from where they were saved, as the labeller says.
    managed: Mutex<managed::Managed>,
    /// Domains of which it is not known what the last change did to them.
    doubts: Mutex<doubt::Doubts>,
    /// Starts of which it could not be asked yet whether their guests stand.
    unseen: Mutex<HashSet<(DomainUuid, i32)>>,
    /// What takes long.
    jobs: job::Jobs,
    sink: Arc<dyn Sink>,
    /// Told of each domain that runs, so that somebody waits for its end.
    watch: Box<dyn Fn(DomainUuid, i32) + Send + Sync>,
}

impl Manager {
    /// Knows no domain yet; [`Manager::recover`] finds them.
    pub fn new(
        settings: Settings,
        facts: HostFacts,
        core: Box<dyn Core>,
        store: Option<Store>,
        sink: Arc<dyn Sink>,
        watch: impl Fn(DomainUuid, i32) + Send + Sync + 'static,
    ) -> Self {
        Self {
            settings,
            facts,
            choices: Choices::default(),
            core,
            store,
            volumes: None,
            table: Mutex::default(),
            recent: Mutex::default(),
            reservations: Reservations::default(),
            left: Left::default(),
            surveying: Mutex::default(),
            managed: Mutex::default(),
            doubts: Mutex::default(),
            unseen: Mutex::default(),
            jobs: job::Jobs::default(),
            sink,
            watch: Box::new(watch),
        }
    }

    /// Has definitions completed as this host would run them.
    #[must_use]
    pub fn with_choices(self, choices: Choices) -> Self {
        Self { choices, ..self }
    }

    /// The host, as it was when the daemon started.
    #[must_use]
    pub fn facts(&self) -> &HostFacts {
        &self.facts
    }

    /// The configuration.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every domain, by uuid.
    #[must_use]
    pub fn all(&self) -> Vec<Domain> {
        self.table().all()
    }

    /// The domain with this uuid.
    pub fn by_uuid(&self, uuid: DomainUuid) -> Result<Domain, ManagerError> {
        self.table().by_uuid(uuid).ok_or(ManagerError::NoUuid(uuid))
    }

    /// The domain with this name.
    pub fn by_name(&self, name: &str) -> Result<Domain, ManagerError> {
        self.table().by_name(name).ok_or_else(|| ManagerError::NoName(name.into()))
    }

    /// The domain that runs under this number.
    pub fn by_id(&self, id: i32) -> Result<Domain, ManagerError> {
        self.table().by_id(id).ok_or(ManagerError::NoId(id))
    }

    /// Makes changes; returns once they are where they last.
    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.store.as_ref().map_or(Ok(()), |store| store.commit(changes))
    }

    /// A definition as the table keeps it: without its text where a store has that.
    fn keep(&self, definition: Definition, owner: u32) -> Kept {
        let (summary, bytes) = (definition.summary().clone(), definition.texts().bytes());
        let files = definition.files().clone();
        Kept { summary, whole: self.store.is_none().then(|| Arc::new(definition)), owner, bytes, files }
    }

    /// What a domain is defined as, its text read from the store.
    pub fn definition(&self, domain: &Domain) -> Result<Arc<Definition>, ManagerError> {
        let kept = domain.definition.as_ref().ok_or(ManagerError::NoUuid(domain.uuid))?;
        if let Some(whole) = &kept.whole {
            return Ok(whole.clone());
        }
        if let Some(recent) = self.recent().find(&kept.summary) {
            return Ok(recent);
        }
        let text = self.text(domain.uuid)?.ok_or(ManagerError::NoUuid(domain.uuid))?;
        let definition =
            Arc::new(Definition::stored(kept.summary.clone(), text).with_files(kept.files.clone()));
        self.recent().add(definition.clone());
        Ok(definition)
    }

    /// Whether [`Manager::definition`] answers without the disk.
    #[must_use]
    pub fn is_at_hand(&self, domain: &Domain) -> bool {
        let at_hand = |kept: &Kept| kept.whole.is_some() || self.recent().find(&kept.summary).is_some();
        domain.definition.as_ref().is_some_and(at_hand)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn text(&self, uuid: DomainUuid) -> Result<Option<Text>, StoreError> {
        self.store.as_ref().map_or(Ok(None), |store| store.text(uuid))
    }

    /// What a domain is now, text and all: what it runs with, else what it is defined as, else what it is being started
    /// with.
    pub fn current(&self, domain: &Domain) -> Result<Arc<Definition>, ManagerError> {
        match domain.running().and_then(|live| live.definition.as_ref()).or_else(|| domain.starting()) {
            Some(definition) => Ok(definition.clone()),
            None => self.definition(domain),
        }
    }

    /// The table holds no invariant over a panic that another thread could see broken.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserve(&self, uuid: DomainUuid, name: &DomainName) -> Reserved<'_> {
        self.reservations.take(uuid, name)
    }

    fn tell(&self, domain: &Domain, lifecycle: Lifecycle) {
        if lifecycle.is_between() && !self.core.tells_between() {
            return;
        }
        self.tell_what(domain, What::Lifecycle(lifecycle));
    }

    fn tell_what(&self, domain: &Domain, what: What) {
        self.sink.tell(&Event { domain: domain.clone(), what });
    }
}

impl std::fmt::Debug for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Manager").finish_non_exhaustive()
    }
}

/// A uuid for a definition without one.
#[must_use]
pub fn draw_uuid() -> DomainUuid {
    let bytes = (u128::from(crate::driver::draw()) << 64 | u128::from(crate::driver::draw())).to_be_bytes();
    DomainUuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
}
