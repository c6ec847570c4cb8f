//! Makes what the store wants so: compare wanted with observed, act with bounded concurrency, write down, repeat.
//!
//! Level-triggered: a pass looks at everything and remembers nothing that it could not find out again, so a server
//! killed between any two lines continues where it was.
//!
//! Given a store, a clock and runtimes that are deterministic it is so too, on a current-thread runtime: whatever it goes
//! through is ordered, and where it waits for several things they are asked in order. The simulation depends on that.

pub mod plan;
#[cfg(test)]
mod plan_tests;
mod progress;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_gateway::EndedWhy;
use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted};
use clarateach_runtime::{
    DesiredSeat, Egress, Environment, EnvironmentState, ImageRef, Reason, Revision, Runtime, RuntimeError,
    RuntimeKind,
};
use clarateach_store::{
    Fence, SeatRecord, SeatWrite, StoreError, WorkshopCounts, WorkshopRecord, WorkshopWrite,
};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::plan::{Action, Failures, Sight, plan};
pub use self::progress::Progress;
use super::App;
use super::workshops::ENV_PURPOSE;

/// Look again at least this often, even if nothing woke us.
const PERIOD: Duration = Duration::from_secs(5);
/// After a store that failed, wait this long.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// What is settled is looked at again at least this often.
const SETTLED_FOR: Duration = Duration::from_secs(30);
/// After a look, wait for as long as it took, at most this.
const LONGEST_BREATH: Duration = Duration::from_millis(200);
/// Calls to runtimes at once. Runtimes bound their own work further, and the fleet that of each worker.
const CALLS_AT_ONCE: usize = 32;
const REMOTE_CALLS_AT_ONCE: usize = 1024;
/// A worker that is cut off ends the seats of a workshop so long after the workshop's end.
const CUT_OFF_AFTER: SignedDuration = SignedDuration::from_mins(15);
/// After a call that nobody answered, the seat is left alone for a while.
const CALL_RETRY: Duration = Duration::from_secs(1);

/// Calls under way and what came of those that failed.
#[derive(Default)]
struct Desk {
    /// Makes that were asked for and have not been seen ready, for the measurement.
    begun: BTreeMap<SeatKey, (Generation, Instant)>,
    in_flight: BTreeSet<SeatKey>,
    failures: BTreeMap<WorkshopId, Failures>,
    /// Ends that workers were told, by seat and make: some don't show theirs.
    told_ends: BTreeMap<SeatKey, (Generation, Option<Timestamp>)>,
    /// Workshops of which nothing was to be done, each as it was then.
    settled: BTreeMap<WorkshopId, (WorkshopRecord, WorkshopCounts, Vec<Environment>, Instant)>,
    /// Leases that had been gained when everything was looked at anew.
    gains: u64,
}

