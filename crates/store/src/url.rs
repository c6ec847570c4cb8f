//! Which database `DATABASE_URL` names.

use std::path::PathBuf;
use std::str::FromStr;

use crate::postgres::{ParsePostgresUrlError, PostgresUrl};

/// A database, as named by `DATABASE_URL`: a path, `sqlite:PATH`, `sqlite://PATH`, `:memory:`, or
/// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    SqliteFile(PathBuf),
    /// A SQLite database that is gone with the process.
    SqliteMemory,
    /// A database on a PostgreSQL server. Neither `Debug` nor `Display` shows the password.
    Postgres(PostgresUrl),
}

/// Why a text names no database. Never repeats the text: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDatabaseUrlError {
    /// Nothing there.
    #[error("it is empty; give a path like ./clarateach.db")]
    Empty,
    /// PostgreSQL, but not as it has to be.
    #[error(transparent)]
    Postgres(#[from] ParsePostgresUrlError),
    /// Some other database.
    #[error(
        "{scheme}:// is not a database this program knows; give a path like ./clarateach.db, or postgres://…"
    )]
    UnknownScheme {
        /// What stood before `://`.
        scheme: String,
    },
    /// `?mode=…` and the like.
    #[error("parameters after '?' are not taken; give only sqlite:PATH")]
    Parameters,
}

impl FromStr for DatabaseUrl {
    type Err = ParseDatabaseUrlError;

    fn from_str(text: &str) -> Result<Self, ParseDatabaseUrlError> {
        let (is_url, path) = match text.split_once("://") {
            Some(("sqlite", path)) => (true, path),
            Some(("postgres" | "postgresql", _)) => return Ok(Self::Postgres(text.parse()?)),
            // A scheme is a short word; anything else with "://" in it is an odd path.
            Some((scheme, _)) if is_scheme(scheme) => {
                return Err(ParseDatabaseUrlError::UnknownScheme { scheme: scheme.to_owned() });
            }
            _ => match text.strip_prefix("sqlite:") {
                Some(path) => (true, path),
                None => (false, text),
            },
        };
        match path {
            "" => Err(ParseDatabaseUrlError::Empty),
            ":memory:" => Ok(Self::SqliteMemory),
            _ if is_url && path.contains('?') => Err(ParseDatabaseUrlError::Parameters),
            _ => Ok(Self::SqliteFile(PathBuf::from(path))),
        }
    }
}

impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SqliteFile(path) => path.display().fmt(f),
            Self::SqliteMemory => f.write_str(":memory:"),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_may_be_given_bare_or_as_a_url() {
        let file = |path: &str| Ok(DatabaseUrl::SqliteFile(path.into()));
        for (text, path) in [
            ("./clarateach.db", "./clarateach.db"),
            ("clarateach.db", "clarateach.db"),
            ("/var/lib/clarateach.db", "/var/lib/clarateach.db"),
            ("sqlite:clarateach.db", "clarateach.db"),
            ("sqlite:///var/lib/clarateach.db", "/var/lib/clarateach.db"),
            ("sqlite://clarateach.db", "clarateach.db"),
            ("odd?.db", "odd?.db"),
        ] {
            assert_eq!(text.parse(), file(path), "{text}");
        }
        assert_eq!(":memory:".parse(), Ok(DatabaseUrl::SqliteMemory));
        assert_eq!("sqlite::memory:".parse(), Ok(DatabaseUrl::SqliteMemory));
    }

    #[test]
    fn other_databases_are_refused_without_their_password() {
        for text in ["mysql://me:secret@db/x", "postgres://me:secret@db:port/x", "postgres:me:secret@db"] {
            if let Err(error) = text.parse::<DatabaseUrl>() {
                assert!(!error.to_string().contains("secret"), "{error}");
            }
        }
        assert_eq!("".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Empty));
        assert_eq!("sqlite://".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Empty));
        assert_eq!("sqlite:x?mode=rwc".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Parameters));
    }

    #[test]
    fn a_password_is_never_shown() {
        for text in ["postgres://me:secret@db/x", "postgresql://me:secret@db:5433/x?sslmode=require"] {
            let url: DatabaseUrl = text.parse().unwrap();
            let shown = format!("{url} {url:?}");
            assert!(shown.contains("me@db") && !shown.contains("secret"), "{shown}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "((postgres|sqlite)://)?\\PC*") {
            let _ = text.parse::<DatabaseUrl>();
        }
    }
}
