//! What SQLite's errors mean for the caller.

use rusqlite::ErrorCode;

use crate::StoreError;

/// Why a piece of work failed, before it is known which operation it belonged to.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite's, or a stored value that can't be understood.
    Sql(rusqlite::Error),
    /// A decision.
    Refused(StoreError),
}

pub(super) type Outcome<T> = Result<T, Failure>;

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

pub(super) fn not_found(what: &'static str) -> Failure {
    Failure::Refused(StoreError::NotFound { what })
}

pub(super) fn conflict(message: impl Into<String>) -> Failure {
    Failure::Refused(StoreError::Conflict { message: message.into() })
}

impl Failure {
    /// The sentence for the operator, when it is the database that fails and not the work.
    pub(super) fn fault(&self) -> Option<Fault> {
        match self {
            Self::Sql(error) => Fault::of(error),
            Self::Refused(_) => None,
        }
    }

    pub(super) fn into_store_error(self, operation: &'static str) -> StoreError {
        if let Some(fault) = self.fault() {
            return fault.into();
        }
        match self {
            Self::Refused(error) => error,
            Self::Sql(error) => StoreError::Internal { operation, source: Box::new(error) },
        }
    }
}

/// A fault of the database itself: it fails everything that was under way, and it may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) message: String,
    /// Whether the connection is of no use any more.
    pub(super) reconnect: bool,
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        Self::Unavailable { message: fault.message }
    }
}

impl Fault {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), reconnect: true }
    }

    /// `None` for errors that are the work's own fault, such as a broken constraint.
    pub(super) fn of(error: &rusqlite::Error) -> Option<Self> {
        let rusqlite::Error::SqliteFailure(code, _) = error else {
            return None;
        };
        let (sentence, reconnect) = match code.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => {
                ("another program keeps the database file locked", false)
            }
            ErrorCode::DiskFull => ("the disk that holds the database file is full", false),
            ErrorCode::ReadOnly => ("the database file or its filesystem is read-only", true),
            ErrorCode::PermissionDenied => ("the database file may not be accessed", true),
            ErrorCode::SystemIoFailure if code.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE => {
                ("the disk that holds the database file is full", true)
            }
            ErrorCode::SystemIoFailure => ("reading or writing the database file fails", true),
            ErrorCode::CannotOpen => ("the database file or its journal can't be opened", true),
            ErrorCode::DatabaseCorrupt => ("the database file is damaged; restore it from a backup", true),
            ErrorCode::NotADatabase => ("the file is not a SQLite database", true),
            ErrorCode::OutOfMemory => ("there is not enough memory", true),
            ErrorCode::FileLockingProtocolFailed | ErrorCode::NoLargeFileSupport => {
                ("the filesystem does not lock or store files as SQLite needs", true)
            }
            _ => return None,
        };
        Some(Self { message: format!("{sentence} (SQLite error {})", code.extended_code), reconnect })
    }
}
