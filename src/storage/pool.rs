//! What is done to pools.

use std::sync::Arc;

use uuid::Uuid;

use super::{Happened, KIND, POOLS_MAX, Pool, Pools, StorageError};
use crate::conf::storage::{self as xml, PoolState};
use crate::privsep::storage::StorageOp;
use crate::store::{Change, Store};

/// Mode of a directory that nobody gave one, as libvirt's.
const DIRECTORY_MODE: u32 = 0o711;

impl Pools {
    /// Defines a pool, or defines it anew.
    pub fn define(&self, text: &str) -> Result<Pool, StorageError> {
        let definition = self.read(text)?;
        let _job = self.job();
        let before = self.clash(&definition)?;
        if before.as_ref().is_some_and(|pool| pool.active && pool.definition.path != definition.path) {
            return Err(StorageError::State(format!(
                "storage pool '{}' is active, and so keeps its target path",
                definition.name
            )));
        }
        let pool = match before {
            Some(before) => Pool { definition: definition.into(), persistent: true, ..before },
            None => Pool::new(definition, true),
        };
        self.put(&pool)?;
        self.tell(&pool.definition, Happened::Defined);
        Ok(pool)
    }

    /// Starts a pool that is forgotten when it is stopped, unless it is defined too.
    pub fn create(&self, text: &str, build: bool) -> Result<Pool, StorageError> {
        let definition = self.read(text)?;
        let _job = self.job();
        let before = self.clash(&definition)?;
        if let Some(active) = before.as_ref().filter(|pool| pool.active) {
            return Err(StorageError::State(format!(
                "pool is already active as '{}'",
                active.definition.name
            )));
        }
        let pool = before.unwrap_or_else(|| Pool::new(definition, false));
        self.activate(pool, build)
    }

