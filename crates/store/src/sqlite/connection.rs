//! Connections to one database, and noticing that its file is not the one it was.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use clarateach_ids::InstallationId;
use rusqlite::{Connection, OpenFlags};

use super::accounts;
use super::failure::{Failure, Fault, Outcome};
use super::migrate::{MigrateError, require_current};

/// How long a connection waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// A commit is answered once it is on the disk. The journal is written back every 16 MiB and not every 4, since a class
/// that joins touches many pages; it is cut back to 64 MiB.
const WRITER_SETTINGS: &str = "PRAGMA synchronous = FULL;
    PRAGMA wal_autocheckpoint = 4096;
    PRAGMA journal_size_limit = 67108864;";

/// Bytes that a commit may need.
const ROOM: u64 = 64 * 1024;

/// Every statement of this crate, and then some.
const CACHED_STATEMENTS: usize = 128;

/// Where the database is, which one it is, and who has it open.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) installation: OnceLock<InstallationId>,
    /// The files that the writer has open; `None` while it has none.
    current: Mutex<Option<Files>>,
    /// Connections that only read and are not in use.
    idle: Mutex<Vec<Connection>>,
    /// Held by readers while they read, so that the writer can turn all connections over at once: SQLite keeps one
    /// index of the journal for all connections of a process, and a new journal under an old index is nonsense.
    reading: RwLock<()>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

#[derive(Debug, PartialEq, Eq)]
struct Files {
    database: Option<FileId>,
    /// Written to by every commit, so as telling as the database itself. It exists from the first access on.
    journal: Option<FileId>,
}

const NOT_THERE: &str = "the database file is not there any more; put it back";

type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Database {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            installation: OnceLock::new(),
            current: Mutex::new(None),
            idle: Mutex::new(Vec::new()),
            reading: RwLock::new(()),
        }
    }

    fn files(&self) -> Files {
        let mut journal = OsString::from(&self.path);
        journal.push("-wal");
        Files { database: file_id(&self.path), journal: file_id(Path::new(&journal)) }
    }

    /// That what the writer writes is found again under the same name: SQLite goes on writing to a file that has been
    /// deleted, and what it then calls committed is lost.
    pub(super) fn still_there(&self) -> Result<(), Fault> {
        let current = held(self.current.lock());
        let Some(current) = current.as_ref() else { return Ok(()) };
        let now = self.files();
        if now == *current {
            Ok(())
        } else if now.database.is_none() {
            Err(Fault::new(NOT_THERE))
        } else if now.database != current.database {
            Err(Fault::new("the database file has been replaced by another one"))
        } else {
            Err(Fault::new("the database's journal (-wal) has been removed"))
        }
    }

    /// Closes every connection, the writer's last: it then writes the journal back, even a removed one, as long as the
    /// database itself is in its place.
    pub(super) fn disconnect(&self, writer: Option<Connection>) {
        let _nobody_reads = held(self.reading.write());
        held(self.idle.lock()).clear();
        drop(writer);
        *held(self.current.lock()) = None;
    }

    /// The writer's connection, when there is none any more or none yet.
    pub(super) fn connect_writer(&self) -> Result<Connection, Fault> {
        let connection = self.connect(Role::Writer)?;
        *held(self.current.lock()) = Some(self.files());
        Ok(connection)
    }

    /// Reads with a connection that nobody else uses meanwhile.
    pub(super) fn read<T>(&self, work: impl FnOnce(&Connection) -> Outcome<T>) -> Result<Outcome<T>, Fault> {
        let _connections_stay = held(self.reading.read());
        self.still_there()?;
        let idle = held(self.idle.lock()).pop();
        let connection = match idle {
            Some(connection) => connection,
            None => self.connect(Role::Reader)?,
        };
        let outcome = work(&connection);
        if outcome.as_ref().err().and_then(Failure::fault).is_none() {
            held(self.idle.lock()).push(connection);
        }
        Ok(outcome)
    }

    /// That the disk has room for a commit or two. Filesystems that tell no size are believed.
    pub(super) fn has_room(&self) -> Result<(), Fault> {
        match rustix::fs::statvfs(&self.path) {
            Ok(size) if size.f_blocks > 0 && size.f_bavail.saturating_mul(size.f_frsize) < ROOM => {
                Err(Fault::new("the disk that holds the database file is full"))
            }
            _ => Ok(()),
        }
    }

    /// Opens the file, which must exist, without looking at what is in it.
    pub(super) fn open(&self, role: Role) -> rusqlite::Result<Connection> {
        let access = match role {
            Role::Writer => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Role::Reader => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        let connection = Connection::open_with_flags(&self.path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        prepare(&connection)?;
        if role == Role::Writer {
            connection.execute_batch(WRITER_SETTINGS)?;
        }
        Ok(connection)
    }

    /// Opens a database that has been ours before, and makes sure that it still is.
    fn connect(&self, role: Role) -> Result<Connection, Fault> {
        if file_id(&self.path).is_none() {
            return Err(Fault::new(NOT_THERE));
        }
        let connection = self.open(role).map_err(|error| cannot_open(&error))?;
        if role == Role::Writer && connection.is_readonly("main").unwrap_or(true) {
            return Err(Fault::new("the database file or its filesystem is read-only"));
        }
        require_current(&connection).map_err(|error| match error {
            MigrateError::Sql(error) => cannot_open(&error),
            error => Fault::new(format!("the database file has been replaced: {error}")),
        })?;
        let found = accounts::installation(&connection).map_err(|error| cannot_open(&error))?;
        if self.installation.get().is_some_and(|ours| *ours != found) {
            return Err(Fault::new(
                "the database file has been replaced by another installation's; restart to use that one",
            ));
        }
        Ok(connection)
    }
}

/// Settings that every connection has, in memory too.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(CACHED_STATEMENTS);
    connection
        .execute_batch("PRAGMA foreign_keys = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY;")
}

fn cannot_open(error: &rusqlite::Error) -> Fault {
    Fault::of(error).unwrap_or_else(|| Fault::new(format!("the database file can't be opened: {error}")))
}

/// A database of its own in memory.
pub(super) fn in_memory() -> rusqlite::Result<Connection> {
    let connection = Connection::open_in_memory()?;
    prepare(&connection)?;
    Ok(connection)
}

/// A lock, whatever became of a thread that held it: none of these guards something half done.
fn held<G>(lock: Result<G, PoisonError<G>>) -> G {
    lock.unwrap_or_else(PoisonError::into_inner)
}
