//! What must survive: definitions, autostart, and which domains were started, in one SQLite file.
//!
//! A change is acknowledged once it is on the disk, or, where it tells what runs, once the kernel has it: no domain
//! outlives the host. Changes that come together share one commit. Texts stay in the file until somebody asks for one.
//! Knows nothing of what a definition says.
#![forbid(unsafe_code)]

mod database;
mod fault;

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use crate::base::DomainUuid;
use database::{Database, Reader};

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

/// A definition's text for those who may see passwords, and for those who may not where that differs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// All of it.
    pub secure: String,
    /// Without secrets; `None` where there are none.
    pub public: Option<String>,
}

impl Text {
    /// How long both are together.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.secure.len() + self.public.as_ref().map_or(0, String::len)) as u64
    }

    /// What a client reads.
    #[must_use]
    pub fn view(&self, secure: bool) -> &str {
        self.public.as_deref().filter(|_| !secure).unwrap_or(&self.secure)
    }
}

/// A persistent domain, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which.
    pub uuid: DomainUuid,
    /// What is known of it without reading its text, in the words of whoever wrote it.
    pub summary: String,
    /// Its definition.
    pub text: Text,
    /// Whether it is started when the host is.
    pub autostart: bool,
    /// The uid that handed it in.
    pub owner: u32,
    /// What it may name of the host; `None` is everything.
    pub files: Option<Vec<String>>,
}

/// A persistent domain without its text, as it is read when the store is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which.
    pub uuid: DomainUuid,
    /// What is known of it without reading its text; empty where an older program wrote it.
    pub summary: String,
    /// Whether it is started when the host is.
    pub autostart: bool,
    /// The uid that handed it in.
    pub owner: u32,
    /// How long its texts are.
    pub bytes: u64,
    /// What it may name of the host; `None` is everything.
    pub files: Option<Vec<String>>,
}

/// Something else that is to survive, such as a storage pool: one value under a kind and a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// What kind of thing.
    pub kind: String,
    /// Which of its kind.
    pub key: String,
    /// What is known of it, in the words of whoever wrote it.
    pub value: String,
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
    /// What the host chose for it, such as the port of a display, by the plan's names; and how links were put since.
    pub listening: Vec<(String, String)>,
    /// What it may name of the host; `None` is everything.
    pub files: Option<Vec<String>>,
}

/// One change; those of one call to [`Store::commit`] happen all or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A domain is defined, or defined anew.
    Define(Definition),
    /// A domain is defined no longer.
    Undefine(DomainUuid),
    /// Whether a persistent domain is started when the host is.
    Autostart(DomainUuid, bool),
    /// A domain is about to be started.
    Start(Live),
    /// A domain has ended, or was not started after all: the start with this number, and no later one.
    End(DomainUuid, i32),
    /// Something else is there, or is so from now on.
    Put(Object),
    /// It is not there any longer.
    Remove {
        /// What kind of thing.
        kind: String,
        /// Which of its kind.
        key: String,
    },
}

impl Change {
    /// Whether it means anything once the host has been off.
    fn outlives_host(&self) -> bool {
        !matches!(self, Self::Start(_) | Self::End(..))
    }
}

/// Everything that is in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    /// Persistent domains, by uuid.
    pub definitions: Vec<Known>,
    /// Domains that were started and have not ended as far as anybody noticed, by uuid.
    pub live: Vec<Live>,
    /// Everything else, by kind and key.
    pub objects: Vec<Object>,
}

/// The store.
#[derive(Clone, Debug)]
pub struct Store {
    sender: Sender<Job>,
    reader: Arc<Mutex<Reader>>,
}

#[derive(Debug)]
struct Job {
    changes: Vec<Change>,
    done: Sender<Result<(), StoreError>>,
}

impl Store {
    /// Opens or makes the file, and reads all of it but the texts of definitions. Opens no other file afterwards.
    pub fn open(path: &Path) -> Result<(Opened, Contents), StoreError> {
        let mut database = Database::open(path)?;
        let contents = database.read()?;
        let reader = Reader::open(path)?;
        Ok((Opened { database, reader }, contents))
    }

    /// The text of a persistent domain. Waits for the disk at most, never for a change.
    pub fn text(&self, uuid: DomainUuid) -> Result<Option<Text>, StoreError> {
        self.reader.lock().unwrap_or_else(PoisonError::into_inner).text(uuid)
    }

    /// Makes changes; returns once they are on the disk, or for what runs once a dead process cannot undo them.
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
    reader: Reader,
}