    /// Starts a defined pool.
    pub fn start(&self, uuid: Uuid, build: bool) -> Result<(), StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(uuid)?;
        if pool.active {
            let text = format!("storage pool '{}' is already active", pool.definition.name);
            return Err(StorageError::State(text));
        }
        self.activate(pool, build).map(drop)
    }

    fn activate(&self, mut pool: Pool, build: bool) -> Result<Pool, StorageError> {
        if build {
            self.make_directory(&pool.definition)?;
        }
        pool.seen = Some(self.scan(&pool.definition)?);
        pool.active = true;
        self.put(&pool)?;
        self.tell(&pool.definition, Happened::Started);
        Ok(pool)
    }

    /// Stops a pool; its files stay.
    pub fn stop(&self, uuid: Uuid) -> Result<(), StorageError> {
        let _job = self.job();
        let mut pool = self.by_uuid(uuid)?;
        pool.must_be_active()?;
        (pool.active, pool.seen) = (false, None);
        if pool.persistent {
            self.put(&pool)?;
        } else {
            self.remove(uuid)?;
        }
        self.tell(&pool.definition, Happened::Stopped);
        Ok(())
    }

    /// Forgets the definition of a stopped pool; its files stay.
    pub fn undefine(&self, uuid: Uuid) -> Result<(), StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(uuid)?;
        pool.must_be_inactive()?;
        self.remove(uuid)?;
        self.tell(&pool.definition, Happened::Undefined);
        Ok(())
    }

    /// Makes a pool's directory.
    pub fn build(&self, uuid: Uuid) -> Result<(), StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(uuid)?;
        if pool.active {
            let text = format!("storage pool '{}' is already active", pool.definition.name);
            return Err(StorageError::State(text));
        }
        self.make_directory(&pool.definition)?;
        self.tell(&pool.definition, Happened::Created);
        Ok(())
    }

    fn make_directory(&self, definition: &xml::Pool) -> Result<(), StorageError> {
        let mode = definition.mode.unwrap_or(DIRECTORY_MODE);
        if !xml::is_roots(mode) {
            let text = format!("the mode {mode:04o} lets others than root write the directory");
            return Err(StorageError::Unsupported(text));
        }
        self.ask(StorageOp::BuildDirectory { path: definition.path.clone(), mode })?;
        Ok(())
    }

    /// Removes the empty directory of a stopped pool.
    pub fn delete(&self, uuid: Uuid) -> Result<(), StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(uuid)?;
        pool.must_be_inactive()?;
        self.ask(StorageOp::RemoveDirectory { path: pool.definition.path.clone() })?;
        self.tell(&pool.definition, Happened::Deleted);
        Ok(())
    }

    /// Looks at an active pool's directory again.
    pub fn refresh(&self, uuid: Uuid) -> Result<(), StorageError> {
        let _job = self.job();
        let pool = self.by_uuid(uuid)?;
        pool.must_be_active()?;
        self.look(&pool)?;
        self.forget_headers(&pool.definition.path);
        self.tell(&pool.definition, Happened::Refreshed);
        Ok(())
    }

    /// Sets whether a pool is started when the host is.
    pub fn set_autostart(&self, uuid: Uuid, autostart: bool) -> Result<(), StorageError> {
        let _job = self.job();
        let mut pool = self.by_uuid(uuid)?;
        if !pool.persistent {
            return Err(StorageError::Transient);
        }
        pool.autostart = autostart;
        self.put(&pool)
    }

    /// Room on an active pool's file system; nothing of a stopped one.
    pub fn state(&self, pool: &Pool) -> Result<Option<PoolState>, StorageError> {
        if !pool.active {
            return Ok(None);
        }
        Ok(Some(self.content(pool)?.state))
    }

    fn read(&self, text: &str) -> Result<xml::Pool, StorageError> {
        self.store()?;
        let mut definition = xml::Pool::parse(text, Uuid::nil())?;
        if definition.uuid.is_nil() {
            // A definition without a uuid is that of the pool with its name, where there is one.
            let known = self.by_name(&definition.name).map(|pool| pool.definition.uuid);
            definition.uuid = known.unwrap_or_else(|_| crate::manager::draw_uuid().0);
        }
        Ok(definition)
    }

    /// The pool that a definition is of, unless it clashes with another one.
    fn clash(&self, definition: &xml::Pool) -> Result<Option<Pool>, StorageError> {
        let table = self.table();
        let (name, uuid) = (&definition.name, definition.uuid);
        let known = table.get(&uuid);
        if let Some(other) = known.filter(|pool| pool.definition.name != *name) {
            let text = format!("pool '{}' is already defined with uuid {uuid}", other.definition.name);
            return Err(StorageError::Conflict(text));
        }
        let mut others = table.values().filter(|pool| pool.definition.uuid != uuid);
        if let Some(other) = others.clone().find(|pool| pool.definition.name == *name) {
            let text = format!("pool '{name}' already exists with uuid {}", other.definition.uuid);
            return Err(StorageError::Conflict(text));
        }
        if let Some(other) = others.find(|pool| pool.definition.path == definition.path) {
            let text = format!("Storage source conflict with pool: '{}'", other.definition.name);
            return Err(StorageError::Conflict(text));
        }
        if known.is_none() && table.len() >= POOLS_MAX {
            return Err(StorageError::Conflict(format!("there are {POOLS_MAX} storage pools already")));
        }
        Ok(known.cloned())
    }

    pub(super) fn store(&self) -> Result<&Store, StorageError> {
        self.store.as_ref().ok_or_else(|| {
            StorageError::Lacks("the storage pools of this connection can only be looked at".into())
        })
    }

    fn put(&self, pool: &Pool) -> Result<(), StorageError> {
        self.store()?.commit(vec![Change::Put(pool.stored())])?;
        self.table().insert(pool.definition.uuid, pool.clone());
        Ok(())
    }

    fn remove(&self, uuid: Uuid) -> Result<(), StorageError> {
        self.store()?.commit(vec![Change::Remove { kind: KIND.into(), key: uuid.to_string() }])?;
        self.table().remove(&uuid);
        Ok(())
    }
}

impl Pool {
    fn new(definition: xml::Pool, persistent: bool) -> Self {
        Self { definition: Arc::new(definition), persistent, autostart: false, active: false, seen: None }
    }
}
