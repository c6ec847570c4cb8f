//! Which database `DATABASE_URL` names.

use std::path::PathBuf;
use std::str::FromStr;

/// A database, as named by `DATABASE_URL`: a path, `sqlite:PATH`, `sqlite://PATH`, or `:memory:`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// A SQLite file.
    SqliteFile(PathBuf),
    /// A SQLite database that is gone with the process.
    SqliteMemory,
}

/// Why a text names no database. Never repeats the text: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseDatabaseUrlError {
    /// Nothing there.
    #[error("it is empty; give a path like ./clarateach.db")]
    Empty,
    /// PostgreSQL.
    #[error("PostgreSQL can't be used yet; give a path like ./clarateach.db")]
    PostgresNotYet,
    /// Some other database.
    #[error("{scheme}:// is not a database this program knows; give a path like ./clarateach.db")]
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
            Some(("postgres" | "postgresql", _)) => return Err(ParseDatabaseUrlError::PostgresNotYet),
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

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(path: &str) -> Result<DatabaseUrl, ParseDatabaseUrlError> {
        Ok(DatabaseUrl::SqliteFile(PathBuf::from(path)))
    }

    #[test]
    fn a_path_may_be_given_bare_or_as_a_url() {
        assert_eq!("./clarateach.db".parse(), file("./clarateach.db"));
        assert_eq!("sqlite:a/b.db".parse(), file("a/b.db"));
        assert_eq!("sqlite://b.db".parse(), file("b.db"));
        assert_eq!("sqlite:///var/b.db".parse(), file("/var/b.db"));
        assert_eq!("odd?name.db".parse(), file("odd?name.db"));
        assert_eq!("sqlite::memory:".parse(), Ok(DatabaseUrl::SqliteMemory));
    }

    #[test]
    fn other_databases_are_refused_without_their_password() {
        for text in ["postgres://me:secret@db/x", "postgresql://me:secret@db/x", "mysql://me:secret@db/x"] {
            let error = text.parse::<DatabaseUrl>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        assert!("postgres://x".parse::<DatabaseUrl>().unwrap_err().to_string().contains("yet"));
        assert_eq!("".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Empty));
        assert_eq!("sqlite://".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Empty));
        assert_eq!("sqlite:x?mode=rwc".parse::<DatabaseUrl>(), Err(ParseDatabaseUrlError::Parameters));
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            let _ = text.parse::<DatabaseUrl>();
        }
    }
}
