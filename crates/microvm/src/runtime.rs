//! The runtime's calls: the trait's, and those that only an agent makes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, EnvironmentState, Generations, ImageRef,
    PrepareProgress, ProgressFn, Revision, Runtime, RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
    tunnel,
};
use clarateach_seatproto::guest::{MAX_LINE, WORKSPACE_PORT};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::oneshot;
use tokio::time::interval;
use tokio_util::sync::CancellationToken;

use crate::config::{MicroVmConfig, Readiness};
use crate::directory::{self, Lock};
use crate::error::{CreateError, OpenError};
use crate::host::Host;
use crate::images::Images;
use crate::instance::Instances;
use crate::journal::Journal;
use crate::net::slots::Slots;
use crate::net::{NetError, Network};
use crate::snapshot::Snapshots;
use crate::times::{PhaseTimes, Times};
use crate::vm::{self, Board, Origin, Phase, Request, Vm, Wish};
use crate::vmm::Vmm;
use crate::{adopt, disk, sweep};

const LOG_TAIL: u64 = 64 * 1024;
const FURNISHED_AT_ONCE: usize = 4;
const DEADLINE_TICK: Duration = Duration::from_millis(500);
/// Most of what a guest is told on one line is its environment.
const LONGEST_ENVIRONMENT: usize = MAX_LINE / 2;
/// The smallest memory a guest is given, in MiB.
const LEAST_MEMORY_MB: u32 = 64;
const MOST_VCPUS: u32 = 32;

/// Seats as microVMs on this host. Dropping it leaves every VM running; the next one takes them over.
pub struct MicroVmRuntime {
    host: Arc<Host>,
}

impl std::fmt::Debug for MicroVmRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MicroVmRuntime").field("config", &self.host.config).finish_non_exhaustive()
    }
}

impl Drop for MicroVmRuntime {
    fn drop(&mut self) {
        // In this order: whoever takes the lock next finds a journal that nobody writes to.
        self.host.closing.cancel();
        self.host.journal.close();
        self.host.lock.release();
    }
}

/// What an agent asks for.
#[derive(Debug)]
pub struct CreateRequest {
    /// What is wanted. 0 processors, memory or disk stand for the configured defaults.
    pub desired: DesiredSeat,
    /// How it is told that it is ready; none for the configured way.
    pub readiness: Option<Readiness>,
}

/// When a create is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// When the guest has been started.
    Started,
    /// When it is ready, or has been found not to become so.
    Ready,
}

/// What a create gives.
#[derive(Debug, Clone)]
pub struct Created {
    /// The VM.
    pub vm: Vm,
    /// Whether this create has made or started it; false when it was there.
    pub fresh: bool,
}

