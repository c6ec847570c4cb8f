//! Puts the parts together and takes them apart again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clarateach_gateway::{Gateway, GatewayConfig, Limits, PreviewDomain, Scheme};
use clarateach_ids::InstallationId;
use clarateach_runtime::Runtime;
use clarateach_runtime_docker::{DockerConfig, DockerRuntime};
use clarateach_runtime_process::{ProcessConfig, ProcessRuntime};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime};
use clarateach_runtime_worker::{Worker, WorkerAddress, WorkerClient};
use clarateach_seatproto::token::Verifier;
use clarateach_store::sqlite::SqliteStore;
use clarateach_store::{DatabaseUrl, Store, StoreError, WorkerWish};
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
use crate::app::seal::Sealer;
use crate::app::signer::{Signer, SignerError, seat_keys};
use crate::app::throttle::Throttle;
use crate::config::{Config, Listen, VmmChoice};
use crate::{microvms, routes, tasks};

/// How many environments a single machine's runtimes hold at most.
const LOCAL_CAPACITY: u32 = 2000;

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
}

impl Running {
    /// Stops listening, lets requests under way finish, closes the store. Seats go on running.
    pub async fn stop(self) {
        self.stop.cancel();
        self.app.closing.cancel();
        self.app.gateway.shutdown().await;
        let _ = self.serving.await;
        self.tasks.close();
        self.tasks.wait().await;
        self.app.store.close().await;
    }
}

/// Starts a server with the runtimes that this machine has, and the workers it is told of.
///
/// # Errors
/// See [`StartError`].
pub async fn start(config: Config) -> Result<Running, StartError> {
    start_with(config, Arc::new(worker_client)).await
}

fn worker_client(address: WorkerAddress) -> Result<Arc<dyn Worker>, String> {
    match WorkerClient::new(address) {
        Ok(client) => Ok(Arc::new(client)),
        Err(error) => Err(with_causes(&error)),
    }
}

/// As [`start`], with workers' clients made by `connect`.
///
/// # Errors
/// See [`StartError`].
pub async fn start_with(config: Config, connect: Connect) -> Result<Running, StartError> {
    let database = database_path(&config)?;
    // First: a start that fails for its port leaves no database behind.
    let listener = clarateach_gateway::listen(config.listen.address)
        .await
        .map_err(|source| StartError::Listen { address: config.listen.address, source })?;
    let address = listener
        .local_addr()
        .map_err(|source| StartError::Listen { address: config.listen.address, source })?;
    let store = SqliteStore::open(&database).map_err(|error| StartError::Database(with_causes(&error)))?;
    let state_dir = config.state_dir.clone().unwrap_or_else(|| beside(&database));
    private_dir(&state_dir).map_err(|source| StartError::StateDir { path: state_dir.clone(), source })?;
    let store: Arc<dyn Store> = Arc::new(store);
    let installation = store.installation().await?;
    let sealer = Sealer::open(config.access.server_key.as_ref(), &state_dir)
        .map_err(|source| StartError::StateDir { path: state_dir.clone(), source })?;
    let (signer, keys) = Signer::load(&*store, &sealer, installation.clone(), Timestamp::now()).await?;

    let sealer = Arc::new(sealer);
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let known = store.workers().await?;
    let distributed =
        !config.seats.workers.is_empty() || known.iter().any(|worker| worker.wish != WorkerWish::Forgotten);
    let local = runtimes(&config, distributed, &installation, &state_dir, &stop).await;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let leases = Arc::new(Leases::sole());
    let fleet = Fleet::new(FleetParts {
        store: Arc::clone(&store),
        sealer: Arc::clone(&sealer),
        leases: Arc::clone(&leases),
        clock: Arc::clone(&clock),
        connect,
        local: local.iter().map(|runtime| runtime.kind()).collect(),
    });
    for (index, agent) in config.seats.workers.iter().enumerate() {
        fleet.try_connect(agent).map_err(|problem| StartError::Worker { entry: index + 1, problem })?;
    }
    fleet.take_setting(&config.seats.workers).await?;
    fleet.set_keys(seat_keys(&installation, &keys));
    fleet.sync().await?;
    let loopback = config.listen.address.ip().is_loopback();
    let runtimes = Arc::new(Runtimes::new(local, Arc::clone(&fleet), loopback));
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
        throttle: Throttle::default(),
        closing: CancellationToken::new(),
        started: Instant::now(),
        config,
    });
    tasks::spawn(&app, &tasks, &stop);
    let serving =
        tokio::spawn(clarateach_gateway::serve(listener, routes::router(Arc::clone(&app)), stop.clone()));
    tracing::info!(%address, database = %database.display(), "Server runs on http://localhost:{}", address.port());
    Ok(Running { address, app, serving, tasks, stop })
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |all, cause| format!("{all}: {cause}"))
}

