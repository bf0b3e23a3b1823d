//! The SQLite file: its tables, changes as statements, and a second connection that only reads.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params};

use super::fault;
use super::{Change, Contents, Known, Live, Object, StoreError, Text};
use crate::base::DomainUuid;

/// The tables' version, kept in `user_version`; 0 is a new file.
const VERSION: i64 = 4;
/// Texts have a table of their own: what is read when the daemon starts lies close together.
const TABLES: &str = "
    CREATE TABLE known (uuid BLOB PRIMARY KEY, summary TEXT NOT NULL, autostart INTEGER NOT NULL,
        owner INTEGER NOT NULL, bytes INTEGER NOT NULL, files TEXT) WITHOUT ROWID, STRICT;
    CREATE TABLE text (uuid BLOB PRIMARY KEY, secure TEXT NOT NULL, public TEXT) STRICT;
    CREATE TABLE IF NOT EXISTS live
        (uuid BLOB PRIMARY KEY, id INTEGER NOT NULL, xml TEXT NOT NULL, ports TEXT NOT NULL) WITHOUT ROWID, STRICT;
    ALTER TABLE live ADD COLUMN files TEXT;
    CREATE TABLE object (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (kind, key)) STRICT;
    PRAGMA user_version = 4;
";
/// What version 1 kept. It had no summaries: an empty one is made anew by whoever reads it.
const FROM_1: &str = "
    INSERT INTO known SELECT uuid, '', autostart, 0, length(CAST(xml AS BLOB)), NULL FROM definition;
    INSERT INTO text SELECT uuid, xml, NULL FROM definition;
    DROP TABLE definition;
";
/// What version 2 kept may name what it named: it was accepted so.
const FROM_2: &str = "
    ALTER TABLE known ADD COLUMN files TEXT;
    ALTER TABLE live ADD COLUMN files TEXT;
    PRAGMA user_version = 4;
";
/// Version 3 did not note what may be named by what runs: that of its definition, and nothing where it has none.
const FROM_3: &str = "
    ALTER TABLE live ADD COLUMN files TEXT;
    UPDATE live SET files = CASE WHEN uuid IN (SELECT uuid FROM known)
        THEN (SELECT files FROM known WHERE known.uuid = live.uuid) ELSE '[]' END;
    PRAGMA user_version = 4;
";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

/// Reads while the other connection writes; neither waits for the other.
#[derive(Debug)]
pub(super) struct Reader {
    connection: Connection,
}

/// Opens a connection that opens nothing more by itself: nothing may be opened once the daemon has confined itself.
fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, StoreError> {
    let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch("PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;")?;
    Ok(connection)
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let mut connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA cache_size = -1024;")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let steps: &[&str] = match version {
            VERSION => &[],
            0 => &[TABLES],
            1 => &[TABLES, FROM_1],
            2 => &[FROM_2],
            3 => &[FROM_3],
            other => {
                return Err(StoreError::Foreign(format!(
                    "{} has version {other}, and this program knows version {VERSION}",
                    path.display()
                )));
            }
        };
        let transaction = connection.transaction()?;
        for step in steps {
            transaction.execute_batch(step)?;
        }
        transaction.commit()?;
        Ok(Self { connection })
    }

    pub(super) fn read(&mut self) -> Result<Contents, StoreError> {
        let mut statement = self
            .connection
            .prepare("SELECT uuid, summary, autostart, owner, bytes, files FROM known ORDER BY uuid")?;
        let definitions = statement
            .query_map([], |row| {
                Ok(Known {
                    uuid: uuid(row.get(0)?),
                    summary: row.get(1)?,
                    autostart: row.get(2)?,
                    owner: row.get(3)?,
                    bytes: u64::try_from(row.get::<_, i64>(4)?).unwrap_or(0),
                    files: files(row.get(5)?),
                })
            })?
            .collect::<Result<_, _>>()?;
        let mut statement =
            self.connection.prepare("SELECT uuid, id, xml, ports, files FROM live ORDER BY uuid")?;
        let live = statement
            .query_map([], |row| {
                // What cannot be read is only not shown.
                let ports: String = row.get(3)?;
                let listening = serde_json::from_str(&ports).unwrap_or_default();
                let (uuid, files) = (uuid(row.get(0)?), files(row.get(4)?));
                Ok(Live { uuid, id: row.get(1)?, xml: row.get(2)?, listening, files })
            })?
            .collect::<Result<_, _>>()?;
        let mut statement =
            self.connection.prepare("SELECT kind, key, value FROM object ORDER BY kind, key")?;
        let objects = statement
            .query_map([], |row| Ok(Object { kind: row.get(0)?, key: row.get(1)?, value: row.get(2)? }))?
            .collect::<Result<_, _>>()?;
        Ok(Contents { definitions, live, objects })
    }

    /// Makes changes in one transaction. They survive the death of every process, and one that outlives the host takes
    /// all before it to the disk.
    pub(super) fn apply<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change> + Clone,
    ) -> Result<(), rusqlite::Error> {
        // https://sqlite.org/pragma.html#pragma_synchronous: without FULL, a commit to a write-ahead log waits for no disk.
        let synchronous = if changes.clone().any(Change::outlives_host) { "FULL" } else { "NORMAL" };
        self.connection.pragma_update(None, "synchronous", synchronous)?;
        let transaction = self.connection.transaction()?;
        for change in changes {
            make(&transaction, change)?;
        }
        fault::step();
        transaction.commit()
    }
}

