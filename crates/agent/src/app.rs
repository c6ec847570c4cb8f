//! The agent's parts, and what it decides by itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use clarateach_api::agent::AgentErrorCode;
use clarateach_gateway::Gateway;
use clarateach_ids::{Generation, InstallationId, SeatKey, WorkerId};
use clarateach_runtime::{DesiredSeat, Environment, EnvironmentState, Revision, Runtime, RuntimeError};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, Readiness};
use crate::error::AgentError;
use crate::host::{Host, MakeError};
use crate::owner::Owners;
use crate::preemption;
use crate::state::State;
use crate::throttle::Throttle;
use crate::wait::{Waited, until};

/// How often a generation is looked for before somebody else must be at the same seat.
const GENERATION_TRIES: u32 = 8;
/// A runtime that reports changes endlessly is not followed faster than this.
const FOLLOW_PAUSE: Duration = Duration::from_millis(20);

/// The agent's parts.
pub struct App {
    /// The VMs.
    pub host: Arc<dyn Host>,
    /// The way into them for learners and operators.
    pub gateway: Arc<Gateway>,
    /// What is remembered over restarts.
    pub state: State,
    /// What callers show.
    pub token: SecretString,
    /// The settings.
    pub config: Config,
    /// Which worker this is.
    pub worker_id: WorkerId,
    /// Wrong tokens.
    pub throttle: Throttle,
    /// Cancelled when the agent stops: whoever waits gives up.
    pub closing: CancellationToken,
    /// Tunnels and other tasks that outlive their request.
    pub tasks: TaskTracker,
    /// When the agent started.
    pub started: Instant,
    /// Who made which VM.
    pub(crate) owners: Owners,
    draining: AtomicBool,
    /// The control plane that asked for the drain; none: a person did, or nobody.
    drained_by: Mutex<Option<InstallationId>>,
    /// Whether this host is about to be taken away. When it has been booted again, that is over.
    preempted: AtomicBool,
    /// Seats that a create is working on.
    creating: Mutex<HashSet<SeatKey>>,
    /// Moves on with every change; begins at a number that no earlier agent process has reached.
    revision: watch::Sender<u64>,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("worker_id", &self.worker_id).finish_non_exhaustive()
    }
}

