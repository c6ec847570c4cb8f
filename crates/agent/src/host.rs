//! What the API serves: this host's VMs, whatever makes them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::agent::{BridgeView, ImageView, VmmView};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, EnvironmentState, ImageRef, ProgressFn, Reason,
    Revision, Runtime, RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
};
use jiff::Timestamp;
use secrecy::SecretString;

use crate::config::Readiness;
use crate::wait::{Waited, until};

/// How long a create waits for the guest to have been started.
const STARTED_WITHIN: Duration = Duration::from_secs(60);

/// What is to be known of the host beyond its [`Runtime`].
#[derive(Debug, Clone)]
pub struct Facts {
    /// The VMM that makes VMs.
    pub vmm: VmmView,
    /// The bridge that VMs are on.
    pub bridge: Option<BridgeView>,
    /// Images that VMs can be made from at once, in order of their names.
    pub images: Vec<ImageView>,
    /// The guests' kernel.
    pub kernel_version: Option<String>,
}

/// What is to be known of a VM beyond its [`Environment`].
#[derive(Debug, Clone)]
pub struct Details {
    /// The image it was made from.
    pub image: ImageRef,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB.
    pub disk_mb: u32,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ends by itself.
    pub not_after: Option<Timestamp>,
}

/// How long a phase of making VMs took, over all of them.
#[derive(Debug, Clone)]
pub struct PhaseTime {
    /// Which.
    pub phase: &'static str,
    /// How often.
    pub count: u64,
    /// In all.
    pub sum: Duration,
    /// Upper bound in microseconds and how many took no longer, cumulative.
    pub buckets: Vec<(u64, u64)>,
}

/// Why no VM was made.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// The wish was refused; nothing was made.
    #[error(transparent)]
    Refused(#[from] RuntimeError),
    /// This host can't; nothing was made.
    #[error("{}", .0.message)]
    Unable(Reason),
    /// It was tried, and undone; the seat's record says why until it is removed.
    #[error("{}", .0.message)]
    Failed(Reason),
    /// Somebody else has made it in the meantime.
    #[error("it is there already")]
    Exists,
    /// No new VMs are taken.
    #[error("this worker is being drained and takes no new VMs")]
    Draining,
    /// It was removed meanwhile.
    #[error("it was removed while it was made")]
    Removed,
}

/// A host of VMs: a [`Runtime`], and what an agent must know besides.
#[async_trait]
pub trait Host: Send + Sync + 'static {
    /// Makes, shows, connects to and removes VMs.
    fn runtime(&self) -> Arc<dyn SharedRuntime>;

    /// What VMs are made from that name no image.
    fn default_image(&self) -> ImageRef;

    /// Which make of the seat there is, and what its workspace asks of every caller. Answers from memory.
    fn secret(&self, key: &SeatKey) -> Option<(Generation, SecretString)>;

    /// As [`Runtime::apply`], but takes the image by any of its names, and waits until the guest has been started.
    ///
    /// # Errors
    /// See [`MakeError`].
    async fn make(&self, wish: DesiredSeat, readiness: Option<Readiness>) -> Result<Environment, MakeError>;

    /// What is to be known of a VM besides; none without it, or where nothing more is known.
    fn details(&self, key: &SeatKey) -> Option<Details>;

    /// Is told whether new VMs are refused.
    fn drain(&self, draining: bool);

    /// Where the time of makes went; empty where nobody measures.
    fn times(&self) -> Vec<PhaseTime>;

    /// What is to be known of it now.
    async fn facts(&self) -> Facts;

    /// Has every guest write its disk out and switch off; how many had not within `patience`. Their disks stay.
    async fn shut_down(&self, patience: Duration) -> usize;

    /// Lets go of everything; VMs go on running.
    async fn close(&self);
}

/// A host whose VMs are made by a runtime that needs no host, like the simulated one: the agent's API as it is, over
/// seats that are not real.
pub struct BareHost {
    seats: Arc<Remembering>,
}

impl std::fmt::Debug for BareHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BareHost")
    }
}

impl BareHost {
    /// The host of `runtime`'s seats.
    #[must_use]
    pub fn new(runtime: Arc<dyn SharedRuntime>) -> Self {
        Self { seats: Arc::new(Remembering { inner: runtime, made: Mutex::default() }) }
    }
}

