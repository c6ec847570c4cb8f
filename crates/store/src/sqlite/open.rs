//! Opening a database: everything that can be wrong with it is said here, at the start, and in one sentence.

use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::broadcast;

use super::connection::{Database, Role, in_memory};
use super::lock::{FileLock, LockError, lock_path};
use super::migrate::{MigrateError, migrate};
use super::readers::Readers;
use super::writer::Writer;
use super::{SqliteStore, WAKES, accounts};

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder is not there.
    #[error("can't open the database {path}: the directory {directory} does not exist; create it first", path = .path.display(), directory = .directory.display())]
    NoDirectory {
        /// The database.
        path: PathBuf,
        /// What is missing.
        directory: PathBuf,
    },
    /// The file is not there, and is not to be made.
    #[error("there is no database {path}", path = .path.display())]
    NotThere {
        /// The database.
        path: PathBuf,
    },
    /// The path is a directory, a device, …
    #[error("can't open the database {path}: it is not a regular file", path = .path.display())]
    NotAFile {
        /// The database.
        path: PathBuf,
    },
    /// Another server has it.
    #[error("the database {path} is in use by another server{holder}; stop that one first", path = .path.display(), holder = holder.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The database.
        path: PathBuf,
        /// Its process id, when it could be told.
        holder: Option<u32>,
    },
    /// The file, its folder or its filesystem can't be written.
    #[error("can't open the database {path}: the file or its filesystem is read-only", path = .path.display())]
    ReadOnly {
        /// The database.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("can't open the database {path}: it is not a SQLite database", path = .path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// Its tables are not those that this program needs, and can't be made so.
    #[error("can't use the database {path}", path = .path.display())]
    Migrate {
        /// The database.
        path: PathBuf,
        /// Why.
        #[source]
        source: MigrateError,
    },
    /// The operating system refused.
    #[error("can't open {path}", path = .path.display())]
    Io {
        /// The database or its lock.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// SQLite refused: it is locked, the disk is full, …
    #[error("can't open the database {path}{story}", path = .path.display(), story = story.as_ref().map(|story| format!(": {story}")).unwrap_or_default())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What that means.
        story: Option<String>,
        /// What it said.
        #[source]
        source: rusqlite::Error,
    },
}

impl SqliteStore {
    /// Opens the database in `path`, makes it when it is not there (mode 0600) and brings it up to date. Beside it lies
    /// `<path>.lock`, by which a second server is refused; it stays.
    ///
    /// Blocks while it does so: up to two seconds when another program has locked the file.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let path = resolve(path)?;
        let lock = FileLock::take(&path).map_err(|error| lock_refused(&path, error))?;
        create(&path)?;
        let database = Database::new(path.clone());
        fill(&database)?;
        let connection = database.connect_writer().map_err(|fault| OpenError::Io {
            path: path.clone(),
            source: std::io::Error::other(fault.message),
        })?;
        let database = Arc::new(database);
        let (wakes, _) = broadcast::channel(WAKES);
        let writer = Writer::start(Some(Arc::clone(&database)), connection, Some(lock), wakes.clone())
            .map_err(|source| OpenError::Io { path, source })?;
        Ok(Self { readers: Some(Readers::new(database)), writer, wakes })
    }

    /// A database that is gone when it is dropped: for tests.
    ///
    /// # Errors
    /// When there is no memory or no thread to be had.
    pub fn open_in_memory() -> Result<Self, OpenError> {
        let connection = empty_in_memory()?;
        let (wakes, _) = broadcast::channel(WAKES);
        let writer = Writer::start(None, connection, None, wakes.clone())
            .map_err(|source| OpenError::Io { path: PathBuf::from(MEMORY), source })?;
        Ok(Self { readers: None, writer, wakes })
    }

    /// A database that is gone when it is dropped, without any thread: every call has done its work when it is first
    /// polled, so that a run on one thread can be repeated. For simulations; it blocks whoever calls.
    ///
    /// # Errors
    /// When there is no memory to be had.
    pub fn in_line() -> Result<Self, OpenError> {
        let connection = empty_in_memory()?;
        let (wakes, _) = broadcast::channel(WAKES);
        let writer = Writer::in_line(connection, wakes.clone());
        Ok(Self { readers: None, writer, wakes })
    }
}

