//! Connections to one database, and noticing that its file is not the one it was.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use clarateach_ids::InstallationId;
use rusqlite::{Connection, OpenFlags};

use super::failure::Fault;
use super::migrate::{MigrateError, require_current};

/// How long a connection waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes that a commit may need.
const ROOM: u64 = 64 * 1024;

/// Every statement of this crate, and then some.
const CACHED_STATEMENTS: usize = 128;

/// Where the database is and which one it is.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) installation: OnceLock<InstallationId>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Writer,
    Reader,
}

/// A connection and the file that it has open.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    /// `None` in memory.
    files: Option<Files>,
}

#[derive(Debug)]
struct Files {
    database: (PathBuf, FileId),
    /// Written to by every commit, so as telling as the database itself. It exists from the first access on.
    journal: (PathBuf, Option<FileId>),
}

type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Database {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, installation: OnceLock::new() }
    }

    fn journal_path(&self) -> PathBuf {
        let mut path = OsString::from(&self.path);
        path.push("-wal");
        PathBuf::from(path)
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
            // A commit is answered once it is on the disk.
            connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 67108864;")?;
        }
        Ok(connection)
    }

    /// Opens a database that has been ours before, and makes sure that it still is.
    pub(super) fn connect(&self, role: Role) -> Result<Link, Fault> {
        let Some(before) = file_id(&self.path) else {
            return Err(Fault::new("the database file is not there any more; put it back"));
        };
        let connection = self.open(role).map_err(|error| cannot_open(&error))?;
        if role == Role::Writer && connection.is_readonly("main").unwrap_or(true) {
            return Err(Fault::new("the database file or its filesystem is read-only"));
        }
        require_current(&connection).map_err(|error| match error {
            MigrateError::Sql(error) => cannot_open(&error),
            error => Fault::new(format!("the database file has been replaced: {error}")),
        })?;
        let found: String = connection
            .query_row("SELECT id FROM installation", [], |row| row.get(0))
            .map_err(|error| cannot_open(&error))?;
        if self.installation.get().is_some_and(|ours| ours.as_str() != found) {
            return Err(Fault::new(
                "the database file has been replaced by another installation's; restart to use that one",
            ));
        }
        let journal = self.journal_path();
        let files = Files {
            database: (self.path.clone(), before),
            journal: (journal.clone(), (role == Role::Writer).then(|| file_id(&journal)).flatten()),
        };
        let link = Link { connection, files: Some(files) };
        link.still_there()?;
        Ok(link)
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

impl Link {
    /// A database of its own in memory.
    pub(super) fn in_memory() -> rusqlite::Result<Self> {
        let connection = Connection::open_in_memory()?;
        prepare(&connection)?;
        Ok(Self { connection, files: None })
    }

    /// That what is written here is found again under the same name: SQLite goes on writing to a file that has been
    /// deleted, and what it then calls committed is lost.
    pub(super) fn still_there(&self) -> Result<(), Fault> {
        let Some(files) = &self.files else { return Ok(()) };
        let (path, id) = &files.database;
        match file_id(path) {
            Some(now) if now == *id => {}
            Some(_) => return Err(Fault::new("the database file has been replaced by another one")),
            None => return Err(Fault::new("the database file is not there any more; put it back")),
        }
        let (path, id) = &files.journal;
        if id.is_some() && file_id(path) != *id {
            return Err(Fault::new("the database's journal (-wal) has been removed"));
        }
        Ok(())
    }
}