impl MicroVmRuntime {
    /// Sets up directories and network, takes over the VMs that an earlier process has left, and begins to remove what
    /// it has left half-made. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        mut config: MicroVmConfig,
        vmm: Arc<dyn Vmm>,
        network: Arc<dyn Network>,
    ) -> Result<Self, OpenError> {
        let state = directory::private(&config.state_dir)?;
        let lock = Lock::take(&state).await?;
        config.socket_dir = directory::for_sockets(&config.socket_dir)?;
        config.state_dir = state.clone();
        for own in ["vms", "bases", "boot", "snapshots"] {
            directory::private(&state.join(own))?;
        }
        let file = |operation, name: &str| OpenError::directory(operation, state.join(name));
        let generations = Generations::open(&state.join("generations"))
            .map_err(file("opening the record of generations", "generations"))?;
        let opened = Journal::open(&state.join("journal")).map_err(file("opening the journal", "journal"))?;
        if opened.damaged > 0 {
            tracing::warn!(
                lines = opened.damaged,
                "damaged lines of the journal were set aside in journal.damaged"
            );
        }
        network.confine(&adopt::confined(&opened.records, &generations));
        network.ensure().await?;
        let (gateway, prefix) = network.gateway();
        let slots = Slots::new(gateway, prefix, config.capacity)
            .map_err(|error| NetError::Host { message: error.to_string() })?;
        let host = Arc::new(Host {
            vmm,
            network,
            slots,
            images: Images::new(config.images_dir.clone(), state.join("bases")),
            instances: Instances::of(&config.owner, &state),
            journal: opened.journal,
            generations,
            board: Board::new(config.capacity),
            snapshots: Snapshots::open(state.join("snapshots"), config.snapshots),
            times: Times::default(),
            draining: AtomicBool::new(false),
            closing: CancellationToken::new(),
            lock,
            closed_egress: tokio::sync::RwLock::default(),
            furnishing: tokio::sync::Semaphore::new(FURNISHED_AT_ONCE),
            built: tokio::sync::Mutex::default(),
            config,
        });
        adopt::adopt(&host, opened.records);
        let strays = sweep::mark(&host).await;
        let closing = host.closing.clone();
        let (deadlines, left_overs) =
            (end_on_time(Arc::downgrade(&host)), sweep::sweep(host.clone(), strays));
        tokio::spawn(async move {
            tokio::select! {
                () = closing.cancelled() => {}
                () = async { tokio::join!(deadlines, left_overs); } => {}
            }
        });
        Ok(Self { host })
    }

    /// Makes a VM, or finds it there, and waits until it is as far as `until` says.
    ///
    /// # Errors
    /// [`CreateError`]; after [`CreateError::Failed`] a record is there until it is removed or made again.
    pub async fn create(&self, request: CreateRequest, until: Until) -> Result<Created, CreateError> {
        let (key, generation) = (request.desired.key.clone(), request.desired.generation);
        let fresh = self.wish(request.desired, request.readiness).await?;
        let vm = self.wait(&key, generation, until).await?;
        Ok(Created { vm, fresh })
    }

    async fn wait(&self, key: &SeatKey, generation: Generation, until: Until) -> Result<Vm, CreateError> {
        let Some(mut changes) = self.host.board.follow(key) else { return Err(CreateError::Removed) };
        loop {
            // Seen before the seat is looked at: what changes from here on wakes.
            changes.borrow_and_update();
            let Some(vm) = self.host.board.get(key).filter(|vm| vm.generation == generation) else {
                return Err(CreateError::Removed);
            };
            match vm.state {
                EnvironmentState::Ready => return Ok(vm),
                EnvironmentState::Removing => return Err(CreateError::Removed),
                EnvironmentState::Failed | EnvironmentState::Stopped => {
                    let reason = vm
                        .reason
                        .clone()
                        .unwrap_or_else(|| clarateach_runtime::Reason::new("VMM_EXITED", "It has ended"));
                    return Err(CreateError::Failed { reason, vm: Box::new(vm) });
                }
                EnvironmentState::Unresponsive => return Ok(vm),
                EnvironmentState::Starting if until == Until::Started && vm.started => return Ok(vm),
                EnvironmentState::Starting => {}
            }
            if changes.changed().await.is_err() {
                return Err(CreateError::Removed);
            }
        }
    }

    /// Writes a wish down; true when it takes a start.
    async fn wish(
        &self,
        mut desired: DesiredSeat,
        readiness: Option<Readiness>,
    ) -> Result<bool, CreateError> {
        let began = Instant::now();
        check(&desired)?;
        let host = &self.host;
        if host.draining.load(Ordering::Relaxed) && host.board.get(&desired.key).is_none() {
            return Err(CreateError::Draining);
        }
        host.board.room(&desired.key)?;
        let image = host.images.find(&desired.image)?;
        host.check_kernel()?;
        desired.image = image.name.clone();
        let readiness = readiness.unwrap_or(host.config.readiness);
        let initramfs = match readiness {
            Readiness::Health => Some(host.initramfs().await?),
            Readiness::Ping => None,
        };
        let key = desired.key.clone();
        let (reply, answer) = oneshot::channel();
        let wish = Box::new(Wish { desired, image, initramfs, readiness, asked: began });
        self.ask(&key, Request::Apply { wish, reply });
        Ok(answer.await.map_err(|_| closed())??)
    }

    fn ask(&self, key: &SeatKey, request: Request) {
        ask(&self.host, key, request);
    }

    /// Has every guest that runs end its processes, write its disk out and switch off; how many had not within
    /// `patience`. Their disks stay, and an apply of the same generation starts them again.
    pub async fn shut_down(&self, patience: Duration) -> usize {
        let board = &self.host.board;
        let running = || board.all().into_iter().filter(|vm| vm.pid.is_some()).map(|vm| vm.key);
        let ended = async {
            let answers: Vec<_> = running()
                .map(|key| {
                    let (reply, answer) = oneshot::channel();
                    self.ask(&key, Request::ShutDown { reply });
                    answer
                })
                .collect();
            for answer in answers {
                // A seat whose task has ended meanwhile has nothing that runs.
                let _ = answer.await;
            }
            let mut revision = Revision::default();
            while running().next().is_some() {
                revision = board.watch(revision).await;
            }
        };
        match tokio::time::timeout(patience, ended).await {
            Ok(()) => 0,
            Err(_) => running().count(),
        }
    }

    /// All VMs, half-made and dead ones included.
    #[must_use]
    pub fn vms(&self) -> Vec<Vm> {
        self.host.board.all()
    }

    /// The VM of a seat.
    #[must_use]
    pub fn vm(&self, key: &SeatKey) -> Option<Vm> {
        self.host.board.get(key)
    }

    /// Which make of a seat there is, and what its workspace asks of every caller. Answers from memory.
    #[must_use]
    pub fn secret(&self, key: &SeatKey) -> Option<(Generation, SecretString)> {
        self.host.board.dialled(key).map(|(vm, _, secret)| (vm.generation, secret))
    }

    /// The last `most` bytes that a VM has printed.
    ///
    /// # Errors
    /// [`RuntimeError::NotFound`]; [`RuntimeError::Failed`] when it can't be read.
    pub async fn console(&self, key: &SeatKey, most: u64) -> Result<String, RuntimeError> {
        let vm = self.vm(key).ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        let path = self.host.vm_directory(&vm.instance).join("console.log");
        let read = tokio::task::spawn_blocking(move || vm::tail(&path, most)).await;
        read.map_err(std::io::Error::from).flatten().map_err(|error| RuntimeError::Failed {
            operation: "read the console".to_owned(),
            message: error.to_string(),
        })
    }

    /// Whether new VMs are refused; those that are there go on and may be started again.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.host.draining.load(Ordering::Relaxed)
    }

    /// Refuses new VMs from now on, or takes them again.
    pub fn set_draining(&self, draining: bool) {
        self.host.draining.store(draining, Ordering::Relaxed);
    }

    /// Where the time of creates went.
    #[must_use]
    pub fn times(&self) -> Vec<PhaseTimes> {
        self.host.times.read()
    }

    /// The state directory, as it was resolved.
    #[must_use]
    pub fn state_dir(&self) -> &Path {
        &self.host.config.state_dir
    }

    /// The kernel that VMs boot.
    #[must_use]
    pub fn kernel(&self) -> PathBuf {
        self.host.images.kernel()
    }
}