/// How a database in memory is named in messages.
const MEMORY: &str = ":memory:";

fn empty_in_memory() -> Result<Connection, OpenError> {
    let path = PathBuf::from(MEMORY);
    let mut connection = in_memory().map_err(|error| refused(&path, error))?;
    migrate(&mut connection).map_err(|source| OpenError::Migrate { path: path.clone(), source })?;
    accounts::ensure_installation(&connection).map_err(|error| refused(&path, error))?;
    Ok(connection)
}

/// A database that is read outside of a store, locked as a server would lock it, so that there is none.
#[derive(Debug)]
pub(crate) struct LockedFile {
    pub(crate) connection: Connection,
    /// Dropped after the connection.
    _lock: FileLock,
}

impl LockedFile {
    /// Opens a database that must be there, and brings it up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, OpenError> {
        if !path.exists() {
            return Err(OpenError::NotThere { path: path.to_owned() });
        }
        let path = resolve(path)?;
        let lock = FileLock::take(&path).map_err(|error| lock_refused(&path, error))?;
        let database = Database::new(path.clone());
        fill(&database)?;
        let connection = database.open(Role::Writer).map_err(|error| refused(&path, error))?;
        Ok(Self { connection, _lock: lock })
    }
}

/// One name for each file, however it is spelt, so that there is one lock for it.
fn resolve(path: &Path) -> Result<PathBuf, OpenError> {
    let io = |source| OpenError::Io { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => return path.canonicalize().map_err(io),
        Ok(_) => return Err(OpenError::NotAFile { path: path.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let Some(name) = path.file_name() else {
        return Err(OpenError::NotAFile { path: path.to_owned() });
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match directory.canonicalize() {
        Ok(directory) => Ok(directory.join(name)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(OpenError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() })
        }
        Err(error) => Err(io(error)),
    }
}

fn lock_refused(path: &Path, error: LockError) -> OpenError {
    match error {
        LockError::Held(holder) => OpenError::InUse { path: path.to_owned(), holder },
        LockError::Io(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => {
            OpenError::ReadOnly { path: path.to_owned() }
        }
        LockError::Io(source) => OpenError::Io { path: lock_path(path), source },
    }
}

/// Makes an empty file that only its owner can read; SQLite gives its journal the same mode.
fn create(path: &Path) -> Result<(), OpenError> {
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(OpenError::Io { path: path.to_owned(), source }),
    }
}

/// Brings the tables up to date, and gives the installation its id.
fn fill(database: &Database) -> Result<(), OpenError> {
    let path = &database.path;
    let sqlite = |error| refused(path, error);
    let mut connection = database.open(Role::Writer).map_err(sqlite)?;
    // The first look at the file: whether it is a database is found out here.
    let _: i64 = connection.query_row("PRAGMA schema_version", [], |row| row.get(0)).map_err(sqlite)?;
    if connection.is_readonly("main").map_err(sqlite)? {
        return Err(OpenError::ReadOnly { path: path.clone() });
    }
    migrate(&mut connection).map_err(|error| match error {
        MigrateError::Sql(error) => refused(path, error),
        source => OpenError::Migrate { path: path.clone(), source },
    })?;
    // Only now: what belongs to another program has been refused, untouched.
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(sqlite)?;
    if mode != "wal" {
        return Err(OpenError::Sqlite {
            path: path.clone(),
            story: Some("its filesystem can't hold a write-ahead journal".to_owned()),
            source: rusqlite::Error::InvalidQuery,
        });
    }
    let id = accounts::ensure_installation(&connection).map_err(sqlite)?;
    let _ = database.installation.set(id);
    Ok(())
}

fn refused(path: &Path, error: rusqlite::Error) -> OpenError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase) => OpenError::NotADatabase { path },
        Some(rusqlite::ErrorCode::ReadOnly) => OpenError::ReadOnly { path },
        _ => {
            let story = super::failure::Fault::of(&error).map(|fault| fault.message);
            OpenError::Sqlite { path, story, source: error }
        }
    }
}
