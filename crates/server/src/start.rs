//! Puts the parts together and takes them apart again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clarateach_gateway::{Gateway, GatewayConfig, Limits, PreviewDomain, Scheme};
use clarateach_ids::{InstallationId, WorkerId};
use clarateach_runtime_worker::{Worker, WorkerAddress, WorkerClient};
use clarateach_seatproto::token::Verifier;
use clarateach_store::sqlite::FileLock;
use clarateach_store::{StoreError, WorkerWish};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::app::clock::{Clock, SystemClock};
use crate::app::directory::Directory;
use crate::app::fleet::{Connect, Fleet, FleetParts};
use crate::app::leases::Leases;
use crate::app::runtimes::Runtimes;
use crate::app::signer::{Signer, SignerError, seat_keys};
use crate::app::throttle::Throttle;
use crate::config::{Config, Listen};
use crate::database::{self, Database};
use crate::{local, routes, tasks};

/// Why the server did not start. Each says what and why in one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// `DATABASE_URL` can't be used.
    #[error("DATABASE_URL: {0}")]
    Database(String),
    /// The state directory can't be used.
    #[error("STATE_DIR: {}: {source}", .path.display())]
    StateDir {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The address can't be listened on.
    #[error("PORT: can't listen on {address}: {source}; is another server running there?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The store failed.
    #[error("the database: {0}")]
    Store(#[from] StoreError),
    /// A worker of the setting can't be connected to, whatever its agent does.
    #[error("WORKER_AGENTS: entry {entry}: {problem}")]
    Worker {
        /// Which, from 1.
        entry: usize,
        /// Why.
        problem: String,
    },
    /// The signing keys can't be used.
    #[error("{0}")]
    Keys(#[from] SignerError),
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its parts, for tests.
    pub app: Arc<App>,
    serving: JoinHandle<()>,
    tasks: TaskTracker,
    stop: CancellationToken,
    _state_lock: Option<FileLock>,
}

impl Running {
    /// Ends everything at once, as a kill would: nothing is finished and nothing given back. For tests.
    pub fn abandon(self) {
        self.stop.cancel();
        self.app.closing.cancel();
        self.serving.abort();
        self.app.leases.abandon();
    }

    /// Stops listening, lets requests under way finish, closes the store. Seats go on running.
    pub async fn stop(self) {
        self.stop.cancel();
        self.app.closing.cancel();
        self.app.gateway.shutdown().await;
        let _ = self.serving.await;
        self.tasks.close();
        self.tasks.wait().await;
        self.app.leases.release(&*self.app.store).await;
        self.app.store.close().await;
    }
}

/// Starts a server with the runtimes that this machine has, and the workers it is told of.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_by(config, |installation| {
        let installation = installation.clone();
        Arc::new(move |address| worker_client(address, &installation))
    })
    .await
}

/// What this server is called among those on its database: never the same twice, so that what an earlier process held
/// is not taken for its own.
fn holder() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    format!("{host}/{}", WorkerId::random())
}

fn worker_client(address: WorkerAddress, installation: &InstallationId) -> Result<Arc<dyn Worker>, String> {
    match WorkerClient::new(address) {
        Ok(client) => Ok(Arc::new(client.of(installation))),
        Err(error) => Err(with_causes(&error)),
    }
}

/// As [`start`], with workers' clients made by `connect`.
///
/// # Errors
/// See [`StartError`].
pub async fn start_with(config: Config, connect: Connect) -> Result<Running, StartError> {
    start_by(config, |_| connect).await
}

async fn start_by(
    config: Config,
    connect: impl FnOnce(&InstallationId) -> Connect + Send,
) -> Result<Running, StartError> {
    let url = database::parse(&config)?;
    // First: a start that fails for its port leaves no database behind.
    let listener = clarateach_gateway::listen(config.listen.address)
        .await
        .map_err(|source| StartError::Listen { address: config.listen.address, source })?;
    let address = listener
        .local_addr()
        .map_err(|source| StartError::Listen { address: config.listen.address, source })?;
    let Database { store, sealer, state_dir, state_lock, name } = database::open(&config, &url).await?;
    let installation = store.installation().await?;
    // A server on a file is alone with it.
    let leases = Arc::new(match state_dir {
        Some(_) => Leases::sole(),
        None => Leases::shared(holder()),
    });
    let (signer, keys) =
        Signer::load(&*store, &sealer, &leases, installation.clone(), Timestamp::now()).await?;

    let sealer = Arc::new(sealer);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let known = store.workers().await?;
    let distributed = config.scaling.is_some()
        || !config.seats.workers.is_empty()
        || known.iter().any(|worker| worker.wish != WorkerWish::Forgotten);
    let local = match &state_dir {
        Some(state_dir) => local::runtimes(&config, distributed, &installation, state_dir, &stop).await,
        None => Vec::new(),
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let fleet = Fleet::new(FleetParts {
        store: Arc::clone(&store),
        sealer: Arc::clone(&sealer),
        leases: Arc::clone(&leases),
        clock: Arc::clone(&clock),
        connect: connect(&installation),
        local: local.iter().map(|runtime| runtime.kind()).collect(),
    });
    for (index, agent) in config.seats.workers.iter().enumerate() {
        fleet.try_connect(agent).map_err(|problem| StartError::Worker { entry: index + 1, problem })?;
    }
    fleet.take_setting(&config.seats.workers).await?;
    fleet.set_keys(seat_keys(&installation, &keys));
    fleet.sync().await?;
    let alone = config.listen.is_only_for_this_machine();
    let runtimes =
        Arc::new(Runtimes::new(local, Arc::clone(&fleet), alone).growing(config.scaling.is_some()));
    let directory = Arc::new(Directory::new(
        Arc::clone(&store),
        Arc::clone(&runtimes),
        Arc::clone(&sealer),
        installation.clone(),
    ));
    let gateway = Gateway::new(
        gateway_config(&config.listen, address.port()),
        Arc::clone(&directory) as Arc<dyn clarateach_gateway::SeatDirectory>,
        Verifier::new(installation.clone(), &keys),
    );
    let app = Arc::new(App {
        clock,
        store,
        runtimes,
        fleet,
        leases,
        gateway,
        directory,
        sealer,
        signer,
        installation,
        wake: Arc::new(Notify::new()),
        progress: Arc::default(),
        scaling: Arc::default(),
        throttle: Throttle::default(),
        closing: CancellationToken::new(),
        started: Instant::now(),
        config,
    });
    tasks::spawn(&app, &tasks, &stop);
    let serving =
        tokio::spawn(clarateach_gateway::serve(listener, routes::router(Arc::clone(&app)), stop.clone()));
    tracing::info!(%address, database = name, "Server runs on http://localhost:{}", address.port());
    Ok(Running { address, app, serving, tasks, stop, _state_lock: state_lock })
}

pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

fn gateway_config(listen: &Listen, port: u16) -> GatewayConfig {
    let https = listen.public_url.as_ref().is_some_and(|url| url.https);
    let public_port = match &listen.public_url {
        Some(url) => url.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok()),
        None => Some(port),
    };
    let scheme = if https { Scheme::Https } else { Scheme::Http };
    let origins = listen.public_url.iter().filter_map(|url| url.to_string().parse().ok()).collect();
    GatewayConfig {
        public_origins: origins,
        same_host_origin: listen.public_url.is_none(),
        previews: listen.preview_domain.clone().map(|domain| PreviewDomain {
            domain,
            scheme,
            port: public_port,
        }),
        secure_cookies: https,
        limits: Limits::default(),
    }
}