fn ask(host: &Arc<Host>, key: &SeatKey, request: Request) {
    host.board.ask(key, request, |received| {
        tokio::spawn(vm::run(host.clone(), key.clone(), received, Origin::Nothing));
    });
}

fn closed() -> RuntimeError {
    RuntimeError::Unavailable { message: "this host's agent is shutting down".to_owned() }
}

fn check(desired: &DesiredSeat) -> Result<(), RuntimeError> {
    let refuse = |message: String| Err(RuntimeError::InvalidSpec { message });
    let mut length = 0;
    for (name, value) in &desired.env {
        if name.is_empty() || name.contains(['=', '\0']) || name.starts_with("CLARATEACH_") {
            return refuse(format!("{name:?} can't be the name of an environment variable"));
        }
        if value.contains('\0') {
            return refuse(format!("the value of the environment variable {name} holds a NUL"));
        }
        length += name.len() + value.len();
    }
    if length > LONGEST_ENVIRONMENT {
        return refuse(format!("the environment has {length} bytes, more than {LONGEST_ENVIRONMENT}"));
    }
    if desired.not_after.is_some_and(|at| at <= Timestamp::now()) {
        return refuse("the time it is to end has passed".to_owned());
    }
    if desired.vcpus > MOST_VCPUS {
        return refuse(format!("{} processors are more than a VM's {MOST_VCPUS}", desired.vcpus));
    }
    if (1..LEAST_MEMORY_MB).contains(&desired.memory_mb) {
        return refuse(format!("a VM takes at least {LEAST_MEMORY_MB} MiB of memory"));
    }
    if desired.disk_mb != 0 && !(disk::SMALLEST_MB..=disk::LARGEST_MB).contains(&desired.disk_mb) {
        return refuse(format!("a disk has {} to {} MiB", disk::SMALLEST_MB, disk::LARGEST_MB));
    }
    Ok(())
}

