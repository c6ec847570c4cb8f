//! The workers of distributed mode: who they are, how they are, who gets which seat.
//!
//! [`Fleet`] holds one [`Member`](member::Member) per registered worker, which asks and watches it; [`FleetRuntime`] is
//! what the reconciler sees: one runtime of a kind over all workers of that kind. `health`, `placement`, `table` and
//! `merge` are pure and say how a worker is, which one gets a seat, who may hold what, and which environments are the
//! seats'. `registry` adds, drains and forgets; `tombstones` removes what comes back after that.

pub mod health;
pub mod member;
pub mod merge;
pub mod placement;
pub mod registry;
mod runtime;
pub mod table;
mod tombstones;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use clarateach_api::agent::{RevokedSession, SeatKeys};
use clarateach_ids::{Generation, SeatKey, SeatNumber, SessionId, WorkshopId};
use clarateach_runtime::{ImageRef, Runtime, RuntimeKind};
use clarateach_runtime_worker::{Worker, WorkerAddress};
use clarateach_store::{Placement, Store, StoreError};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::health::Health;
use self::member::{Member, Surroundings};
use self::merge::Doomed;
use self::placement::ImageSight;
use self::runtime::prepare_on;
use self::table::Table;
use super::clock::Clock;
use super::leases::Leases;
use super::seal::Sealer;
pub use runtime::FleetRuntime;

