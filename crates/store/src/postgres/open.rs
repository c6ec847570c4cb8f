//! Opening a database: everything that can be wrong with it is said here, at the start, and in one sentence.

use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::WorkshopId;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::sync::broadcast;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::database::Database;
use super::failure::sentence;
use super::listen::{Ear, listen};
use super::migrate::{MigrateError, migrate};
use super::tls::{self, TlsError};
use super::url::PostgresUrl;
use super::{PostgresStore, WAKES};

/// Connections that work at once; one more listens. PostgreSQL takes 100 unless told otherwise.
const CONNECTIONS: usize = 16;
/// How long a call waits for one of them, and how long a new one may take.
const WAIT: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(5);
/// How long migrating may take, another replica's too.
const MIGRATE: Duration = Duration::from_secs(120);

/// Why a database can't be opened. Names it without its password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no server, it does not answer, or it refuses.
    #[error("can't open the database {url}: {story}")]
    Connect {
        /// The database.
        url: PostgresUrl,
        /// What that means.
        story: String,
    },
    /// TLS can't be had.
    #[error("can't open the database {url}")]
    Tls {
        /// The database.
        url: PostgresUrl,
        /// Why.
        #[source]
        source: TlsError,
    },
    /// Its tables are not those that this program needs, and can't be made so.
    #[error("can't use the database {url}")]
    Migrate {
        /// The database.
        url: PostgresUrl,
        /// Why.
        #[source]
        source: MigrateError,
    },
}

impl PostgresStore {
    /// Opens the database that `url` names and brings its tables up to date; replicas that do so at once wait for each
    /// other. The store reconnects by itself from then on.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn connect(url: &PostgresUrl) -> Result<Self, OpenError> {
        let tls = connector(url)?;
        drop(migrated_client(url).await?);
        let ear = soon(url, CONNECT, Ear::open(&url.config, &tls)).await?;

        let manager = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = Manager::from_config((*url.config).clone(), tls.clone(), manager);
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(WAIT))
            .create_timeout(Some(CONNECT))
            .recycle_timeout(Some(CONNECT))
            .build()
            .map_err(|error| OpenError::Connect { url: url.clone(), story: error.to_string() })?;
        let (wakes, _) = broadcast::channel(WAKES);
        let origin = WorkshopId::random().as_str().to_owned();
        let database = Arc::new(Database::new(pool, wakes.clone(), origin));
        let listening = tokio::spawn(listen(Arc::clone(&database), (*url.config).clone(), tls, ear));
        Ok(Self {
            database,
            joins: Arc::default(),
            places: Arc::default(),
            unplaces: Arc::default(),
            wakes,
            listening,
        })
    }
}

/// A connection of its own to a database that is up to date. It ends with the client.
pub(crate) async fn migrated_client(url: &PostgresUrl) -> Result<Client, OpenError> {
    let tls = connector(url)?;
    let (mut client, connection) = soon(url, CONNECT, url.config.connect(tls)).await?;
    tokio::spawn(connection);
    let migrated = timeout(MIGRATE, migrate(&mut client)).await.map_err(|_| late(url))?;
    migrated.map_err(|error| match error {
        MigrateError::Sql(error) => refused(url, &error),
        source => OpenError::Migrate { url: url.clone(), source },
    })?;
    Ok(client)
}

fn connector(url: &PostgresUrl) -> Result<MakeRustlsConnect, OpenError> {
    tls::connector(url).map_err(|source| OpenError::Tls { url: url.clone(), source })
}

async fn soon<T>(
    url: &PostgresUrl,
    patience: Duration,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, OpenError> {
    timeout(patience, work).await.map_err(|_| late(url))?.map_err(|error| refused(url, &error))
}

fn late(url: &PostgresUrl) -> OpenError {
    OpenError::Connect { url: url.clone(), story: "PostgreSQL does not answer".to_owned() }
}

fn refused(url: &PostgresUrl, error: &tokio_postgres::Error) -> OpenError {
    let story = sentence(error).unwrap_or_else(|| match error.as_db_error() {
        Some(database) => format!("PostgreSQL error {}: {}", database.code().code(), database.message()),
        None => error.to_string(),
    });
    OpenError::Connect { url: url.clone(), story }
}
