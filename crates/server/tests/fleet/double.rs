//! A worker that isn't there: the simulated runtime behind the calls of an agent, and what goes wrong with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::agent::{
    DrainBody, HostView, MemoryView, Revocations, SeatKeys, SessionAtSeat, VmmView, WorkerInfo,
};
use clarateach_ids::{Generation, SeatKey, WorkerId};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime, World};
use clarateach_runtime_worker::{Sighting, Worker, WorkerAddress, token_refused};
use jiff::SignedDuration;
use secrecy::ExposeSecret;

/// What is wrong with a worker now.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Nothing answers.
    pub away: bool,
    /// Every call takes so long.
    pub slow: Duration,
    /// A make that is taken back arrives so much later.
    pub late_take_backs: Duration,
    /// The only token it takes.
    pub token: Option<String>,
    /// Its agent's version.
    pub version: String,
    /// Its clock minus ours.
    pub skew: SignedDuration,
    /// How it calls itself.
    pub name: String,
    /// What it makes, by its own word.
    pub kind: RuntimeKind,
    /// No image can be made ready.
    pub no_images: bool,
}

/// A host.
#[derive(Debug)]
pub struct Host {
    pub world: Arc<World>,
    pub capacity: u32,
    pub faults: Mutex<Faults>,
    pub draining: AtomicBool,
    /// Whether a server told it to drain, and no person.
    pub drained_by_a_server: AtomicBool,
    pub keys: Mutex<Option<SeatKeys>>,
    pub revoked: Mutex<Vec<String>>,
    /// Who uses a seat there.
    pub at_seats: Mutex<Vec<SessionAtSeat>>,
    pub applies: AtomicU32,
    pub take_backs: AtomicU32,
    /// Every seat's wish as it came last.
    pub wishes: Mutex<BTreeMap<SeatKey, DesiredSeat>>,
}

impl Host {
    pub fn new(name: &str, capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            world: World::new(SimulatedConfig { capacity, ..SimulatedConfig::default() }),
            capacity,
            faults: Mutex::new(Faults {
                away: false,
                slow: Duration::ZERO,
                late_take_backs: Duration::ZERO,
                token: None,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                skew: SignedDuration::ZERO,
                name: name.to_owned(),
                kind: RuntimeKind::Simulated,
                no_images: false,
            }),
            draining: AtomicBool::new(false),
            drained_by_a_server: AtomicBool::new(false),
            keys: Mutex::default(),
            revoked: Mutex::default(),
            at_seats: Mutex::default(),
            applies: AtomicU32::new(0),
            take_backs: AtomicU32::new(0),
            wishes: Mutex::default(),
        })
    }

    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.faults.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn faults(&self) -> Faults {
        self.faults.lock().unwrap().clone()
    }
}

/// One server's client of a host.
#[derive(Debug)]
pub struct Client {
    host: Arc<Host>,
    runtime: SimulatedRuntime,
    address: WorkerAddress,
}

impl Client {
    pub fn new(host: &Arc<Host>, address: WorkerAddress) -> Self {
        Self { host: Arc::clone(host), runtime: SimulatedRuntime::on(Arc::clone(&host.world)), address }
    }

    async fn answers(&self) -> Result<(), RuntimeError> {
        let faults = self.host.faults();
        tokio::time::sleep(faults.slow).await;
        if faults.away {
            let message = format!("worker {}: does not answer", self.address.address);
            return Err(RuntimeError::Unavailable { message });
        }
        match faults.token {
            Some(token) if token != self.address.token.expose_secret() => {
                Err(token_refused(&self.address.address))
            }
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Runtime for Client {
    fn kind(&self) -> RuntimeKind {
        self.host.faults().kind
    }
    async fn warnings(&self) -> Vec<String> {
        self.runtime.warnings().await
    }
    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        self.answers().await?;
        self.runtime.resolve(image).await
    }
    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        self.answers().await?;
        if self.host.faults().no_images {
            let message = "the disk is full".to_owned();
            return Err(RuntimeError::Failed { operation: "fetching".to_owned(), message });
        }
        self.runtime.prepare(image, progress).await
    }
    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        self.answers().await?;
        self.host.applies.fetch_add(1, Ordering::Relaxed);
        self.host.wishes.lock().unwrap().insert(desired.key.clone(), desired.clone());
        if self.host.draining.load(Ordering::Relaxed) {
            return Err(RuntimeError::AtCapacity { used: 0, total: 0 });
        }
        self.runtime.apply(desired).await
    }
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        self.answers().await?;
        self.runtime.observe().await
    }
    async fn watch(&self, since: Revision) -> Revision {
        if self.answers().await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            return since;
        }
        self.runtime.watch(since).await
    }
    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.answers().await?;
        self.runtime.remove(key, generation).await
    }
    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        self.answers().await?;
        self.runtime.dial(key, port).await
    }
    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        self.answers().await?;
        self.runtime.logs(key).await
    }
    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        self.answers().await?;
        self.runtime.capacity().await
    }
}

#[async_trait]
impl SharedRuntime for Client {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        self.answers().await?;
        tokio::time::sleep(self.host.faults().late_take_backs).await;
        let taken_back = self.runtime.take_back(key, generation).await;
        self.host.take_backs.fetch_add(1, Ordering::Relaxed);
        taken_back
    }
}

#[async_trait]
impl Worker for Client {
    async fn info(&self) -> Result<Sighting, RuntimeError> {
        self.answers().await?;
        let faults = self.host.faults();
        let vm_count = u32::try_from(self.host.world.count()).unwrap();
        Ok(Sighting {
            info: WorkerInfo {
                worker_id: faults.name.parse::<WorkerId>().unwrap(),
                version: faults.version,
                vmm: VmmView { kind: faults.kind.as_str().to_owned(), version: None, problem: None },
                bridge: None,
                capacity: self.host.capacity,
                vm_count,
                memory: MemoryView { total_mb: 1000, available_mb: 900 },
                images: Vec::new(),
                kernel_version: None,
                draining: self.host.draining.load(Ordering::Relaxed),
                drained_by: None,
                public_url: None,
                uptime_seconds: 1,
                host: HostView { hostname: "h".to_owned(), kernel: "6".to_owned(), cpus: 2 },
                warnings: Vec::new(),
                preempted: false,
            },
            drained_by_us: self.host.drained_by_a_server.load(Ordering::Relaxed),
            clock_skew: Some(faults.skew),
            round_trip: Duration::from_millis(1),
        })
    }
    async fn set_keys(&self, keys: &SeatKeys) -> Result<(), RuntimeError> {
        self.answers().await?;
        *self.host.keys.lock().unwrap() = Some(keys.clone());
        Ok(())
    }
    async fn revoke(&self, sessions: &Revocations) -> Result<(), RuntimeError> {
        self.answers().await?;
        let ids = sessions.sessions.iter().map(|session| session.session_id.to_string());
        self.host.revoked.lock().unwrap().extend(ids);
        Ok(())
    }
    async fn sessions(&self) -> Result<Vec<SessionAtSeat>, RuntimeError> {
        self.answers().await?;
        Ok(self.host.at_seats.lock().unwrap().clone())
    }
    async fn drain(&self, draining: bool) -> Result<DrainBody, RuntimeError> {
        self.answers().await?;
        let before = self.host.draining.swap(draining, Ordering::Relaxed);
        if !(before && draining) {
            self.host.drained_by_a_server.store(draining, Ordering::Relaxed);
        }
        Ok(DrainBody { draining, vm_count: 0 })
    }
}
