//! Opens the database that `DATABASE_URL` names: a file of this server alone, or PostgreSQL shared by several.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clarateach_store::postgres::{OpenError, PostgresStore, PostgresUrl};
use clarateach_store::sqlite::{FileLock, LockError, SqliteStore};
use clarateach_store::{DatabaseUrl, Store};
use tokio::time::Instant;

use crate::app::seal::Sealer;
use crate::config::Config;
use crate::start::{StartError, with_causes};

/// How long a PostgreSQL that does not answer is waited for at start: it may be starting too.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);

/// What the server remembers with.
pub(crate) struct Database {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) sealer: Sealer,
    /// For the runtimes of this machine; none where other servers share the database: they make no seats themselves.
    pub(crate) state_dir: Option<PathBuf>,
    /// Keeps other servers, on other databases, off the state directory.
    pub(crate) state_lock: Option<FileLock>,
    /// As it is logged, without a password.
    pub(crate) name: String,
}

/// What the setting names.
pub(crate) fn parse(config: &Config) -> Result<DatabaseUrl, StartError> {
    let url = config.database_url.parse::<DatabaseUrl>();
    match url.map_err(|error| StartError::Database(error.to_string()))? {
        DatabaseUrl::SqliteMemory => Err(StartError::Database(
            "a server needs a file: what is in memory is gone at its end".to_owned(),
        )),
        // What one replica seals another must open, and none keeps anything of its own.
        DatabaseUrl::Postgres(_) if config.access.server_key.is_none() => Err(StartError::Database(
            "PostgreSQL needs SERVER_KEY, the same for every server on the database: it seals what is stored there"
                .to_owned(),
        )),
        url => Ok(url),
    }
}

/// Opens it.
pub(crate) async fn open(config: &Config, url: &DatabaseUrl) -> Result<Database, StartError> {
    let name = url.to_string();
    match url {
        DatabaseUrl::Postgres(url) => {
            let store: Arc<dyn Store> = Arc::new(connect(url).await?);
            // The key was given, so there is no directory to look for one in.
            let sealer = sealer(config, Path::new(""))?;
            Ok(Database { store, sealer, state_dir: None, state_lock: None, name })
        }
        DatabaseUrl::SqliteFile(path) => {
            let store = SqliteStore::open(path).map_err(|error| StartError::Database(with_causes(&error)))?;
            let state_dir = config.state_dir.clone().unwrap_or_else(|| path.with_extension("state"));
            let fail = |source| StartError::StateDir { path: state_dir.clone(), source };
            private_dir(&state_dir).map_err(fail)?;
            let state_lock = Some(lock(&state_dir).map_err(fail)?);
            let sealer = sealer(config, &state_dir)?;
            Ok(Database { store: Arc::new(store), sealer, state_dir: Some(state_dir), state_lock, name })
        }
        DatabaseUrl::SqliteMemory => Err(StartError::Database("a server needs a file".to_owned())),
    }
}

fn sealer(config: &Config, state_dir: &Path) -> Result<Sealer, StartError> {
    Sealer::open(config.access.server_key.as_ref(), state_dir)
        .map_err(|source| StartError::StateDir { path: state_dir.to_owned(), source })
}

/// Makes sure that no other server makes seats in `state_dir`: each would take the other's for left-overs.
fn lock(state_dir: &Path) -> io::Result<FileLock> {
    FileLock::take(&state_dir.join("server")).map_err(|error| match error {
        LockError::Held(_) => {
            io::Error::other("another server makes its seats there; give this one a STATE_DIR of its own")
        }
        LockError::Io(error) => error,
    })
}

fn private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

async fn connect(url: &PostgresUrl) -> Result<PostgresStore, StartError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match PostgresStore::connect(url).await {
            Ok(store) => return Ok(store),
            Err(error @ OpenError::Connect { .. }) if Instant::now() + RETRY < deadline => {
                tracing::warn!(
                    error = with_causes(&error),
                    "the database does not let us in yet; it is tried again"
                );
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(StartError::Database(with_causes(&error))),
        }
    }
}
