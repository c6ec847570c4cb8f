//! Seats as Docker containers.
//!
//! Any image works unchanged: `workspace` is mounted into it and replaces its entrypoint. What is there is asked of
//! the Engine and found by label; [`DockerRuntime`] keeps no state of its own but the generations it has seen.
//!
//! ```text
//!  apply/remove ─▶ seats (wish) ─▶ worker, one per seat ─▶ Engine
//!  observe/watch ◀─ seats (seen) ◀─ watcher (events), probe (health)
//! ```

mod container;
mod engine;
mod firewall;
mod image;
mod naming;
mod network;
mod seats;
mod tools;
mod watcher;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker;
use bollard::query_parameters::LogsOptions;
use clarateach_ids::{Generation, InstallationId, SeatKey};
use clarateach_runtime::probe::ProbePolicy;
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, Generations, ImageRef, ProgressFn, Revision,
    Runtime, RuntimeError, RuntimeKind, SeatPort, tunnel,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::container::{Phase, WORKSPACE_PORT};
use crate::engine::Engine;
use crate::firewall::Firewall;
use crate::naming::Naming;
use crate::network::Networks;
use crate::seats::{Seats, Wish};
use crate::tools::Tools;

pub use engine::socket_from_environment;
pub use image::DEFAULT_IMAGE;

/// How long a question waits for the first look at the Engine.
const FIRST_LOOK: Duration = Duration::from_secs(5);
const DIAL: Duration = Duration::from_secs(5);
/// What the kernel may hold of a seat's output, in bytes.
const RECEIVE_BUFFER: u32 = 64 * 1024;
const LOG_LIMIT: usize = 64 * 1024;

/// What a [`DockerRuntime`] needs to know.
#[derive(Debug, Clone)]
pub struct DockerConfig {
    /// Marks everything that is made; nothing else is ever touched.
    pub installation: InstallationId,
    /// The static `workspace` binary that goes into every seat.
    pub workspace_bin: PathBuf,
    /// A directory of this runtime's own; made if it isn't there.
    pub state_dir: PathBuf,
    /// The most seats at once.
    pub capacity: u32,
    /// The Engine's Unix socket, see [`socket_from_environment`].
    pub socket: PathBuf,
    /// How many containers are created and started at the same time.
    pub parallel_starts: usize,
    /// How often seats are asked whether they are well.
    pub probe: ProbePolicy,
}

/// Starts are work for processors: with more of them at once no more seats are made in a second, and each takes longer, the first of a
/// class too. On two processors one of eight took twice the time of one of four.
fn starts_at_once() -> usize {
    std::thread::available_parallelism().map_or(4, |processors| (processors.get() * 2).clamp(4, 16))
}

impl DockerConfig {
    /// With the usual socket, as many starts at a time as this machine is quickest with, and the usual probe.
    #[must_use]
    pub fn new(
        installation: InstallationId,
        workspace_bin: PathBuf,
        state_dir: PathBuf,
        capacity: u32,
    ) -> Self {
        Self {
            installation,
            workspace_bin,
            state_dir,
            capacity,
            socket: PathBuf::from("/var/run/docker.sock"),
            parallel_starts: starts_at_once(),
            probe: ProbePolicy::default(),
        }
    }
}

/// Whether the Engine answers.
#[derive(Debug, Clone)]
pub(crate) enum EngineStanding {
    /// Nobody knows yet.
    Unknown,
    Up,
    Down(String),
}

/// What workers, watcher and probes share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) installation: InstallationId,
    pub(crate) capacity: u32,
    pub(crate) probe: ProbePolicy,
    pub(crate) naming: Naming,
    pub(crate) engine: Engine,
    pub(crate) standing: watch::Sender<EngineStanding>,
    pub(crate) seats: Seats,
    pub(crate) generations: Generations,
    pub(crate) tools: Tools,
    pub(crate) networks: Networks,
    pub(crate) firewall: Firewall,
    pub(crate) starts: Semaphore,
    pub(crate) tasks: TaskTracker,
    pub(crate) closing: CancellationToken,
    cpus: OnceCell<u32>,
}

/// The Docker runtime. Dropping it stops its tasks and leaves every seat running.
#[derive(Debug)]
pub struct DockerRuntime {
    inner: Arc<Inner>,
}

impl Drop for DockerRuntime {
    fn drop(&mut self) {
        self.inner.closing.cancel();
    }
}