fn database_path(config: &Config) -> Result<PathBuf, StartError> {
    match config.database_url.parse::<DatabaseUrl>() {
        Ok(DatabaseUrl::SqliteFile(path)) => Ok(path),
        Ok(DatabaseUrl::SqliteMemory) => Err(StartError::Database(
            "a server needs a file: what is in memory is gone at its end".to_owned(),
        )),
        Ok(DatabaseUrl::Postgres(_)) => {
            Err(StartError::Database("this server keeps its data in a file; give a path".to_owned()))
        }
        Err(error) => Err(StartError::Database(error.to_string())),
    }
}

/// `clarateach.state` beside `clarateach.db`.
fn beside(database: &Path) -> PathBuf {
    database.with_extension("state")
}

fn private_dir(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
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

/// Docker always (it may come up later), microVMs where they can be had, processes where only this machine can reach them,
/// simulated when asked for.
async fn runtimes(
    config: &Config,
    distributed: bool,
    installation: &InstallationId,
    state_dir: &Path,
    stop: &CancellationToken,
) -> Vec<Arc<dyn Runtime>> {
    let mut runtimes: Vec<Arc<dyn Runtime>> = Vec::new();
    match clarateach_runtime::workspace_bin::find(config.seats.workspace_bin.as_deref()) {
        Ok(bin) => {
            tracing::info!(path = %bin.path.display(), "seats get this workspace binary");
            if !bin.is_static {
                tracing::warn!(
                    "the workspace binary is dynamically linked, so it runs only in images with the same C library; \
                     build the static one with scripts/build-workspace.sh"
                );
            }
            let docker = DockerConfig {
                socket: PathBuf::from(&config.seats.docker_host),
                ..DockerConfig::new(
                    installation.clone(),
                    bin.path.clone(),
                    state_dir.join("docker"),
                    LOCAL_CAPACITY,
                )
            };
            match DockerRuntime::connect(docker) {
                Ok(runtime) => runtimes.push(Arc::new(runtime)),
                Err(error) => tracing::error!(%error, "no docker runtime"),
            }
            // With workers, microVMs are theirs, unless this machine was told to make them.
            if bin.is_static && !(distributed && config.seats.microvms.vmm == VmmChoice::Auto) {
                let place = microvms::Place {
                    installation,
                    workspace_bin: bin.path.clone(),
                    state_dir: state_dir.join("microvm"),
                    stop: stop.clone(),
                };
                runtimes.extend(microvms::open(&config.seats.microvms, place).await);
            }
            if config.listen.address.ip().is_loopback() {
                let process = ProcessConfig::new(bin.path, state_dir.join("process"), LOCAL_CAPACITY);
                match ProcessRuntime::open(process) {
                    Ok(runtime) => runtimes.push(Arc::new(runtime)),
                    Err(error) => tracing::error!(%error, "no process runtime"),
                }
            }
        }
        Err(error) => tracing::error!(
            %error,
            "no workspace binary, so no docker and no process runtime; build it with scripts/build-workspace.sh \
             or set WORKSPACE_BIN"
        ),
    }
    if config.seats.simulated {
        tracing::warn!("the simulated runtime is on: its seats are not real");
        runtimes.push(Arc::new(SimulatedRuntime::new(SimulatedConfig::default())));
    }
    runtimes
}