/// A seat that nobody else creates meanwhile.
struct Claimed<'a> {
    app: &'a App,
    key: SeatKey,
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.app.creating.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl App {
    /// Puts the parts together and starts to follow the runtime's changes. `preempted` when an earlier process was told
    /// that this host is taken away.
    #[must_use]
    pub fn new(
        host: Arc<dyn Host>,
        gateway: Arc<Gateway>,
        state: State,
        token: SecretString,
        worker_id: WorkerId,
        config: Config,
        preempted: bool,
    ) -> Arc<Self> {
        // Thousandths of milliseconds: no process makes changes that fast, and JSON keeps the number exact.
        let first = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0) * 1000;
        let app = Arc::new(Self {
            host,
            gateway,
            owners: Owners::default(),
            draining: AtomicBool::new(state.is_draining()),
            drained_by: Mutex::new(state.drained_by()),
            preempted: AtomicBool::new(preempted),
            state,
            token,
            config,
            worker_id,
            throttle: Throttle::default(),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            started: Instant::now(),
            creating: Mutex::default(),
            revision: watch::Sender::new(first),
        });
        app.tasks.spawn(follow(app.host.runtime(), Arc::downgrade(&app), app.closing.clone()));
        app.tasks.spawn(sweep(Arc::downgrade(&app), app.closing.clone()));
        if let Some(host) = app.config.metadata.clone() {
            app.tasks.spawn(preemption::watch(host, Arc::downgrade(&app), app.closing.clone(), preempted));
        }
        app
    }

    /// Whether new VMs are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed) || self.is_preempted()
    }

    /// Whether this host is about to be taken away.
    #[must_use]
    pub fn is_preempted(&self) -> bool {
        self.preempted.load(Ordering::Relaxed)
    }

    /// Starts nothing any more: this host is about to be taken away.
    pub(crate) fn preempt(&self) {
        if let Err(error) = self.state.set_preempted(true) {
            tracing::warn!(%error, "should the agent start again before the end, it does not remember that it is near");
        }
        self.preempted.store(true, Ordering::Relaxed);
        self.host.drain(true);
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// The control plane that asked for the drain; none where a person did, and where there is none.
    #[must_use]
    pub fn drained_by(&self) -> Option<InstallationId> {
        self.drained_by.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refuses new VMs from now on, or no longer. Who asked first is remembered, but that a person goes before control
    /// planes: these end what they asked for, also when they had forgotten about it, and nothing else by themselves.
    ///
    /// # Errors
    /// When it can't be remembered.
    pub fn set_draining(&self, draining: bool, by: Option<InstallationId>) -> Result<(), AgentError> {
        let mut drained_by = self.drained_by.lock().unwrap_or_else(PoisonError::into_inner);
        let by = match by {
            Some(_) if draining && self.draining.load(Ordering::Relaxed) => drained_by.clone(),
            by => by.filter(|_| draining),
        };
        self.state.set_draining(draining, by.as_ref())?;
        *drained_by = by;
        self.draining.store(draining, Ordering::Relaxed);
        drop(drained_by);
        self.host.drain(self.is_draining());
        self.revision.send_modify(|revision| *revision += 1);
        Ok(())
    }

    /// Waits until what there is may differ from what it was at `since`, at most `patience`.
    pub async fn changed(&self, since: Option<u64>, patience: Duration) -> u64 {
        let mut revision = self.revision.subscribe();
        let change = async {
            match revision.wait_for(|revision| Some(*revision) != since).await {
                Ok(revision) => *revision,
                Err(_) => since.unwrap_or_default(),
            }
        };
        tokio::select! {
            changed = change => changed,
            () = tokio::time::sleep(patience) => *self.revision.borrow(),
            () = self.closing.cancelled() => *self.revision.borrow(),
        }
    }

    /// The environment of a seat.
    ///
    /// # Errors
    /// `vm_not_found`, or that the runtime can't say.
    pub async fn vm(&self, key: &SeatKey) -> Result<Environment, AgentError> {
        let all = self.host.runtime().observe().await?;
        all.into_iter().find(|vm| vm.key == *key).ok_or_else(|| not_found(key))
    }

    /// Makes a VM for a seat that has none, of `generation` or else of the next that was never used, and returns when
    /// its guest has been started. What could not be made leaves nothing.
    ///
    /// # Errors
    /// `draining`, `vm_exists`, and whatever the runtime refuses or failed at.
    pub async fn create(
        &self,
        mut wish: DesiredSeat,
        generation: Option<Generation>,
        readiness: Option<Readiness>,
    ) -> Result<Environment, AgentError> {
        self.takes_new_vms()?;
        let _claimed = self.claim(&wish.key)?;
        if self.vm(&wish.key).await.is_ok() {
            return Err(exists(&wish.key));
        }
        wish.generation = generation.unwrap_or(Generation(1));
        for _ in 0..GENERATION_TRIES {
            match self.host.make(wish.clone(), readiness).await {
                Ok(vm) => return Ok(vm),
                Err(MakeError::Refused(RuntimeError::StaleGeneration { seen, .. }))
                    if generation.is_none() =>
                {
                    wish.generation = seen.next();
                }
                Err(error) => return Err(self.not_made(&wish, error).await),
            }
        }
        Err(exists(&wish.key))
    }

    /// Whatever was made of a VM that could not be made goes, its record too.
    async fn not_made(&self, wish: &DesiredSeat, error: MakeError) -> AgentError {
        let reason = match error {
            MakeError::Refused(error) => return error.into(),
            MakeError::Exists => return exists(&wish.key),
            MakeError::Draining => return draining(),
            MakeError::Removed => return removed(&wish.key),
            MakeError::Unable(reason) => reason,
            MakeError::Failed(reason) => {
                if let Err(error) = self.host.runtime().remove(&wish.key, wish.generation).await {
                    tracing::error!(key = %wish.key, %error, "a VM that could not be made could not be removed either");
                }
                reason
            }
        };
        let code = AgentErrorCode::of_reason(&reason.code);
        AgentError::new(code, format!("The VM of seat {} could not be made: {}", wish.key, reason.message))
    }

    /// Fulfils a control plane's wish as [`Runtime::apply`] does, but that a draining worker takes no further seat.
    ///
    /// # Errors
    /// As [`Runtime::apply`]; `draining`.
    pub async fn apply(&self, wish: DesiredSeat) -> Result<(), AgentError> {
        // What has ended here would not get far if it were started again.
        if self.is_preempted() {
            return Err(draining());
        }
        if self.is_draining() && self.vm(&wish.key).await.is_err() {
            self.takes_new_vms()?;
        }
        Ok(self.host.runtime().apply(wish).await?)
    }

    /// Removes the VM that a seat has now.
    ///
    /// # Errors
    /// `vm_not_found`; that something is left.
    pub async fn remove(&self, key: &SeatKey) -> Result<(), AgentError> {
        for _ in 0..GENERATION_TRIES {
            let vm = self.vm(key).await?;
            match self.host.runtime().remove(key, vm.generation).await {
                // Made anew meanwhile: that one goes too, it is what the caller sees.
                Err(RuntimeError::StaleGeneration { .. }) => {}
                done => return Ok(done?),
            }
        }
        let message = format!("The VM of seat {key} is made anew all the time; try again.");
        Err(AgentError::new(AgentErrorCode::VmFailed, message))
    }

    /// Takes a make back that was refused, see [`clarateach_runtime::SharedRuntime::take_back`].
    ///
    /// # Errors
    /// `vm_exists` when it has been begun since; as [`Runtime::remove`].
    pub async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<(), AgentError> {
        if self.host.runtime().take_back(key, generation).await? { Ok(()) } else { Err(exists(key)) }
    }

    /// Waits until the VM is ready, or it is clear that it won't be, or `patience` is over: as it is then.
    ///
    /// # Errors
    /// `vm_not_found` when it is gone; that the runtime can't say.
    pub async fn ready(
        &self,
        key: &SeatKey,
        generation: Generation,
        patience: Duration,
    ) -> Result<Environment, AgentError> {
        let runtime = self.host.runtime();
        let enough = |vm: &Environment| vm.state != EnvironmentState::Starting || self.closing.is_cancelled();
        let waited = tokio::select! {
            waited = until(&*runtime, key, generation, patience, enough) => waited?,
            // As it is.
            () = self.closing.cancelled() => until(&*runtime, key, generation, Duration::ZERO, enough).await?,
        };
        match waited {
            Waited::For(vm) => Ok(vm),
            Waited::InVain => Err(removed(key)),
        }
    }

    fn takes_new_vms(&self) -> Result<(), AgentError> {
        if self.is_draining() { Err(draining()) } else { Ok(()) }
    }

    fn claim(&self, key: &SeatKey) -> Result<Claimed<'_>, AgentError> {
        let mut creating = self.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if creating.insert(key.clone()) {
            Ok(Claimed { app: self, key: key.clone() })
        } else {
            Err(exists(key))
        }
    }
}

