//! What must survive: definitions, autostart, and which domains were started, in one SQLite file.
//!
//! A change is acknowledged once it is on the disk; changes that come together share one commit. Knows nothing of
//! what a definition says.
#![forbid(unsafe_code)]

mod database;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::base::DomainUuid;
use database::Database;

/// The most changes that share one commit.
const BATCH_MAX: usize = 512;

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("the store of definitions: {0}")]
    Database(#[from] rusqlite::Error),
    /// What stands in the file was not written by this program.
    #[error("the store of definitions: {0}")]
    Foreign(String),
    /// The writing thread is gone.
    #[error("the store of definitions is closed")]
    Closed,
    /// The thread cannot be started.
    #[error("the store of definitions: {0}")]
    Thread(#[from] std::io::Error),
    /// A commit that this change was part of failed.
    #[error("the store of definitions: {0}")]
    Commit(String),
}

/// A persistent domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which.
    pub uuid: DomainUuid,
    /// Its definition.
    pub xml: String,
    /// Whether it is started when the host is.
    pub autostart: bool,
}

/// A domain that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Live {
    /// Which.
    pub uuid: DomainUuid,
    /// Its number.
    pub id: i32,
    /// The definition that it runs with.
    pub xml: String,
    /// The port of each of its displays, where the kernel chose one.
    pub ports: Vec<Option<u16>>,
}

/// One change; those of one call to [`Store::commit`] happen all or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A domain is defined, or defined anew.
    Define(Definition),
    /// A domain is defined no longer.
    Undefine(DomainUuid),
    /// A domain is about to be started.
    Start(Live),
    /// A domain has ended, or was not started after all.
    End(DomainUuid),
}

/// Everything that is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Persistent domains, by uuid.
    pub definitions: Vec<Definition>,
    /// Domains that were started and have not ended as far as anybody noticed, by uuid.
    pub live: Vec<Live>,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    sender: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    changes: Vec<Change>,
    done: Sender<Result<(), StoreError>>,
}

impl Store {
    /// Opens or makes the file, and reads all of it. Opens no other file afterwards.
    pub fn open(path: &Path) -> Result<(Opened, Contents), StoreError> {
        let mut database = Database::open(path)?;
        let contents = database.read()?;
        Ok((Opened { database }, contents))
    }

    /// Makes changes; returns once they are on the disk.
    pub fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (done, answer) = channel();
        self.sender.send(Job { changes, done }).map_err(|_| StoreError::Closed)?;
        answer.recv().map_err(|_| StoreError::Closed)?
    }
}

/// A store that nothing writes to yet; what confines the process must come before its thread does.
#[derive(Debug)]
pub struct Opened {
    database: Database,
}

impl Opened {
    /// Starts the thread that writes.
    pub fn serve(mut self) -> Result<Store, StoreError> {
        let (sender, jobs) = channel();
        let thread = std::thread::Builder::new().name("store".into());
        thread.spawn(move || write(&mut self.database, &jobs))?;
        Ok(Store { sender })
    }
}

fn write(database: &mut Database, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            let Ok(next) = jobs.try_recv() else { break };
            batch.push(next);
        }
        let together = database.apply(batch.iter().flat_map(|job| &job.changes));
        for job in batch {
            // One that cannot be written must not take the others with it.
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) => database.apply(&job.changes).map_err(|error| StoreError::Commit(error.to_string())),
            };
            // Whoever asked may be gone; the change stands.
            let _ = job.done.send(result);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uuid(number: u128) -> DomainUuid {
        DomainUuid(uuid::Uuid::from_u128(number))
    }

    fn definition(number: u128, autostart: bool) -> Definition {
        Definition { uuid: uuid(number), xml: format!("<domain>{number}</domain>"), autostart }
    }

    #[test]
    fn what_was_acknowledged_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domains.db");
        let (store, contents) = Store::open(&path).unwrap();
        let store = store.serve().unwrap();
        assert_eq!(contents, Contents::default());
        let live =
            Live { uuid: uuid(1), id: 7, xml: "<domain id='7'/>".into(), ports: vec![Some(5901), None] };
        store.commit(vec![Change::Define(definition(1, true)), Change::Start(live.clone())]).unwrap();
        store.commit(vec![Change::Define(definition(2, false))]).unwrap();
        store.commit(vec![Change::Define(definition(2, true)), Change::Undefine(uuid(3))]).unwrap();
        // Another process may read while the first one holds it.
        let (_second, seen) = Store::open(&path).unwrap();
        let expected =
            Contents { definitions: vec![definition(1, true), definition(2, true)], live: vec![live] };
        assert_eq!(seen, expected);
        store.commit(vec![Change::Undefine(uuid(1)), Change::End(uuid(1))]).unwrap();
        let (_third, seen) = Store::open(&path).unwrap();
        assert_eq!(seen, Contents { definitions: vec![definition(2, true)], live: vec![] });
    }

    #[test]
    fn changes_from_many_threads_are_all_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domains.db");
        let store = Store::open(&path).unwrap().0.serve().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let store = store.clone();
                scope.spawn(move || {
                    for number in 0..25 {
                        let definition = definition(thread * 100 + number, false);
                        store.commit(vec![Change::Define(definition)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(Store::open(&path).unwrap().1.definitions.len(), 200);
    }

    #[test]
    fn a_file_of_somebody_elses_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domains.db");
        std::fs::write(&path, b"not a database, and long enough that nobody takes it for an empty one")
            .unwrap();
        assert!(matches!(Store::open(&path), Err(StoreError::Database(_))));
        let other = directory.path().join("other.db");
        rusqlite::Connection::open(&other).unwrap().pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(Store::open(&other), Err(StoreError::Foreign(_))));
    }
}