fn make(to: &Connection, change: &Change) -> Result<(), rusqlite::Error> {
    let run = |sql, values: &[&dyn rusqlite::ToSql]| to.prepare_cached(sql)?.execute(values).map(|_| ());
    match change {
        Change::Define(definition) => {
            let (key, text) = (definition.uuid.0.as_bytes(), &definition.text);
            let bytes = i64::try_from(text.bytes()).unwrap_or(i64::MAX);
            let files = stored(definition.files.as_deref());
            run(
                "INSERT OR REPLACE INTO known VALUES (?, ?, ?, ?, ?, ?)",
                params![key, definition.summary, definition.autostart, definition.owner, bytes, files],
            )?;
            run("INSERT OR REPLACE INTO text VALUES (?, ?, ?)", params![key, text.secure, text.public])
        }
        Change::Undefine(uuid) => {
            run("DELETE FROM known WHERE uuid = ?", params![uuid.0.as_bytes()])?;
            run("DELETE FROM text WHERE uuid = ?", params![uuid.0.as_bytes()])
        }
        Change::Autostart(uuid, autostart) => {
            run("UPDATE known SET autostart = ? WHERE uuid = ?", params![autostart, uuid.0.as_bytes()])
        }
        Change::Start(live) => {
            let ports = serde_json::to_string(&live.listening).unwrap_or_default();
            run(
                "INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?, ?)",
                params![live.uuid.0.as_bytes(), live.id, live.xml, ports, stored(live.files.as_deref())],
            )
        }
        Change::End(uuid, id) => {
            run("DELETE FROM live WHERE uuid = ? AND id = ?", params![uuid.0.as_bytes(), id])
        }
        Change::Put(object) => run(
            "INSERT OR REPLACE INTO object VALUES (?, ?, ?)",
            params![object.kind, object.key, object.value],
        ),
        Change::Remove { kind, key } => {
            run("DELETE FROM object WHERE kind = ? AND key = ?", params![kind, key])
        }
    }
}

impl Reader {
    /// Opens everything that reading opens; the tables are there.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.execute_batch("PRAGMA cache_size = -256;")?;
        let reader = Self { connection };
        reader.text(DomainUuid(uuid::Uuid::nil()))?;
        Ok(reader)
    }

    pub(super) fn text(&self, uuid: DomainUuid) -> Result<Option<Text>, StoreError> {
        let mut statement =
            self.connection.prepare_cached("SELECT secure, public FROM text WHERE uuid = ?")?;
        let found = statement
            .query_row([uuid.0.as_bytes()], |row| Ok(Text { secure: row.get(0)?, public: row.get(1)? }));
        Ok(found.optional()?)
    }
}

/// A list of files as it is stored.
fn stored(files: Option<&[String]>) -> Option<String> {
    files.map(|files| serde_json::to_string(files).unwrap_or_default())
}

/// A list of files that was stored. One that cannot be read gives nothing.
fn files(stored: Option<String>) -> Option<Vec<String>> {
    stored.map(|files| serde_json::from_str(&files).unwrap_or_default())
}

fn uuid(bytes: [u8; 16]) -> DomainUuid {
    DomainUuid(uuid::Uuid::from_bytes(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_what_outlives_the_host_waits_for_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        let mut database = Database::open(&directory.path().join("domains.db")).unwrap();
        let uuid = DomainUuid(uuid::Uuid::from_u128(1));
        let end = Change::End(uuid, 1);
        let mut waits = |changes: &[Change]| {
            database.apply(changes.iter()).unwrap();
            let level: i64 =
                database.connection.pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
            level == 2
        };
        assert!(!waits(std::slice::from_ref(&end)));
        assert!(waits(&[end.clone(), Change::Undefine(uuid), end.clone()]));
        assert!(!waits(&[end]));
    }
}
