//! Storage pools: directories of images that clients list, and make and remove volumes in.
//!
//! Owns the table of pools and what was last seen in each. Every look at a file and every change is the labeller's,
//! which decides by its own configuration where pools may be; headers are read by the image probe. A pool that was
//! active when the daemon ended is active again, and is read when somebody asks for what is in it.
#![forbid(unsafe_code)]

mod contents;
mod error;
mod event;
mod pool;
mod volume;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::conf::storage::{self as xml, PoolState};
use crate::driver::{DriverError, Labeller};
use crate::image::Header;
use crate::privsep::storage::{FileState, StorageOp, Stored};
use crate::settings::Settings;
use crate::store::{Object, Store};

pub use contents::{Contents, Taken};
pub use error::StorageError;
pub use event::{Event, Happened, Sink};
pub use volume::{CopyHow, Info, Resize, Volume};

/// What the store calls a pool.
const KIND: &str = "pool";
/// The most pools.
const POOLS_MAX: usize = 1024;

/// Every pool.
pub struct Pools {
    settings: Settings,
    /// Where pools are kept; those of a view without one are nothing but memory, and nobody is asked about them.
    store: Option<Store>,
    table: Mutex<BTreeMap<Uuid, Pool>>,
    /// Held by whoever changes something; lists and look-ups go on meanwhile.
    job: Mutex<()>,
    /// Headers by path, each good for the file that it was read from.
    headers: Mutex<HashMap<String, (Seen, Header)>>,
    sink: Option<Arc<dyn Sink>>,
}

/// One pool, as it was at one moment.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its definition.
    pub definition: Arc<xml::Pool>,
    /// Whether it stays when it is stopped.
    pub persistent: bool,
    /// Whether it is started when the host is.
    pub autostart: bool,
    /// Whether it was started.
    pub active: bool,
    /// What was seen in it, once somebody looked.
    seen: Option<Arc<Content>>,
}

/// What was seen in a pool.
#[derive(Debug)]
struct Content {
    state: PoolState,
    /// Files by name.
    files: BTreeMap<String, FileState>,
}

/// A pool as the store keeps it.
#[derive(Serialize, Deserialize)]
struct Kept {
    xml: String,
    persistent: bool,
    autostart: bool,
    active: bool,
}

/// By what a file is known to be as it was: length, last write, last change.
type Seen = (u64, (i64, u32), (i64, u32));

impl Pools {
    /// The pools that the store knows. `booted` says that the host has started since; then what was active counts for
    /// nothing, and pools with autostart are started.
    pub fn new(
        settings: Settings,
        store: Store,
        stored: &[Object],
        booted: bool,
        sink: Arc<dyn Sink>,
    ) -> Self {
        let mut table = BTreeMap::new();
        for object in stored.iter().filter(|object| object.kind == KIND) {
            match Pool::kept(&object.value) {
                Ok(mut pool) => {
                    pool.active = if booted { pool.autostart } else { pool.active };
                    if pool.persistent || pool.active {
                        table.insert(pool.definition.uuid, pool);
                    }
                }
                Err(error) => tracing::error!(uuid = object.key, error, "a stored pool is not used"),
            }
        }
        let (job, headers) = (Mutex::default(), Mutex::default());
        Self { settings, store: Some(store), table: Mutex::new(table), job, headers, sink: Some(sink) }
    }

    /// The pool of libvirt's test driver, which is nothing but memory and can only be looked at.
    #[must_use]
    pub fn furnished(settings: Settings) -> Self {
        const ROOM: u64 = 100 << 30;
        let definition = xml::Pool {
            name: "default-pool".into(),
            uuid: uuid::uuid!("dfe224cb-28fb-8dd0-c4b2-64eb3f0f4566"),
            path: "/default-pool".into(),
            mode: None,
        };
        let state = PoolState { capacity: ROOM, available: ROOM, permissions: None };
        let seen = Some(Arc::new(Content { state, files: BTreeMap::new() }));
        let uuid = definition.uuid;
        let pool =
            Pool { definition: definition.into(), persistent: true, autostart: false, active: true, seen };
        Self { table: Mutex::new(BTreeMap::from([(uuid, pool)])), ..Self::none(settings) }
    }

    /// No pools, ever.
    #[must_use]
    pub fn none(settings: Settings) -> Self {
        let (table, job, headers) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { settings, store: None, table, job, headers, sink: None }
    }

    /// Every pool, by uuid.
    #[must_use]
    pub fn all(&self) -> Vec<Pool> {
        self.table().values().cloned().collect()
    }

    /// The pool with this uuid.
    pub fn by_uuid(&self, uuid: Uuid) -> Result<Pool, StorageError> {
        self.table().get(&uuid).cloned().ok_or(StorageError::NoPoolUuid(uuid))
    }