impl DockerRuntime {
    /// Starts to follow the Engine, which need not be up: until it is, calls answer [`RuntimeError::Unavailable`].
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the state directory can't be used.
    pub fn connect(config: DockerConfig) -> std::io::Result<Self> {
        std::fs::create_dir_all(&config.state_dir)?;
        let generations = Generations::open(&config.state_dir.join("generations"))?;
        let naming = Naming::new(config.installation.clone());
        let inner = Arc::new(Inner {
            installation: config.installation,
            capacity: config.capacity,
            probe: config.probe,
            engine: Engine::at(config.socket),
            standing: watch::Sender::new(EngineStanding::Unknown),
            seats: Seats::new(),
            generations,
            tools: Tools::new(config.workspace_bin),
            networks: Networks::default(),
            firewall: Firewall::new(naming.clone()),
            naming,
            starts: Semaphore::new(config.parallel_starts.max(1)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            cpus: OnceCell::new(),
        });
        for task in [0, 1] {
            let inner = inner.clone();
            let closing = inner.closing.clone();
            tokio::spawn(async move {
                let work = async {
                    if task == 0 { inner.watch_engine().await } else { inner.watch_deadlines().await }
                };
                tokio::select! {
                    () = closing.cancelled() => {}
                    () = work => {}
                }
            });
        }
        Ok(Self { inner })
    }
}

impl Inner {
    /// A handle to an Engine that has been looked at.
    async fn up(&self) -> Result<Docker, RuntimeError> {
        let mut standing = self.standing.subscribe();
        let looked = standing.wait_for(|standing| !matches!(standing, EngineStanding::Unknown));
        match tokio::time::timeout(FIRST_LOOK, looked).await {
            Ok(Ok(standing)) => match &*standing {
                EngineStanding::Down(message) => {
                    return Err(RuntimeError::Unavailable { message: message.clone() });
                }
                EngineStanding::Unknown | EngineStanding::Up => {}
            },
            _ => return Err(self.engine.unavailable("it is still being asked what is there")),
        }
        self.engine.docker()
    }

    pub(crate) async fn host_cpus(&self, docker: &Docker) -> Result<u32, RuntimeError> {
        let ask = async {
            let info = docker
                .info()
                .await
                .map_err(|error| self.engine.failure("ask for the host's size", &error))?;
            Ok(info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(1).max(1))
        };
        self.cpus.get_or_try_init(|| ask).await.copied()
    }

    /// Waits until the wish of `turn` has been fulfilled, overtaken or has failed.
    async fn removed(&self, key: &SeatKey, generation: Generation, turn: u64) -> Result<(), RuntimeError> {
        let mut revision = self.seats.subscribe();
        loop {
            revision.borrow_and_update();
            {
                let map = self.seats.lock();
                let Some(seat) = map.get(key) else { return Ok(()) };
                if seat.turn != turn {
                    let seen = seat.generation();
                    if seen > generation {
                        return Err(RuntimeError::StaleGeneration {
                            key: key.clone(),
                            given: generation,
                            seen,
                        });
                    }
                } else if !seat.busy {
                    return match &seat.failure {
                        None => Ok(()),
                        Some(failure) if failure.unavailable => {
                            Err(RuntimeError::Unavailable { message: failure.reason.message.clone() })
                        }
                        Some(failure) => Err(RuntimeError::Failed {
                            operation: format!("remove seat {key}"),
                            message: failure.reason.message.clone(),
                        }),
                    };
                }
            }
            // The sender lives in self.
            let _ = revision.changed().await;
        }
    }

    async fn dial_workspace(
        &self,
        key: &SeatKey,
    ) -> Result<(TcpStream, secrecy::SecretString), RuntimeError> {
        let unreachable = |message: String| RuntimeError::Unreachable { key: key.clone(), message };
        let (address, secret) = {
            let map = self.seats.lock();
            let seat = map.get(key).filter(|seat| !seat.gone);
            let seat = seat.ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
            match seat.running() {
                Some(container) => match container.phase {
                    Phase::Running(address) => (address, container.secret.clone()),
                    _ => return Err(unreachable("it is not running".to_owned())),
                },
                None => return Err(unreachable("it is not running".to_owned())),
            }
        };
        let stream = match tokio::time::timeout(DIAL, connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {} s", DIAL.as_secs()))),
        };
        stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        Ok((stream, secret))
    }
}

/// A connection that keeps little in the kernel: what a slow reader has not taken yet stays in the seat, where Ctrl-C
/// can overtake it.
async fn connect(address: std::net::IpAddr) -> std::io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.connect((address, WORKSPACE_PORT).into()).await
}