/// How often the store is asked who the workers are: other servers change that too.
const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// How often silence is counted.
const PULSE_PERIOD: Duration = Duration::from_millis(500);
/// How often the store is asked who holds what, where other servers write that too.
const READING_PERIOD: Duration = Duration::from_secs(5);
/// At most so many free seats of one workshop leave a worker at a time.
const LEAVE_AT_ONCE: usize = 8;

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

    /// Finds out which other workers are the same host as those that have just said who they are. No seat enters or
    /// leaves a worker before that, or its host would lose seats to itself.
    fn compare_newcomers(&self) {
        let is_newcomer = |member: &Arc<Member>| member.with(member::Seen::is_newcomer);
        if self.members.read().unwrap_or_else(PoisonError::into_inner).values().any(is_newcomer) {
            self.find_doubles();
        }
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

    /// How many more seats workers of a kind can be given now.
    #[must_use]
    pub fn room(&self, kind: RuntimeKind) -> u32 {
        let members = self.of_kind(kind);
        let table = lock(&self.table);
        members.iter().map(|member| self.room_on(&table, member)).sum()
    }

    /// Whether a make of a seat was given to a worker, or is about to be, as far as is known here.
    #[must_use]
    pub fn is_placed(&self, key: &SeatKey, generation: Generation) -> bool {
        let table = lock(&self.table);
        table.is_reserved(key) || table.newest(key).is_some_and(|(_, newest)| newest >= generation)
    }

    /// Keeps the fleet up to date until it is stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let syncing = async {
            let mut before = None;
            loop {
                if let Err(error) = self.sync().await {
                    tracing::warn!(%error, "the workers could not be read");
                }
                let due = self.leases.are_shared()
                    && !matches!(before, Some(at) if tokio::time::Instant::now() < at);
                if due {
                    before = Some(tokio::time::Instant::now() + READING_PERIOD);
                    if let Err(error) = self.read_placements(None).await {
                        tracing::debug!(%error, "who holds what could not be read");
                    }
                }
                tokio::time::sleep(SYNC_PERIOD).await;
            }
        };
        let counting = async {
            let mut before: BTreeMap<String, Health> = BTreeMap::new();
            loop {
                self.find_doubles();
                self.prepare_newcomers();
                let now: BTreeMap<_, _> =
                    self.members().into_iter().map(|(id, member)| (id, member.health())).collect();
                if now != before {
                    for (id, health) in &now {
                        if before.get(id).is_some_and(|before| before != health) {
                            tracing::info!(worker = %id, state = health.as_str(), "the worker's state has changed");
                        }
                    }
                    before = now;
                    self.changed();
                }
                tokio::time::sleep(PULSE_PERIOD).await;
            }
        };
        let burying = async {
            loop {
                tokio::time::sleep(tombstones::PERIOD).await;
                if let Err(error) = self.sweep_tombstones().await {
                    tracing::debug!(%error, "forgotten workers could not be looked for");
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = syncing => {}
            () = counting => {}
            () = burying => {}
        }
        self.stop.cancel();
        for member in self.members().into_values() {
            member.stop();
        }
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
    }

    /// Wakes whoever decides, whenever anything about a worker changes, until `stop`.
    pub async fn wake_on_change(&self, wake: &tokio::sync::Notify, stop: &CancellationToken) {
        let mut revision = self.around.revision.subscribe();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = revision.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wake.notify_one();
                }
            }
        }
    }

    fn changed(&self) {
        self.around.revision.send_modify(|revision| *revision += 1);
    }

    /// Has workers that came later make the images in use ready.
    fn prepare_newcomers(self: &Arc<Self>) {
        let images = lock(&self.images).clone();
        for (kind, image) in images {
            let image = ImageRef(image);
            for member in self.of_kind(kind) {
                let lacks = member.with(|seen| {
                    seen.takes_seats(&self.around.local) && seen.image(&image) == ImageSight::Unknown
                });
                if lacks && member.is_there() {
                    self.tasks.spawn(prepare_on(member, image.clone(), Arc::new(|_| {})));
                }
            }
        }
    }

    /// Two workers that are one host: the one with seats goes first, then the one that was there first.
    fn find_doubles(&self) {
        let members = self.members();
        let names: Vec<_> = members
            .values()
            .map(|member| member.with(|seen| seen.sighting().map(|s| s.info.worker_id.to_string())))
            .collect();
        let doubles = self.doubles(members.values().zip(names.iter().map(Option::as_deref)));
        let mut differs = false;
        for (member, name) in members.values().zip(&names) {
            differs |= member.set_same_as(name.as_deref(), doubles.get(member.id()).cloned());
        }
        if differs {
            self.changed();
        }
    }

    /// Workers that are another one under a second address, each with that one, by the names they give themselves.
    fn doubles<'a>(
        &self,
        named: impl Iterator<Item = (&'a Arc<Member>, Option<&'a str>)>,
    ) -> BTreeMap<String, String> {
        let mut by_name: BTreeMap<&str, Vec<&Arc<Member>>> = BTreeMap::new();
        for (member, name) in named {
            if let Some(name) = name {
                by_name.entry(name).or_default().push(member);
            }
        }
        let mut doubles = BTreeMap::new();
        for mut same in by_name.into_values().filter(|same| same.len() > 1) {
            same.sort_by_cached_key(|member| {
                let seats = lock(&self.table).seats_on(member.id());
                (u32::MAX - seats, member.with(|seen| seen.record().created_at), member.id().to_owned())
            });
            let first = same[0].id();
            doubles.extend(same[1..].iter().map(|double| (double.id().to_owned(), first.to_owned())));
        }
        doubles
    }

    /// Reads anew who holds what, of one workshop or of all.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_placements(&self, of: Option<&WorkshopId>) -> Result<(), StoreError> {
        let reading = lock(&self.table).begin_reading();
        match self.store.placements(of).await {
            Ok(rows) => {
                lock(&self.table).finish_reading(&reading, of, rows);
                Ok(())
            }
            Err(error) => {
                lock(&self.table).drop_reading();
                Err(error)
            }
        }
    }

    /// Has who holds what of a workshop read anew before the next look: there may be rows that are not known here.
    pub fn doubt(&self, workshop: &WorkshopId) {
        lock(&self.unread).insert(workshop.clone());
    }

    /// Reads what is doubted; where the store fails it stays so.
    async fn read_doubted(&self) {
        let doubted = std::mem::take(&mut *lock(&self.unread));
        let mut left = doubted.into_iter();
        while let Some(workshop) = left.next() {
            if let Err(error) = self.read_placements(Some(&workshop)).await {
                tracing::debug!(%error, %workshop, "who holds what could not be read");
                lock(&self.unread).extend(std::iter::once(workshop).chain(left));
                return;
            }
        }
    }

    /// After a lease was gained: what was known may have been changed by another server, so nothing of it is believed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_anew(&self) -> Result<(), StoreError> {
        self.sync().await?;
        self.read_placements(None).await?;
        for member in self.members().into_values() {
            member.forget_observed();
        }
        Ok(())
    }

    /// What workers have, or may have, of a workshop's seats beyond what the runtime of `kind` showed last.
    #[must_use]
    pub fn remnants(&self, kind: RuntimeKind, workshop: &WorkshopId) -> Vec<(SeatKey, Generation)> {
        let first =
            SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(1).expect("1 is a seat's number") };
        let remnants = lock(&self.remnants);
        let of_kind = remnants.get(&kind).into_iter().flat_map(|all| all.range(first.clone()..));
        let some = of_kind.take_while(|(key, _)| key.workshop == *workshop);
        some.map(|(key, generation)| (key.clone(), *generation)).collect()
    }

    /// Whether seats are to leave any worker.
    #[must_use]
    pub fn is_anyone_leaving(&self) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().any(|member| member.with(member::Seen::is_leaving))
    }

    /// Seats of a workshop whose worker is being drained, and how many of them may be made anew elsewhere now.
    #[must_use]
    pub fn leaving(&self, kind: RuntimeKind, workshop: &WorkshopId) -> (BTreeSet<SeatNumber>, usize) {
        let members = self.of_kind(kind);
        let (leaving, staying): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.with(member::Seen::is_leaving));
        if leaving.is_empty() {
            return (BTreeSet::new(), 0);
        }
        let table = lock(&self.table);
        let room: u32 = staying.iter().map(|member| self.room_on(&table, member)).sum();
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(LEAVE_AT_ONCE);
        let on_leaving = table.of_workshop(workshop).filter(|(key, _)| {
            table.newest(key).is_some_and(|(worker, _)| leaving.iter().any(|member| member.id() == worker))
        });
        (on_leaving.map(|(key, _)| key.seat).collect(), room)
    }

    /// How many more seats a worker can be given now.
    fn room_on(&self, table: &Table, member: &Arc<Member>) -> u32 {
        member.with(|seen| {
            if !seen.takes_seats(&self.around.local) || seen.is_full() {
                return 0;
            }
            seen.capacity().saturating_sub(table.seats_on(member.id()).max(seen.shown()))
        })
    }

    /// The worker that has a seat, as far as is known here.
    #[must_use]
    pub fn worker_of(&self, key: &SeatKey) -> Option<String> {
        lock(&self.table).newest(key).map(|(worker, _)| worker.to_owned())
    }

    /// Whether learners reach any worker directly.
    #[must_use]
    pub fn has_public_workers(&self) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().any(|member| member.with(|seen| seen.record().public_url.is_some()))
    }

    /// Where learners reach a make of a seat directly; none: through this server's gateway.
    pub async fn public_url(&self, key: &SeatKey, generation: Generation) -> Option<String> {
        let keys = lock(&self.around.keys).clone();
        if !self.has_public_workers() {
            return None;
        }
        let member = self.find(key, Some(generation)).await?;
        member.with(|seen| seen.takes_learners(keys.as_ref()).map(str::to_owned))
    }

    /// The worker that has a make of a seat, or the newest; asks the store where it is not known here.
    async fn find(&self, key: &SeatKey, generation: Option<Generation>) -> Option<Arc<Member>> {
        let known = |table: &Table| {
            let (worker, newest) = table.newest(key)?;
            generation.is_none_or(|wanted| wanted == newest).then(|| worker.to_owned())
        };
        let worker = known(&lock(&self.table));
        if let Some(worker) = worker {
            return self.member(&worker);
        }
        if !self.leases.owns(&key.workshop)
            && let Err(error) = self.read_placements(Some(&key.workshop)).await
        {
            tracing::debug!(%error, seat = %key, "where the seat is could not be read");
        }
        let worker = known(&lock(&self.table))?;
        self.member(&worker)
    }

    /// The keys whose tokens workers accept from now on.
    pub fn set_keys(&self, keys: SeatKeys) {
        let differs = lock(&self.around.keys).replace(keys.clone()) != Some(keys);
        if differs {
            for member in self.members().into_values() {
                member.tell();
            }
        }
    }

    /// Learners who use their seats at the workers themselves, and when they were last heard of.
    #[must_use]
    pub fn learners(&self) -> BTreeMap<SessionId, Timestamp> {
        self.members().into_values().flat_map(|member| member.learners()).collect()
    }

    /// Has all workers that learners reach directly end these sessions.
    pub fn revoke(&self, sessions: &[RevokedSession]) {
        if sessions.is_empty() {
            return;
        }
        for member in self.members().into_values() {
            if member.with(|seen| seen.record().public_url.is_some()) {
                member.revoke(sessions);
            }
        }
    }

    /// Has what newer decisions left behind removed, where this server decides, each once at a time.
    fn sweep(self: &Arc<Self>, doomed: Vec<Doomed>) {
        for doomed in doomed {
            if !self.leases.owns(&doomed.key.workshop) || !lock(&self.sweeping).insert(doomed.clone()) {
                continue;
            }
            let Some(member) = self.member(&doomed.worker) else {
                lock(&self.sweeping).remove(&doomed);
                continue;
            };
            let fleet = Arc::clone(self);
            self.tasks.spawn(async move {
                let removed = fleet.remove_from(&member, &doomed.key, doomed.generation).await;
                if let Err(error) = removed {
                    tracing::warn!(worker = %doomed.worker, seat = %doomed.key, %error, "what is left of a seat could not be removed; it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                lock(&fleet.sweeping).remove(&doomed);
                fleet.changed();
            });
        }
    }

    /// Removes a seat from one worker, and the row that says that it may be there.
    async fn remove_from(
        &self,
        member: &Arc<Member>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<(), clarateach_runtime::RuntimeError> {
        if !member.is_there() {
            let message = format!("worker {} does not answer", member.id());
            return Err(clarateach_runtime::RuntimeError::Unavailable { message });
        }
        let _turn = member.turn().await;
        member.called(key);
        let began = tokio::time::Instant::now();
        let removed = member.worker().remove(key, generation).await;
        metrics::histogram!("clarateach_worker_call_seconds", "call" => "remove")
            .record(began.elapsed().as_secs_f64());
        member.heard(&removed);
        member.called(key);
        removed?;
        let unplaced = self.store.unplace(key, member.id(), generation).await;
        unplaced
            .map_err(|error| clarateach_runtime::RuntimeError::Unavailable { message: error.to_string() })?;
        lock(&self.table).gone(key, member.id(), generation);
        Ok(())
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

    /// Writes a row down.
    async fn place(&self, placement: Placement) -> Result<Placement, StoreError> {
        let fence = self
            .leases
            .fence(&placement.key.workshop)
            .map_err(|_| StoreError::Fenced { lease: "reconcile".to_owned() })?;
        let workshop = placement.key.workshop.clone();
        let placed = self.store.place(fence.as_ref(), placement).await.inspect_err(|error| {
            // Unless it was refused, it may have been written all the same.
            if matches!(error, StoreError::Unavailable { .. } | StoreError::Internal { .. }) {
                self.doubt(&workshop);
            }
        })?;
        lock(&self.table).put(placed.clone());
        Ok(placed)
    }
}