fn not_found(key: &SeatKey) -> AgentError {
    AgentError::new(AgentErrorCode::VmNotFound, format!("There is no VM for seat {key}."))
}

fn exists(key: &SeatKey) -> AgentError {
    let message = format!("There is a VM for seat {key} already; delete it first.");
    AgentError::new(AgentErrorCode::VmExists, message)
}

fn removed(key: &SeatKey) -> AgentError {
    let message = format!("The VM of seat {key} was removed while it was waited for.");
    AgentError::new(AgentErrorCode::VmNotFound, message)
}

fn draining() -> AgentError {
    AgentError::new(AgentErrorCode::Draining, "This worker is being drained and takes no new VMs.")
}

async fn follow(runtime: Arc<dyn Runtime>, app: Weak<App>, closing: CancellationToken) {
    let mut revision = Revision::default();
    loop {
        let next = tokio::select! {
            next = runtime.watch(revision) => next,
            () = closing.cancelled() => return,
        };
        let Some(app) = app.upgrade() else { return };
        revision = next;
        app.revision.send_modify(|revision| *revision += 1);
        drop(app);
        tokio::time::sleep(FOLLOW_PAUSE).await;
    }
}

async fn sweep(app: Weak<App>, closing: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            () = closing.cancelled() => return,
        }
        let Some(app) = app.upgrade() else { return };
        app.throttle.sweep();
    }
}