/// Ends VMs whose time is up.
async fn end_on_time(host: Weak<Host>) {
    let mut tick = interval(DEADLINE_TICK);
    loop {
        tick.tick().await;
        let Some(host) = host.upgrade() else { return };
        let now = Timestamp::now();
        for vm in host.board.all() {
            if vm.state != EnvironmentState::Removing && vm.not_after.is_some_and(|at| at <= now) {
                tracing::info!(seat = %vm.key, "its time is up");
                let (reply, _) = oneshot::channel();
                ask(&host, &vm.key, Request::Remove { generation: vm.generation, reply });
            }
        }
    }
}

#[async_trait]
impl Runtime for MicroVmRuntime {
    fn kind(&self) -> RuntimeKind {
        self.host.vmm.kind()
    }

    async fn warnings(&self) -> Vec<String> {
        self.host.vmm.version().await.err().map(|error| error.to_string()).into_iter().collect()
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        let found = self.host.images.find(image).map_err(CreateError::into_runtime_error)?;
        Ok(found.name)
    }

    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        progress(PrepareProgress { step: "Looking at the image".to_owned(), bytes: None });
        let unable = |error: CreateError| error.into_runtime_error();
        self.host.images.find(image).map_err(unable)?;
        self.host.check_kernel().map_err(|fault| unable(fault.into()))?;
        if self.host.config.readiness == Readiness::Health {
            progress(PrepareProgress { step: "Building the initramfs".to_owned(), bytes: None });
            self.host.initramfs().await.map_err(|fault| unable(fault.into()))?;
        }
        Ok(())
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        self.wish(desired, None).await.map(|_| ()).map_err(CreateError::into_runtime_error)
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        Ok(self.host.board.all().iter().map(Vm::environment).collect())
    }

    async fn watch(&self, since: Revision) -> Revision {
        self.host.board.watch(since).await
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.host.generations.admit_remove(key, generation).await?;
        if !self.host.board.knows(key) {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.ask(key, Request::Remove { generation, reply });
        answer.await.map_err(|_| closed())?
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        let target = self.host.board.dialled(key);
        let (vm, phase, secret) = target.ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        let unreachable = |message: String| RuntimeError::Unreachable { key: key.clone(), message };
        if phase != Phase::Live {
            return Err(unreachable("it is not running".to_owned()));
        }
        let dialled = self.host.network.dial(vm.address, WORKSPACE_PORT).await;
        let stream = dialled.map_err(|error| unreachable(error.to_string()))?;
        match port {
            SeatPort::Workspace => Ok(stream),
            SeatPort::App(port) => {
                tunnel::through(stream, &secret, port).await.map_err(|error| unreachable(error.to_string()))
            }
        }
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let tail = self.console(key, LOG_TAIL).await?;
        let reason = self.vm(key).and_then(|vm| vm.reason);
        Ok(match reason {
            // Of what could not be made nothing is left but the reason.
            Some(reason) if tail.is_empty() => reason.message,
            _ => tail,
        })
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        Ok(self.host.board.capacity())
    }
}

#[async_trait]
impl SharedRuntime for MicroVmRuntime {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        let (reply, answer) = oneshot::channel();
        self.ask(key, Request::TakeBack { generation, reply });
        answer.await.map_err(|_| closed())?
    }
}