/// The loop. One per store.
pub struct Reconciler {
    app: Arc<App>,
    desk: Arc<Mutex<Desk>>,
    calls: Arc<Semaphore>,
    remote_calls: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reconciler")
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reconciler {
    /// Over the parts of `app`.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self {
            app,
            desk: Arc::default(),
            calls: Arc::new(Semaphore::new(CALLS_AT_ONCE)),
            remote_calls: Arc::new(Semaphore::new(REMOTE_CALLS_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Runs until `stop`. Environments are left as they are.
    pub async fn run(self, stop: CancellationToken) {
        for runtime in self.app.runtimes.local() {
            self.tasks.spawn(watch(Arc::clone(runtime), Arc::clone(&self.app.wake), stop.clone()));
        }
        let (fleet, wake) = (Arc::clone(&self.app.fleet), Arc::clone(&self.app.wake));
        let stopped = stop.clone();
        self.tasks.spawn(async move { fleet.wake_on_change(&wake, &stopped).await });
        while !stop.is_cancelled() {
            let began = Instant::now();
            // A pass that is cut off decides nothing by half: each of its writes is whole, and the next start looks anew.
            let passed = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                passed = self.pass() => passed,
            };
            let pause = match passed {
                Ok(look_again) => look_again,
                Err(error) => {
                    tracing::warn!(%error, "the reconciler can't use the store; it tries again");
                    STORE_RETRY
                }
            };
            let took = began.elapsed();
            metrics::histogram!("clarateach_reconcile_seconds").record(took.as_secs_f64());
            // What changes meanwhile is looked at together: with ten thousand seats a look takes a while.
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(took.min(LONGEST_BREATH)) => {}
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.app.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.tasks.close();
        // Calls that were cut off are made again at the next start; they are only waited for to leave less to do.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
    }

    /// Looks at everything once. Returns how long to wait when nothing wakes us.
    async fn pass(&self) -> Result<Duration, StoreError> {
        // What another server may have changed before we decided here is not known any more.
        let gains = self.app.leases.gains();
        if lock(&self.desk).gains != gains {
            self.app.fleet.begin_anew().await?;
            {
                let mut desk = lock(&self.desk);
                desk.gains = gains;
                desk.settled.clear();
            }
            self.app.leases.take_over(gains);
        }
        // Calls that come back while we look must still count as under way: what they made may not show yet.
        let in_flight = lock(&self.desk).in_flight.clone();
        // Then what is there, then what is wanted: whatever was made for a wish that is gone by now shows as foreign
        // to every wish, and what was wished for in between is only looked at a moment later.
        let mut seen: BTreeMap<RuntimeKind, Result<BTreeMap<WorkshopId, Vec<Environment>>, RuntimeError>> =
            BTreeMap::new();
        let runtimes = self.app.runtimes.to_look_after();
        for (kind, runtime) in &runtimes {
            seen.insert(*kind, runtime.observe().await.map(by_workshop));
        }
        let now = self.app.clock.now();
        let mut pause = PERIOD;
        let workshops = self.app.store.workshops(None).await?;
        for (workshop, counts) in &workshops {
            if !self.app.leases.owns(&workshop.id) {
                forget(&mut seen, &workshop.id);
                continue;
            }
            if workshop.wanted == Wanted::Running && workshop.ends_at.is_some_and(|end| end <= now) {
                self.end_on_time(&workshop.id, now).await?;
            }
            let kind = workshop.runtime.parse::<RuntimeKind>().ok();
            let runtime = kind.and_then(|kind| runtimes.get(&kind));
            let (Some(runtime), Some(observed)) = (runtime, kind.and_then(|kind| seen.get_mut(&kind))) else {
                let message = format!("This server has no {} runtime at the moment.", workshop.runtime);
                self.note_reason(workshop, Reason::new("NO_RUNTIME", message), now).await?;
                continue;
            };
            match observed {
                Err(error) => self.note_reason(workshop, error.reason(), now).await?,
                Ok(environments) => {
                    let environments = environments.remove(&workshop.id).unwrap_or_default();
                    if self.is_settled(workshop, *counts, &environments, &in_flight) {
                        pause = pause.min(until_end(workshop, now));
                        continue;
                    }
                    match self.workshop(workshop, runtime, &environments, &in_flight, now).await {
                        Ok((look_again, settled)) => {
                            pause = pause.min(look_again).min(until_end(workshop, now));
                            if settled {
                                let look = (workshop.clone(), *counts, environments, Instant::now());
                                lock(&self.desk).settled.insert(workshop.id.clone(), look);
                            }
                        }
                        // Deleted in between, or changed: the next pass sees it.
                        Err(
                            StoreError::NotFound { .. }
                            | StoreError::Conflict { .. }
                            | StoreError::Fenced { .. },
                        ) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        // What is left belongs to no workshop.
        for (kind, environments) in seen {
            let (Ok(environments), Some(runtime)) = (environments, runtimes.get(&kind)) else {
                continue;
            };
            let ours = environments.into_iter().filter(|(id, _)| self.app.leases.owns(id));
            for environment in ours.flat_map(|(_, environments)| environments) {
                self.remove(runtime, environment.key, environment.generation);
            }
        }
        Ok(pause)
    }

    /// Stops a workshop whose end has come, unless it has been moved since it was read.
    async fn end_on_time(&self, id: &WorkshopId, now: Timestamp) -> Result<(), StoreError> {
        match self.app.store.workshop(id).await {
            Ok(workshop) if workshop.ends_at.is_some_and(|end| end <= now) => {
                self.app.store.set_wanted(id, Wanted::Stopped, now).await?;
                self.app.close_workshop(id, &EndedWhy::DeadlinePassed);
                self.app.wake.notify_one();
                Ok(())
            }
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn note_reason(
        &self,
        workshop: &WorkshopRecord,
        reason: Reason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let reason = Some((reason.code, reason.message));
        if workshop.reason == reason {
            return Ok(());
        }
        let write = WorkshopWrite {
            id: workshop.id.clone(),
            wanted: workshop.wanted,
            status: Some(workshop.status),
            reason,
            seats: Vec::new(),
            fence: self.fence(&workshop.id)?,
            now,
        };
        match self.app.store.write_workshop(write).await {
            Err(StoreError::NotFound { .. } | StoreError::Fenced { .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// What goes with each write for a workshop.
    fn fence(&self, id: &WorkshopId) -> Result<Option<Fence>, StoreError> {
        self.app.leases.fence(id).map_err(|_| StoreError::Fenced { lease: "reconcile".to_owned() })
    }

    /// Whether nothing has changed since a look at which nothing was to be done: then its seats need not be read.
    fn is_settled(
        &self,
        workshop: &WorkshopRecord,
        counts: WorkshopCounts,
        environments: &[Environment],
        in_flight: &BTreeSet<SeatKey>,
    ) -> bool {
        let mut desk = lock(&self.desk);
        let Some((record, before, seen, at)) = desk.settled.get(&workshop.id) else { return false };
        let same = record == workshop && *before == counts && seen == environments;
        let fresh = at.elapsed() < SETTLED_FOR && !self.app.fleet.is_anyone_leaving();
        let busy = in_flight.iter().any(|key| key.workshop == workshop.id)
            || desk.failures.contains_key(&workshop.id);
        if same && fresh && !busy {
            return true;
        }
        desk.settled.remove(&workshop.id);
        false
    }

    /// Looks at a workshop. Returns when to look again, should nothing happen, and whether nothing was to be done.
    async fn workshop(
        &self,
        workshop: &WorkshopRecord,
        runtime: &Arc<dyn Runtime>,
        environments: &[Environment],
        in_flight: &BTreeSet<SeatKey>,
        now: Timestamp,
    ) -> Result<(Duration, bool), StoreError> {
        let failures = lock(&self.desk).failures.remove(&workshop.id).unwrap_or_default();
        let seats = self.app.store.seats(&workshop.id).await?;
        let seats: Vec<_> = seats.into_iter().map(|(seat, holder)| (seat, holder.is_some())).collect();
        let image = ImageRef(workshop.image.clone());
        let running = workshop.wanted == Wanted::Running;
        let image = if running {
            self.app.progress.prepare(runtime, &image, &self.app.wake, &self.tasks)
        } else {
            plan::ImageState::Ready
        };
        let remote = self.app.runtimes.is_remote(runtime.kind());
        let leaving =
            if remote && running { self.leaving(workshop, runtime, &seats) } else { BTreeSet::new() };
        let environments = if remote && !running {
            let remnants = self.app.fleet.remnants(runtime.kind(), &workshop.id);
            Cow::Owned(with_remnants(environments.to_vec(), remnants))
        } else {
            Cow::Borrowed(environments)
        };
        let sight = Sight {
            workshop,
            seats: &seats,
            environments: &environments,
            in_flight,
            failures: &failures,
            leaving: &leaving,
            image,
            now,
        };
        let mut decided = plan(&sight);
        if remote && running {
            let ends = self.ends_to_tell(workshop, &sight, &decided);
            decided.actions.extend(ends);
        }
        for write in &mut decided.seats {
            let key = SeatKey { workshop: workshop.id.clone(), seat: write.seat };
            if write.reason.as_ref().is_some_and(|(code, _)| code == "DISK_GONE")
                && let Some(why) = self.app.fleet.why_given_up(&key, write.generation)
            {
                write.reason = Some(why);
            }
        }
        // What is being removed shows in nothing that could be compared, so it is looked at each time.
        let settled = running
            && decided == plan::Plan::default()
            && sight.image == plan::ImageState::Ready
            && !in_flight.iter().any(|key| key.workshop == workshop.id);
        self.write_down(workshop, &mut decided, failures, now).await?;
        self.act(workshop, runtime, &mut decided);
        if decided.purge {
            let fence = self.fence(&workshop.id)?;
            let purged = self.app.store.purge_workshop(&workshop.id, fence.as_ref()).await;
            if matches!(purged, Err(StoreError::Conflict { .. })) {
                // A worker may hold something of it that is not known here, and that nobody would remove.
                self.app.fleet.doubt(&workshop.id);
            }
            purged?;
            self.app.directory.forget_workshop(&workshop.id);
            let mut desk = lock(&self.desk);
            desk.told_ends.retain(|key, _| key.workshop != workshop.id);
            desk.begun.retain(|key, _| key.workshop != workshop.id);
        }
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        Ok((decided.look_again.map_or(PERIOD, until).max(Duration::from_millis(20)), settled))
    }

    async fn write_down(
        &self,
        workshop: &WorkshopRecord,
        decided: &mut plan::Plan,
        failures: Failures,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let lost: Vec<SeatKey> = decided
            .seats
            .iter()
            .filter(|write| write.state != SeatState::Ready || write.next_generation != write.generation)
            .map(|write| SeatKey { workshop: workshop.id.clone(), seat: write.seat })
            .collect();
        let ready: Vec<_> = decided
            .seats
            .iter()
            .filter(|write| write.state == SeatState::Ready)
            .map(|write| (SeatKey { workshop: workshop.id.clone(), seat: write.seat }, write.generation))
            .collect();
        if decided.status.is_some() || !decided.seats.is_empty() {
            let rewritten =
                decided.seats.iter().any(|write: &SeatWrite| write.next_generation != write.generation);
            let write = WorkshopWrite {
                id: workshop.id.clone(),
                wanted: workshop.wanted,
                status: Some(decided.status.unwrap_or(workshop.status)),
                reason: if decided.status.is_some() {
                    decided.reason.take()
                } else {
                    workshop.reason.clone()
                },
                seats: std::mem::take(&mut decided.seats),
                fence: self.fence(&workshop.id)?,
                now,
            };
            let written = self.app.store.write_workshop(write).await;
            if written.is_err() {
                lock(&self.desk).failures.entry(workshop.id.clone()).or_default().extend(failures);
            }
            let seated = written?;
            if !seated.is_empty() {
                self.app.directory.forget_workshop(&workshop.id);
            }
            if rewritten {
                self.app.wake.notify_one();
            }
        }
        for key in lost {
            self.app.directory.forget(&key);
        }
        self.measure_ready(ready);
        Ok(())
    }

    fn act(&self, workshop: &WorkshopRecord, runtime: &Arc<dyn Runtime>, decided: &mut plan::Plan) {
        for action in std::mem::take(&mut decided.actions) {
            match action {
                Action::Apply(seat, generation) => {
                    let key = SeatKey { workshop: workshop.id.clone(), seat };
                    match self.desired(workshop, key, generation) {
                        Ok(desired) => self.apply(runtime, desired),
                        Err(reason) => {
                            let mut desk = lock(&self.desk);
                            desk.failures
                                .entry(workshop.id.clone())
                                .or_default()
                                .insert((seat, generation), reason);
                        }
                    }
                }
                Action::Remove(key, generation) => self.remove(runtime, key, generation),
            }
        }
    }

    /// Free seats that are to leave a worker that is being drained: no more than there is room for elsewhere.
    fn leaving(
        &self,
        workshop: &WorkshopRecord,
        runtime: &Arc<dyn Runtime>,
        seats: &[(SeatRecord, bool)],
    ) -> BTreeSet<SeatNumber> {
        let (leaving, room) = self.app.fleet.leaving(runtime.kind(), &workshop.id);
        if leaving.is_empty() {
            return leaving;
        }
        // Those on their way will take room too.
        let under_way = seats.iter().filter(|(seat, _)| seat.state != SeatState::Ready).count();
        let free = seats.iter().filter(|(seat, held)| !held && leaving.contains(&seat.key.seat));
        free.map(|(seat, _)| seat.key.seat).take(room.saturating_sub(under_way)).collect()
    }

    /// When a worker that is cut off ends a workshop's seats by itself.
    fn not_after(workshop: &WorkshopRecord) -> Option<Timestamp> {
        workshop.ends_at.and_then(|end| end.checked_add(CUT_OFF_AFTER).ok())
    }

    /// Applies that tell workers a workshop's new end.
    fn ends_to_tell(
        &self,
        workshop: &WorkshopRecord,
        sight: &Sight<'_>,
        decided: &plan::Plan,
    ) -> Vec<Action> {
        let wanted = Self::not_after(workshop);
        let generations: BTreeMap<_, _> =
            sight.seats.iter().map(|(seat, _)| (&seat.key, seat.generation)).collect();
        let acted: BTreeSet<_> = decided
            .actions
            .iter()
            .filter_map(|action| match action {
                Action::Apply(seat, _) => Some(*seat),
                Action::Remove(..) => None,
            })
            .collect();
        let mut desk = lock(&self.desk);
        let mut actions = Vec::new();
        for environment in sight.environments {
            let key = &environment.key;
            let lives = matches!(environment.state, EnvironmentState::Ready)
                && generations.get(key) == Some(&environment.generation);
            let told = (environment.generation, wanted);
            let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
            if !lives
                || second(environment.not_after) == second(wanted)
                || sight.in_flight.contains(key)
                || acted.contains(&key.seat)
                || desk.told_ends.get(key) == Some(&told)
            {
                continue;
            }
            desk.told_ends.insert(key.clone(), told);
            actions.push(Action::Apply(key.seat, environment.generation));
        }
        actions
    }

    fn desired(
        &self,
        workshop: &WorkshopRecord,
        key: SeatKey,
        generation: Generation,
    ) -> Result<DesiredSeat, Reason> {
        let unreadable = || {
            Reason::new(
                "SEALED",
                "The workshop's variables were sealed under another SERVER_KEY; start the server with that one.",
            )
        };
        let env = self.app.sealer.open_sealed(ENV_PURPOSE, &workshop.env_sealed).map_err(|_| unreadable())?;
        let env: BTreeMap<String, String> = serde_json::from_slice(&env).map_err(|_| unreadable())?;
        let kind = workshop.runtime.parse().ok();
        Ok(DesiredSeat {
            secret: self.app.sealer.seat_secret(&self.app.installation, &key, generation),
            key,
            generation,
            image: ImageRef(workshop.image.clone()),
            vcpus: workshop.vcpus,
            memory_mb: workshop.memory_mb,
            disk_mb: workshop.disk_mb,
            env,
            egress: Egress::default(),
            // Runtimes in this process end with it; only a worker that can be cut off needs to know the end itself.
            not_after: if kind.is_some_and(|kind| self.app.runtimes.is_remote(kind)) {
                Self::not_after(workshop)
            } else {
                None
            },
        })
    }

    /// How long makes took from the first call until they were seen ready; those of another server's calls count nowhere.
    fn measure_ready(&self, ready: Vec<(SeatKey, Generation)>) {
        let mut desk = lock(&self.desk);
        for (key, generation) in ready {
            if let Some((begun, at)) = desk.begun.remove(&key)
                && begun == generation
            {
                metrics::histogram!("clarateach_seat_ready_seconds").record(at.elapsed().as_secs_f64());
            }
        }
    }

    fn calls(&self, runtime: &Arc<dyn Runtime>) -> Arc<Semaphore> {
        let remote = self.app.runtimes.is_remote(runtime.kind());
        Arc::clone(if remote { &self.remote_calls } else { &self.calls })
    }

    fn begin(&self, key: &SeatKey) -> bool {
        lock(&self.desk).in_flight.insert(key.clone())
    }

    fn apply(&self, runtime: &Arc<dyn Runtime>, desired: DesiredSeat) {
        if !self.begin(&desired.key) {
            return;
        }
        {
            let mut desk = lock(&self.desk);
            let begun = desk.begun.entry(desired.key.clone()).or_insert((desired.generation, Instant::now()));
            if begun.0 != desired.generation {
                *begun = (desired.generation, Instant::now());
            }
        }
        let calls = self.calls(runtime);
        let (runtime, desk, wake) = (Arc::clone(runtime), Arc::clone(&self.desk), Arc::clone(&self.app.wake));
        let (calls, app) = (calls, Arc::clone(&self.app));
        self.tasks.spawn(async move {
            let _permit = calls.acquire().await;
            let (key, generation, image) = (desired.key.clone(), desired.generation, desired.image.clone());
            let result = runtime.apply(desired).await;
            if let Err(RuntimeError::Unavailable { .. }) = &result {
                // Keeps the seat in flight for a moment, so that what does not answer isn't hammered.
                tokio::time::sleep(CALL_RETRY).await;
            }
            let mut desk = lock(&desk);
            desk.in_flight.remove(&key);
            if result.is_err() {
                desk.told_ends.remove(&key);
            }
            match result {
                Ok(()) => {}
                // Nobody can tell whether it was done: the next look does. Until then the seat says why.
                Err(error @ RuntimeError::Unavailable { .. }) => {
                    tracing::warn!(seat = %key, %error, "the runtime does not answer");
                    let failures = desk.failures.entry(key.workshop.clone()).or_default();
                    failures.insert((key.seat, generation), error.reason());
                }
                Err(error) => {
                    tracing::warn!(seat = %key, %generation, %error, "the seat could not be made");
                    metrics::counter!("clarateach_seat_failures_total").increment(1);
                    if matches!(error, RuntimeError::AtCapacity { .. }) {
                        app.scaling.ask();
                    }
                    if matches!(error, RuntimeError::ImageNotFound { .. }) {
                        app.progress.forget(runtime.kind(), &image);
                    }
                    let failures = desk.failures.entry(key.workshop.clone()).or_default();
                    failures.insert((key.seat, generation), error.reason());
                }
            }
            drop(desk);
            wake.notify_one();
        });
    }

    fn remove(&self, runtime: &Arc<dyn Runtime>, key: SeatKey, generation: Generation) {
        if !self.begin(&key) {
            return;
        }
        let calls = self.calls(runtime);
        let (runtime, desk, wake) = (Arc::clone(runtime), Arc::clone(&self.desk), Arc::clone(&self.app.wake));
        self.tasks.spawn(async move {
            let _permit = calls.acquire().await;
            let result = runtime.remove(&key, generation).await;
            if let Err(error) = &result {
                tracing::warn!(seat = %key, %generation, %error, "the seat could not be removed; it is tried again");
                // Keeps the seat in flight for a moment, so that a broken backend isn't hammered.
                tokio::time::sleep(STORE_RETRY).await;
            }
            lock(&desk).in_flight.remove(&key);
            wake.notify_one();
        });
    }
}

/// How long to wait for a workshop's end.
fn until_end(workshop: &WorkshopRecord, now: Timestamp) -> Duration {
    match (workshop.wanted, workshop.ends_at) {
        (Wanted::Running, Some(end)) => {
            Duration::try_from(end.duration_since(now)).unwrap_or_default().max(Duration::from_millis(20))
        }
        _ => PERIOD,
    }
}

/// Leaves a workshop out that somebody else decides for.
fn forget(
    seen: &mut BTreeMap<RuntimeKind, Result<BTreeMap<WorkshopId, Vec<Environment>>, RuntimeError>>,
    id: &WorkshopId,
) {
    for environments in seen.values_mut().flatten() {
        environments.remove(id);
    }
}

/// What workers may still have of seats nobody wants, besides what they show.
fn with_remnants(
    mut environments: Vec<Environment>,
    remnants: Vec<(SeatKey, Generation)>,
) -> Vec<Environment> {
    for (key, generation) in remnants {
        match environments.iter_mut().find(|environment| environment.key == key) {
            Some(environment) => environment.generation = environment.generation.max(generation),
            None => environments.push(Environment {
                key,
                generation,
                state: EnvironmentState::Stopped,
                reason: None,
                address: None,
                handle: None,
                not_after: None,
            }),
        }
    }
    environments
}

fn by_workshop(environments: Vec<Environment>) -> BTreeMap<WorkshopId, Vec<Environment>> {
    let mut map: BTreeMap<WorkshopId, Vec<Environment>> = BTreeMap::new();
    for environment in environments {
        map.entry(environment.key.workshop.clone()).or_default().push(environment);
    }
    map
}

/// Wakes the reconciler whenever a runtime's view changes.
async fn watch(runtime: Arc<dyn Runtime>, wake: Arc<Notify>, stop: CancellationToken) {
    let mut since = Revision::default();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            revision = runtime.watch(since) => {
                since = revision;
                wake.notify_one();
            }
        }
    }
}