#[async_trait]
impl Host for BareHost {
    fn runtime(&self) -> Arc<dyn SharedRuntime> {
        self.seats.clone()
    }

    fn default_image(&self) -> ImageRef {
        ImageRef("default".to_owned())
    }

    fn secret(&self, key: &SeatKey) -> Option<(Generation, SecretString)> {
        self.seats.made().get(key).map(|made| (made.generation, made.secret.clone()))
    }

    async fn make(&self, mut wish: DesiredSeat, _: Option<Readiness>) -> Result<Environment, MakeError> {
        let (key, generation) = (wish.key.clone(), wish.generation);
        wish.image = self.seats.resolve(&wish.image).await?;
        self.seats.apply(wish).await?;
        let started = |vm: &Environment| vm.state != EnvironmentState::Starting || vm.handle.is_some();
        match until(&*self.seats, &key, generation, STARTED_WITHIN, started).await? {
            Waited::InVain => Err(MakeError::Removed),
            Waited::For(vm) => match vm.state {
                EnvironmentState::Failed | EnvironmentState::Stopped => Err(MakeError::Failed(
                    vm.reason.unwrap_or_else(|| Reason::new("FAILED", "It could not be started")),
                )),
                _ => Ok(vm),
            },
        }
    }

    fn details(&self, key: &SeatKey) -> Option<Details> {
        Some(self.seats.made().get(key)?.details.clone())
    }

    fn drain(&self, _: bool) {}

    fn times(&self) -> Vec<PhaseTime> {
        Vec::new()
    }

    async fn facts(&self) -> Facts {
        let kind = self.seats.kind().as_str().to_owned();
        let image = ImageView { image: self.default_image().0, bytes: 0, default: true };
        Facts {
            vmm: VmmView { kind, version: None, problem: None },
            bridge: None,
            images: vec![image],
            kernel_version: None,
        }
    }

    async fn shut_down(&self, _: Duration) -> usize {
        0
    }

    async fn close(&self) {}
}

/// A runtime beside which it is kept what it was told.
struct Remembering {
    inner: Arc<dyn SharedRuntime>,
    made: Mutex<HashMap<SeatKey, Made>>,
}

/// What a seat was made with.
struct Made {
    generation: Generation,
    secret: SecretString,
    details: Details,
}

impl Remembering {
    fn made(&self) -> MutexGuard<'_, HashMap<SeatKey, Made>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, key: &SeatKey, generation: Generation) {
        let mut all = self.made();
        if all.get(key).is_some_and(|made| made.generation <= generation) {
            all.remove(key);
        }
    }
}

#[async_trait]
impl Runtime for Remembering {
    fn kind(&self) -> RuntimeKind {
        self.inner.kind()
    }
    async fn warnings(&self) -> Vec<String> {
        self.inner.warnings().await
    }
    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        self.inner.resolve(image).await
    }
    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        self.inner.prepare(image, progress).await
    }
    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let (key, generation, not_after) = (desired.key.clone(), desired.generation, desired.not_after);
        let details = Details {
            image: desired.image.clone(),
            vcpus: desired.vcpus,
            memory_mb: desired.memory_mb,
            disk_mb: desired.disk_mb,
            created_at: Timestamp::now(),
            not_after,
        };
        let secret = desired.secret.clone();
        self.inner.apply(desired).await?;
        let mut all = self.made();
        match all.get_mut(&key) {
            // The same make again keeps all that it was made with but its end.
            Some(made) if made.generation >= generation => {
                if made.generation == generation {
                    made.details.not_after = not_after;
                }
            }
            _ => drop(all.insert(key, Made { generation, secret, details })),
        }
        Ok(())
    }
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        self.inner.observe().await
    }
    async fn watch(&self, since: Revision) -> Revision {
        self.inner.watch(since).await
    }
    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.inner.remove(key, generation).await?;
        self.forget(key, generation);
        Ok(())
    }
    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        self.inner.dial(key, port).await
    }
    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        self.inner.logs(key).await
    }
    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        self.inner.capacity().await
    }
}

#[async_trait]
impl SharedRuntime for Remembering {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        let taken_back = self.inner.take_back(key, generation).await?;
        if taken_back {
            self.forget(key, generation);
        }
        Ok(taken_back)
    }
}
