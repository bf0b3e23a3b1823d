//! The SQLite file: its tables, and changes as statements.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::{Change, Contents, Definition, Live, StoreError};
use crate::base::DomainUuid;

/// The tables' version, kept in `user_version`; 0 is a new file.
const VERSION: i64 = 1;
const TABLES: &str = "
    CREATE TABLE definition (uuid BLOB PRIMARY KEY, xml TEXT NOT NULL, autostart INTEGER NOT NULL) WITHOUT ROWID, STRICT;
    CREATE TABLE live (uuid BLOB PRIMARY KEY, id INTEGER NOT NULL, xml TEXT NOT NULL, ports TEXT NOT NULL) WITHOUT ROWID, STRICT;
    PRAGMA user_version = 1;
";

#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
}

impl Database {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(path, flags)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        // Temporary tables in memory: nothing may be opened once the daemon has confined itself.
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA temp_store = MEMORY;
             PRAGMA cache_size = -1024; PRAGMA trusted_schema = OFF;",
        )?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        match version {
            VERSION => {}
            0 => {
                let transaction = connection.transaction()?;
                transaction.execute_batch(TABLES)?;
                transaction.commit()?;
            }
            other => {
                return Err(StoreError::Foreign(format!(
                    "{} has version {other}, and this program knows version {VERSION}",
                    path.display()
                )));
            }
        }
        Ok(Self { connection })
    }

    pub(super) fn read(&mut self) -> Result<Contents, StoreError> {
        let uuid = |bytes: [u8; 16]| DomainUuid(uuid::Uuid::from_bytes(bytes));
        let mut statement =
            self.connection.prepare("SELECT uuid, xml, autostart FROM definition ORDER BY uuid")?;
        let definitions = statement
            .query_map([], |row| {
                Ok(Definition { uuid: uuid(row.get(0)?), xml: row.get(1)?, autostart: row.get(2)? })
            })?
            .collect::<Result<_, _>>()?;
        let mut statement = self.connection.prepare("SELECT uuid, id, xml, ports FROM live ORDER BY uuid")?;
        let live = statement
            .query_map([], |row| {
                // What cannot be read is only not shown.
                let ports: String = row.get(3)?;
                let ports = serde_json::from_str(&ports).unwrap_or_default();
                Ok(Live { uuid: uuid(row.get(0)?), id: row.get(1)?, xml: row.get(2)?, ports })
            })?
            .collect::<Result<_, _>>()?;
        Ok(Contents { definitions, live })
    }

    /// Makes changes in one transaction.
    pub(super) fn apply<'a>(
        &mut self,
        changes: impl IntoIterator<Item = &'a Change>,
    ) -> Result<(), rusqlite::Error> {
        let transaction = self.connection.transaction()?;
        for change in changes {
            match change {
                Change::Define(definition) => {
                    let mut put =
                        transaction.prepare_cached("INSERT OR REPLACE INTO definition VALUES (?, ?, ?)")?;
                    put.execute(params![definition.uuid.0.as_bytes(), definition.xml, definition.autostart])?
                }
                Change::Undefine(uuid) => {
                    let mut remove = transaction.prepare_cached("DELETE FROM definition WHERE uuid = ?")?;
                    remove.execute(params![uuid.0.as_bytes()])?
                }
                Change::Start(live) => {
                    let ports = serde_json::to_string(&live.ports).unwrap_or_default();
                    let mut put =
                        transaction.prepare_cached("INSERT OR REPLACE INTO live VALUES (?, ?, ?, ?)")?;
                    put.execute(params![live.uuid.0.as_bytes(), live.id, live.xml, ports])?
                }
                Change::End(uuid) => {
                    let mut remove = transaction.prepare_cached("DELETE FROM live WHERE uuid = ?")?;
                    remove.execute(params![uuid.0.as_bytes()])?
                }
            };
        }
        transaction.commit()
    }
}