#[async_trait]
impl Runtime for DockerRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn warnings(&self) -> Vec<String> {
        self.inner.firewall.rehearse().await;
        let mut warnings = self.inner.firewall.warnings();
        warnings.push("Docker does not limit how much disk a seat uses: disk_mb is not enforced".to_owned());
        warnings
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        let docker = self.inner.up().await?;
        image::resolve(&self.inner.engine, &docker, image).await
    }

    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        let docker = self.inner.up().await?;
        image::prepare(&self.inner.engine, &docker, image, &progress).await.map(|_| ())
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        container::check(&desired)?;
        if desired.not_after.is_some_and(|at| at <= Timestamp::now()) {
            return Err(RuntimeError::InvalidSpec { message: "the time it is to end has passed".to_owned() });
        }
        inner.up().await?;
        let (key, generation) = (desired.key.clone(), desired.generation);
        let stale = |seen| RuntimeError::StaleGeneration { key: key.clone(), given: generation, seen };
        let room = || {
            let map = inner.seats.lock();
            if let Some(there) = map.get(&key).and_then(|seat| seat.container.as_ref())
                && there.generation > generation
            {
                return Err(stale(there.generation));
            }
            let (used, total) = (Seats::used(&map), inner.capacity);
            if used >= total && map.get(&key).is_none_or(|seat| seat.gone) {
                return Err(RuntimeError::AtCapacity { used, total });
            }
            Ok(map)
        };
        drop(room()?);
        inner.generations.admit_apply(&key, generation, desired.not_after).await?;
        {
            let mut map = room()?;
            // Somebody may have decided otherwise while this decision was written down.
            if !inner.generations.is_wanted(&key, generation) {
                return Err(stale(inner.generations.seen(&key).map_or(generation, |seen| seen.generation)));
            }
            let seat = Seats::entry(&mut map, &key);
            let same = matches!(&seat.wish, Wish::Keep(wished) if wished.generation == generation);
            let lives = seat.running().is_some_and(|container| container.generation == generation);
            if same && (seat.busy || lives) {
                return Ok(());
            }
            seat.wish(Wish::Keep(Arc::new(desired)));
        }
        inner.seats.publish();
        inner.drive(&key);
        Ok(())
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        self.inner.up().await?;
        Ok(self.inner.seats.environments())
    }

    async fn watch(&self, since: Revision) -> Revision {
        self.inner.seats.changed(since).await
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        let inner = &self.inner;
        inner.up().await?;
        if let Some(seen) =
            inner.seats.lock().get(key).and_then(|seat| Some(seat.container.as_ref()?.generation))
            && seen > generation
        {
            return Err(RuntimeError::StaleGeneration { key: key.clone(), given: generation, seen });
        }
        inner.generations.admit_remove(key, generation).await?;
        let turn = {
            let mut map = inner.seats.lock();
            let seat = Seats::entry(&mut map, key);
            match &seat.wish {
                Wish::Remove(wished) if *wished >= generation && seat.busy => seat.turn,
                _ => seat.wish(Wish::Remove(generation)),
            }
        };
        inner.seats.publish();
        inner.drive(key);
        inner.removed(key, generation, turn).await
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        // Waits for the first look after a start. With the Engine down, seats that are known still answer.
        let _ = self.inner.up().await;
        let (stream, secret) = self.inner.dial_workspace(key).await?;
        match port {
            SeatPort::Workspace => Ok(Box::new(stream)),
            SeatPort::App(port) => tunnel::through(Box::new(stream), &secret, port)
                .await
                .map_err(|error| RuntimeError::Unreachable { key: key.clone(), message: error.to_string() }),
        }
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let docker = self.inner.up().await?;
        let id = {
            let map = self.inner.seats.lock();
            let seat = map.get(key).filter(|seat| !seat.gone);
            let seat = seat.ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
            match &seat.container {
                Some(container) => container.id.clone(),
                None => return Ok(String::new()),
            }
        };
        let options =
            LogsOptions { stdout: true, stderr: true, tail: "1000".to_owned(), ..Default::default() };
        let mut lines = Box::pin(docker.logs(&id, Some(options)));
        let mut text = Vec::new();
        while let Some(line) = lines.next().await {
            let line = line.map_err(|error| self.inner.engine.failure("read the container's log", &error))?;
            text.extend_from_slice(&line.into_bytes());
            if text.len() > 2 * LOG_LIMIT {
                text.drain(..text.len() - LOG_LIMIT);
            }
        }
        let tail = text.len().saturating_sub(LOG_LIMIT);
        Ok(String::from_utf8_lossy(&text[tail..]).into_owned())
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        self.inner.up().await?;
        Ok(Capacity { total: self.inner.capacity, used: Seats::used(&self.inner.seats.lock()) })
    }
}
