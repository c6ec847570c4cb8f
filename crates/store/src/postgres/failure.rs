//! What PostgreSQL's errors mean for the caller (codes: <https://www.postgresql.org/docs/15/errcodes-appendix.html>).

use std::error::Error as _;

use deadpool_postgres::PoolError;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::StoreError;

/// Why a piece of work failed, before it is known which operation it belonged to.
#[derive(Debug)]
pub(super) enum Failure {
    /// PostgreSQL's, or the connection's.
    Sql(Error),
    /// A stored value that can't be understood.
    Unreadable(Box<dyn std::error::Error + Send + Sync>),
    /// A decision.
    Refused(StoreError),
}

pub(super) type Outcome<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sql(error)
    }
}

pub(super) fn not_found(what: &'static str) -> Failure {
    Failure::Refused(StoreError::NotFound { what })
}

pub(super) fn conflict(message: impl Into<String>) -> Failure {
    Failure::Refused(StoreError::Conflict { message: message.into() })
}

pub(super) fn unavailable(message: impl Into<String>) -> StoreError {
    StoreError::Unavailable { message: message.into() }
}

/// Whether the work may be done again in a new transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It lost against others, or its connection was lost: it may succeed now.
    AtOnce,
    /// No.
    No,
}

impl Failure {
    /// Whether a unique index was to be broken.
    pub(super) fn is_taken(&self) -> bool {
        matches!(self, Self::Sql(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION))
    }

    /// Whether rows elsewhere still name this one, or a named row has gone.
    pub(super) fn is_referenced(&self) -> bool {
        matches!(self, Self::Sql(error) if error.code() == Some(&SqlState::FOREIGN_KEY_VIOLATION))
    }

    /// As long as nothing was committed.
    pub(super) fn again(&self) -> Again {
        match self {
            Self::Sql(error) => match error.code() {
                Some(code) if lost_a_race(code) || *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
                    Again::AtOnce
                }
                Some(code) if ends_the_connection(code) => Again::AtOnce,
                None if error.is_closed() || is_io(error) => Again::AtOnce,
                _ => Again::No,
            },
            Self::Unreadable(_) | Self::Refused(_) => Again::No,
        }
    }

    pub(super) fn into_store_error(self, operation: &'static str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Unreadable(source) => StoreError::Internal { operation, source },
            Self::Sql(error) => match sentence(&error) {
                Some(message) => unavailable(message),
                None => StoreError::Internal { operation, source: Box::new(error) },
            },
        }
    }
}

pub(super) fn lost_a_race(code: &SqlState) -> bool {
    [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code)
}

fn ends_the_connection(code: &SqlState) -> bool {
    [
        SqlState::ADMIN_SHUTDOWN,
        SqlState::CRASH_SHUTDOWN,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        SqlState::CONNECTION_EXCEPTION,
        SqlState::CONNECTION_FAILURE,
    ]
    .contains(code)
}

fn is_io(error: &Error) -> bool {
    let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.any(|cause| cause.is::<std::io::Error>())
}

/// The sentence for the operator, when it is the database that fails and not the work.
pub(super) fn sentence(error: &Error) -> Option<String> {
    let Some(database) = error.as_db_error() else {
        if error.is_closed() {
            return Some("the connection to PostgreSQL was lost".to_owned());
        }
        // Of the connection, TLS and the like: their causes say more than they do, and none of them names a password.
        let causes = std::iter::successors(error.source(), |cause| (*cause).source());
        let is_work = error.to_string().starts_with("error serializing")
            || error.to_string().starts_with("error deserializing");
        return (!is_work)
            .then(|| causes.fold(format!("PostgreSQL: {error}"), |all, cause| format!("{all}: {cause}")));
    };
    let code = database.code();
    let known = match code {
        code if lost_a_race(code) => "others write to the same rows all the time",
        code if ends_the_connection(code) => "PostgreSQL ended the connection",
        code if *code == SqlState::CANNOT_CONNECT_NOW => "PostgreSQL is starting or stopping",
        code if *code == SqlState::TOO_MANY_CONNECTIONS => "PostgreSQL takes no more connections",
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => "the PostgreSQL server is read-only",
        code if *code == SqlState::QUERY_CANCELED => "PostgreSQL took too long",
        code if *code == SqlState::LOCK_NOT_AVAILABLE => "another program keeps rows of the database locked",
        code if *code == SqlState::DISK_FULL => "the disk of the PostgreSQL server is full",
        code if *code == SqlState::INVALID_PASSWORD => "PostgreSQL refuses the user or the password",
        code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => "PostgreSQL refuses the user",
        code if *code == SqlState::INVALID_CATALOG_NAME => "the PostgreSQL server has no such database",
        code if *code == SqlState::INSUFFICIENT_PRIVILEGE => "the PostgreSQL user may not do this",
        code if *code == SqlState::UNDEFINED_TABLE => "tables are missing in the PostgreSQL database",
        // Out of resources, an operator's doing, the server's system, its damage.
        code if ["08", "53", "57", "58", "XX"].iter().any(|class| code.code().starts_with(class)) => {
            "PostgreSQL fails"
        }
        _ => return None,
    };
    Some(format!("{known} (PostgreSQL error {}: {})", code.code(), database.message()))
}

/// No connection was to be had.
pub(super) fn no_connection(error: PoolError) -> StoreError {
    match error {
        PoolError::Backend(error) => {
            unavailable(sentence(&error).unwrap_or_else(|| format!("PostgreSQL: {error}")))
        }
        PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => {
            unavailable("all connections to PostgreSQL are busy")
        }
        PoolError::Timeout(_) => unavailable("PostgreSQL does not answer"),
        PoolError::Closed => unavailable("it has been closed"),
        error => unavailable(format!("PostgreSQL can't be reached: {error}")),
    }
}