    /// The pool with this name.
    pub fn by_name(&self, name: &str) -> Result<Pool, StorageError> {
        let table = self.table();
        let found = table.values().find(|pool| pool.definition.name == name).cloned();
        found.ok_or_else(|| StorageError::NoPoolName(name.into()))
    }

    /// The pool of this directory.
    pub fn by_path(&self, path: &str) -> Result<Pool, StorageError> {
        let wanted = path.trim_end_matches('/');
        let table = self.table();
        let found = table.values().find(|pool| pool.active && pool.definition.path == wanted).cloned();
        found.ok_or_else(|| StorageError::NoPoolPath(path.into()))
    }

    /// The table holds no invariant over a panic that another thread could see broken.
    fn table(&self) -> MutexGuard<'_, BTreeMap<Uuid, Pool>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self) -> MutexGuard<'_, ()> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn labeller(&self) -> Result<Labeller, StorageError> {
        self.store()?;
        Ok(Labeller::connect(&self.settings)?)
    }

    fn ask(&self, op: StorageOp) -> Result<Stored, StorageError> {
        Ok(self.labeller()?.storage(op)?)
    }

    fn tell(&self, definition: &xml::Pool, what: Happened) {
        if let Some(sink) = &self.sink {
            sink.tell(&Event { uuid: definition.uuid, name: definition.name.clone(), what });
        }
    }

    /// Tells that somebody wrote a volume of this pool: what is known of it is out of date. (A volume itself is looked at
    /// whenever somebody asks.)
    pub fn was_written(&self, pool: &str) {
        if let Ok(pool) = self.by_name(pool) {
            self.tell(&pool.definition, Happened::Refreshed);
        }
    }

    /// What was seen in an active pool; looks where nobody has.
    fn content(&self, pool: &Pool) -> Result<Arc<Content>, StorageError> {
        pool.must_be_active()?;
        match &pool.seen {
            Some(seen) => Ok(seen.clone()),
            None => self.look(pool),
        }
    }

    /// Looks at a pool's directory.
    fn look(&self, pool: &Pool) -> Result<Arc<Content>, StorageError> {
        if let Some(seen) = pool.seen.as_ref().filter(|_| self.store.is_none()) {
            return Ok(seen.clone());
        }
        let content = self.scan(&pool.definition)?;
        if let Some(pool) = self.table().get_mut(&pool.definition.uuid).filter(|pool| pool.active) {
            pool.seen = Some(content.clone());
        }
        Ok(content)
    }

    fn scan(&self, definition: &xml::Pool) -> Result<Arc<Content>, StorageError> {
        let scanned = match self.ask(StorageOp::Scan { path: definition.path.clone() })? {
            Stored::Scanned(scanned) => scanned,
            _ => return Err(DriverError::Protocol("to the labeller about a pool".into()).into()),
        };
        let directory = &scanned.directory;
        let state = PoolState {
            capacity: scanned.capacity,
            available: scanned.available,
            permissions: Some((directory.mode & 0o777, directory.uid, directory.gid)),
        };
        let files = scanned.files.into_iter().map(|file| (file.name.clone(), file)).collect();
        Ok(Arc::new(Content { state, files }))
    }
}

impl Pool {
    fn must_be_active(&self) -> Result<(), StorageError> {
        match self.active {
            true => Ok(()),
            false => {
                Err(StorageError::State(format!("storage pool '{}' is not active", self.definition.name)))
            }
        }
    }

    fn must_be_inactive(&self) -> Result<(), StorageError> {
        match self.active {
            true => {
                Err(StorageError::State(format!("storage pool '{}' is still active", self.definition.name)))
            }
            false => Ok(()),
        }
    }

    fn stored(&self) -> Object {
        let kept = Kept {
            xml: self.definition.kept(),
            persistent: self.persistent,
            autostart: self.autostart,
            active: self.active,
        };
        // Text and truth values are always JSON.
        let value = serde_json::to_string(&kept).unwrap_or_default();
        Object { kind: KIND.into(), key: self.definition.uuid.to_string(), value }
    }

    fn kept(value: &str) -> Result<Self, String> {
        let kept: Kept = serde_json::from_str(value).map_err(|error| error.to_string())?;
        let definition = xml::Pool::parse(&kept.xml, Uuid::nil()).map_err(|error| error.to_string())?;
        if definition.uuid.is_nil() {
            return Err("it has no uuid".into());
        }
        let Kept { persistent, autostart, active, .. } = kept;
        Ok(Self { definition: definition.into(), persistent, autostart, active, seen: None })
    }
}

impl std::fmt::Debug for Pools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}