impl Opened {
    /// Starts the thread that writes.
    pub fn serve(self) -> Result<Store, StoreError> {
        let (sender, jobs) = channel();
        let thread = std::thread::Builder::new().name("store".into());
        let Self { mut database, reader } = self;
        thread.spawn(move || write(&mut database, &jobs))?;
        Ok(Store { sender, reader: Arc::new(Mutex::new(reader)) })
    }
}

fn write(database: &mut Database, jobs: &Receiver<Job>) {
    while let Ok(first) = jobs.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            let Ok(next) = jobs.try_recv() else { break };
            batch.push(next);
        }
        fault::step();
        let together = database.apply(batch.iter().flat_map(|job| &job.changes));
        fault::step();
        for job in batch {
            // One that cannot be written must not take the others with it.
            let result = match &together {
                Ok(()) => Ok(()),
                Err(_) => {
                    database.apply(job.changes.iter()).map_err(|error| StoreError::Commit(error.to_string()))
                }
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
        let secure = format!("<domain>{number}</domain>");
        let public = number.is_multiple_of(2).then(|| format!("<domain>{number}, without</domain>"));
        let summary = format!("summary {number}");
        Definition {
            uuid: uuid(number),
            summary,
            text: Text { secure, public },
            autostart,
            owner: 7,
            files: number.is_multiple_of(2).then(|| vec![format!("/srv/{number}")]),
        }
    }

    fn known(of: &Definition) -> Known {
        let Definition { uuid, summary, autostart, owner, text, files } = of.clone();
        Known { uuid, summary, autostart, owner, bytes: text.bytes(), files }
    }

    #[test]
    fn what_was_acknowledged_is_there_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domains.db");
        let (store, contents) = Store::open(&path).unwrap();
        let store = store.serve().unwrap();
        assert_eq!(contents, Contents::default());
        let live = Live {
            uuid: uuid(1),
            id: 7,
            xml: "<domain id='7'/>".into(),
            listening: vec![("vnc:0".into(), "127.0.0.1:5901".into())],
            files: Some(vec!["/srv/1".into()]),
        };
        let pool = Object { kind: "pool".into(), key: "default".into(), value: "<pool/>".into() };
        store.commit(vec![Change::Define(definition(1, true)), Change::Start(live.clone())]).unwrap();
        store.commit(vec![Change::Define(definition(2, false)), Change::Put(pool.clone())]).unwrap();
        store.commit(vec![Change::Autostart(uuid(2), true), Change::Undefine(uuid(3))]).unwrap();
        // Another process may read while the first one holds it.
        let (_second, seen) = Store::open(&path).unwrap();
        let definitions = vec![known(&definition(1, true)), known(&definition(2, true))];
        assert_eq!(seen, Contents { definitions, live: vec![live], objects: vec![pool] });
        assert_eq!(store.text(uuid(2)).unwrap(), Some(definition(2, true).text));
        let remove = Change::Remove { kind: "pool".into(), key: "default".into() };
        store.commit(vec![Change::Undefine(uuid(1)), Change::End(uuid(1), 7), remove]).unwrap();
        let (_third, seen) = Store::open(&path).unwrap();
        let definitions = vec![known(&definition(2, true))];
        assert_eq!(seen, Contents { definitions, ..Contents::default() });
        assert_eq!(store.text(uuid(1)).unwrap(), None);
    }

    #[test]
    fn an_end_takes_no_later_start_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("domains.db");
        let store = Store::open(&path).unwrap().0.serve().unwrap();
        let live = |id| Live { uuid: uuid(1), id, xml: "<domain/>".into(), listening: vec![], files: None };
        store.commit(vec![Change::Start(live(1))]).unwrap();
        store.commit(vec![Change::Start(live(2))]).unwrap();
        store.commit(vec![Change::End(uuid(1), 1)]).unwrap();
        let (_second, seen) = Store::open(&path).unwrap();
        assert_eq!(seen.live, vec![live(2)]);
    }

    /// The tables of each earlier version, as it made them, with a domain that is defined and one that also runs.
    const EARLIER: [&str; 3] = [
        "CREATE TABLE definition (uuid BLOB PRIMARY KEY, xml TEXT NOT NULL, autostart INTEGER NOT NULL) WITHOUT ROWID, STRICT;
         CREATE TABLE live (uuid BLOB PRIMARY KEY, id INTEGER NOT NULL, xml TEXT NOT NULL, ports TEXT NOT NULL) WITHOUT ROWID, STRICT;
         INSERT INTO definition VALUES (x'05', '<domain>é</domain>', 1), (x'06', '<domain/>', 0);
         PRAGMA user_version = 1;",
        "CREATE TABLE known (uuid BLOB PRIMARY KEY, summary TEXT NOT NULL, autostart INTEGER NOT NULL,
             owner INTEGER NOT NULL, bytes INTEGER NOT NULL) WITHOUT ROWID, STRICT;
         CREATE TABLE text (uuid BLOB PRIMARY KEY, secure TEXT NOT NULL, public TEXT) STRICT;
         CREATE TABLE live (uuid BLOB PRIMARY KEY, id INTEGER NOT NULL, xml TEXT NOT NULL, ports TEXT NOT NULL) WITHOUT ROWID, STRICT;
         CREATE TABLE object (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)) STRICT;
         INSERT INTO known VALUES (x'05', 'five', 1, 7, 19), (x'06', 'six', 0, 8, 9);
         INSERT INTO text VALUES (x'05', '<domain>é</domain>', NULL), (x'06', '<domain/>', 'p');
         INSERT INTO object VALUES ('pool', 'default', '<pool/>');
         PRAGMA user_version = 2;",
        "CREATE TABLE known (uuid BLOB PRIMARY KEY, summary TEXT NOT NULL, autostart INTEGER NOT NULL,
             owner INTEGER NOT NULL, bytes INTEGER NOT NULL, files TEXT) WITHOUT ROWID, STRICT;
         CREATE TABLE text (uuid BLOB PRIMARY KEY, secure TEXT NOT NULL, public TEXT) STRICT;
         CREATE TABLE live (uuid BLOB PRIMARY KEY, id INTEGER NOT NULL, xml TEXT NOT NULL, ports TEXT NOT NULL) WITHOUT ROWID, STRICT;
         CREATE TABLE object (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)) STRICT;
         INSERT INTO known VALUES (x'05', 'five', 1, 7, 19, '[\"/srv/a\"]'), (x'06', 'six', 0, 8, 9, NULL);
         INSERT INTO text VALUES (x'05', '<domain>é</domain>', NULL), (x'06', '<domain/>', 'p');
         INSERT INTO object VALUES ('pool', 'default', '<pool/>');
         PRAGMA user_version = 3;",
    ];

    #[test]
    fn a_file_of_each_earlier_version_is_taken_over_and_loses_nothing() {
        for (version, tables) in (1..).zip(EARLIER) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("domains.db");
            let old = rusqlite::Connection::open(&path).unwrap();
            let key = |number: u8| format!("x'{}'", uuid(number.into()).0.simple());
            old.execute_batch(&tables.replace("x'05'", &key(5)).replace("x'06'", &key(6))).unwrap();
            // One that is defined, one that is so by somebody who may name everything, and one that is not defined.
            for number in [5, 6, 7] {
                let live = format!("INSERT INTO live VALUES ({}, {number}, '<domain/>', '[]')", key(number));
                old.execute(&live, []).unwrap();
            }
            drop(old);
            let (store, seen) = Store::open(&path).unwrap();
            let (first, later) = (version == 1, version > 2);
            let word = |word: &str| if first { String::new() } else { word.to_owned() };
            let some = |files: &[&str]| later.then(|| files.iter().map(|file| (*file).to_owned()).collect());
            let known = |number: u8, summary: &str, owner, bytes, files| Known {
                uuid: uuid(number.into()),
                summary: word(summary),
                autostart: number == 5,
                owner: if first { 0 } else { owner },
                bytes,
                files,
            };
            let expected = [known(5, "five", 7, 19, some(&["/srv/a"])), known(6, "six", 8, 9, None)];
            assert_eq!(seen.definitions, expected, "{version}");
            let live = |number: u8, files| {
                let (uuid, xml) = (uuid(number.into()), "<domain/>".into());
                Live { uuid, id: number.into(), xml, listening: Vec::new(), files }
            };
            // Nobody noted who started what is not defined: it may name nothing then.
            let expected = [live(5, some(&["/srv/a"])), live(6, None), live(7, some(&[]))];
            assert_eq!(seen.live, expected, "{version}");
            let pool = Object { kind: "pool".into(), key: "default".into(), value: "<pool/>".into() };
            assert_eq!(seen.objects, if first { vec![] } else { vec![pool] }, "{version}");
            let store = store.serve().unwrap();
            let text = |number: u8| store.text(uuid(number.into())).unwrap().unwrap();
            assert_eq!((text(5).secure.as_str(), text(5).public), ("<domain>é</domain>", None), "{version}");
            assert_eq!(
                (text(6).secure.as_str(), text(6).public.is_some()),
                ("<domain/>", !first),
                "{version}"
            );
            // What is written afterwards is found again, as by this version.
            store.commit(vec![Change::Define(definition(1, true)), Change::End(uuid(6), 6)]).unwrap();
            drop(store);
            let (_, again) = Store::open(&path).unwrap();
            assert_eq!((again.definitions.len(), again.live.len()), (3, 2), "{version}");
        }
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
