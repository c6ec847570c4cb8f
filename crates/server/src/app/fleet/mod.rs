//! The workers of distributed mode: who they are, how they are, who gets which seat.
//!
//! [`Fleet`] holds one [`Member`](member::Member) per registered worker, which asks and watches it; [`FleetRuntime`] is
//! what the reconciler sees: one runtime of a kind over all workers of that kind. `health`, `placement`, `table` and
//! `merge` are pure and say how a worker is, which one gets a seat, who may hold what, and which environments are the
//! seats'. `rounds` is what the fleet does by itself, `holdings` reads and changes who holds what, `room` counts, `doubles`
//! finds hosts that are there twice, `learners` is for those who reach their seat at the worker itself. `registry` adds,
//! drains and forgets; `tombstones` removes what comes back after that.

mod doubles;
pub mod health;
mod holdings;
mod learners;
pub mod member;
pub mod merge;
pub mod placement;
pub mod registry;
mod room;
mod rounds;
mod runtime;
pub mod table;
mod tombstones;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_runtime::{Runtime, RuntimeKind};
use clarateach_runtime_worker::{Worker, WorkerAddress};
use clarateach_store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::health::Health;
use self::member::{Member, Surroundings};
use self::merge::Doomed;
use self::table::Table;
use super::clock::Clock;
use super::leases::Leases;
use super::seal::Sealer;
pub use runtime::FleetRuntime;

/// Makes the client of a worker; the error is a sentence.
pub type Connect = Arc<dyn Fn(WorkerAddress) -> Result<Arc<dyn Worker>, String> + Send + Sync>;

/// Kinds that workers make, in order of preference.
pub const KINDS: [RuntimeKind; 3] = [RuntimeKind::Firecracker, RuntimeKind::Qemu, RuntimeKind::Simulated];

/// All workers.
pub struct Fleet {
    store: Arc<dyn Store>,
    sealer: Arc<Sealer>,
    leases: Arc<Leases>,
    connect: Connect,
    around: Surroundings,
    members: RwLock<BTreeMap<String, Arc<Member>>>,
    table: Mutex<Table>,
    /// Workshops whose rows may not be all known here: the store has been asked to write one and didn't say that it did.
    unread: Mutex<BTreeSet<WorkshopId>>,
    /// What the last merge left over, by seat: matters where nothing is wanted.
    remnants: Mutex<BTreeMap<RuntimeKind, BTreeMap<SeatKey, Generation>>>,
    sweeping: Mutex<BTreeSet<Doomed>>,
    /// Images that seats are made of: workers that come later make them ready too.
    images: Mutex<BTreeSet<(RuntimeKind, String)>>,
    /// Seats that were on workers that were given up, each with its make and the worker.
    given_up: Mutex<BTreeMap<SeatKey, (Generation, String)>>,
    /// Workers whose agents are to be told that they take seats again.
    undrain: Mutex<BTreeSet<String>>,
    /// Whether there are workers in the registry, forgotten ones included.
    had_workers: AtomicBool,
    runtimes: BTreeMap<RuntimeKind, Arc<dyn Runtime>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fleet").field("members", &self.members().keys()).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a fleet is made of.
pub struct FleetParts {
    /// Who the workers are and who holds what.
    pub store: Arc<dyn Store>,
    /// Opens tokens.
    pub sealer: Arc<Sealer>,
    /// Which workshops are decided for here.
    pub leases: Arc<Leases>,
    /// By which sightings are dated.
    pub clock: Arc<dyn Clock>,
    /// Makes clients.
    pub connect: Connect,
    /// Kinds that this server makes itself: workers of these are not used.
    pub local: BTreeSet<RuntimeKind>,
}

impl std::fmt::Debug for FleetParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetParts").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Fleet {
    /// Without workers yet: see [`Fleet::sync`] and [`Fleet::run`].
    #[must_use]
    pub fn new(parts: FleetParts) -> Arc<Self> {
        Arc::new_cyclic(|fleet| {
            let runtime = |kind| -> (RuntimeKind, Arc<dyn Runtime>) {
                (kind, Arc::new(FleetRuntime::new(kind, fleet.clone())))
            };
            let local = parts.local.clone();
            let kinds = KINDS.into_iter().filter(|kind| !local.contains(kind));
            Self {
                store: parts.store,
                sealer: parts.sealer,
                leases: parts.leases,
                connect: parts.connect,
                around: Surroundings {
                    clock: parts.clock,
                    revision: Arc::new(watch::Sender::new(1)),
                    local: Arc::new(parts.local),
                    keys: Arc::default(),
                },
                members: RwLock::default(),
                table: Mutex::default(),
                unread: Mutex::default(),
                remnants: Mutex::default(),
                sweeping: Mutex::default(),
                images: Mutex::default(),
                given_up: Mutex::default(),
                undrain: Mutex::default(),
                had_workers: AtomicBool::new(false),
                runtimes: kinds.map(runtime).collect(),
                tasks: TaskTracker::new(),
                stop: CancellationToken::new(),
            }
        })
    }

    fn members(&self) -> BTreeMap<String, Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn member(&self, id: &str) -> Option<Arc<Member>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn of_kind(&self, kind: RuntimeKind) -> Vec<Arc<Member>> {
        self.compare_newcomers();
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().filter(|member| member.kind() == Some(kind)).cloned().collect()
    }

    /// Whether there are workers at all, of whatever kind and however they are.
    #[must_use]
    pub fn has_workers(&self) -> bool {
        !self.members.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The runtimes of the kinds that workers make, in order of preference.
    #[must_use]
    pub fn runtimes(&self) -> Vec<Arc<dyn Runtime>> {
        KINDS.into_iter().filter_map(|kind| self.runtime(kind)).cloned().collect()
    }

    /// The runtime of a kind, when there is a worker that makes it.
    #[must_use]
    pub fn runtime(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        let runtime = self.runtimes.get(&kind)?;
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().any(|member| member.kind() == Some(kind)).then_some(runtime)
    }

    /// The runtime of a kind of which there are, or have been, workers: what is left of its seats is looked after even when
    /// the last worker was forgotten.
    #[must_use]
    pub fn runtime_ever(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        self.had_workers.load(Ordering::Relaxed).then(|| self.runtimes.get(&kind)).flatten()
    }

    /// The runtime of a kind that workers make, whether there ever was one.
    #[must_use]
    pub fn runtime_anyhow(&self, kind: RuntimeKind) -> Option<&Arc<dyn Runtime>> {
        self.runtimes.get(&kind)
    }

    /// Whether a worker of a kind answers now.
    #[must_use]
    pub fn is_served(&self, kind: RuntimeKind) -> bool {
        self.of_kind(kind).iter().any(|member| member.is_there())
    }

    fn changed(&self) {
        self.around.revision.send_modify(|revision| *revision += 1);
    }

    /// How many seats there are in the table by worker, for measurements.
    #[must_use]
    pub fn seats_by_worker(&self) -> BTreeMap<String, u32> {
        let members = self.members();
        let table = lock(&self.table);
        members.into_keys().map(|id| (id.clone(), table.seats_on(&id))).collect()
    }

    /// How many workers are in each state.
    #[must_use]
    pub fn healths(&self) -> BTreeMap<Health, u32> {
        let mut counts: BTreeMap<_, _> = Health::ALL.into_iter().map(|health| (health, 0)).collect();
        for member in self.members().into_values() {
            *counts.entry(member.health()).or_default() += 1;
        }
        counts
    }

    /// How many rows say who may hold what.
    #[must_use]
    pub fn placements(&self) -> usize {
        lock(&self.table).rows().values().map(BTreeMap::len).sum()
    }
}
