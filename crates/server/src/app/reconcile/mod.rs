//! Makes what the store wants so: compare wanted with observed, act with bounded concurrency, write down, repeat.
//!
//! Level-triggered: a pass looks at everything and remembers nothing that it could not find out again, so a server
//! killed between any two lines continues where it was.
//!
//! `plan` and `ends` decide, purely; `observed` sorts what runtimes show; `calls` asks them, `written` writes down, and
//! `desk` is what is remembered from one look to the next.
//!
//! Given a store, a clock and runtimes that are deterministic it is so too, on a current-thread runtime: whatever it goes
//! through is ordered, and where it waits for several things they are asked in order. The simulation depends on that.

mod calls;
mod desk;
pub mod ends;
mod observed;
pub mod plan;
#[cfg(test)]
mod plan_tests;
mod progress;
mod written;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_ids::{SeatKey, SeatNumber};
use clarateach_lifecycle::{SeatState, Wanted};
use clarateach_runtime::{Environment, ImageRef, Reason, Revision, Runtime, RuntimeKind};
use clarateach_store::{SeatRecord, StoreError, WorkshopRecord};
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::desk::Desk;
use self::observed::{Observed, by_workshop, forget, with_remnants};
use self::plan::{Sight, plan};
pub use self::progress::Progress;
use super::App;

/// Look again at least this often, even if nothing woke us.
const PERIOD: Duration = Duration::from_secs(5);
/// After a store that failed, wait this long.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// After a look, wait for as long as it took, at most this.
const LONGEST_BREATH: Duration = Duration::from_millis(200);
/// Calls to runtimes at once. Runtimes bound their own work further, and the fleet that of each worker.
const CALLS_AT_ONCE: usize = 32;
const REMOTE_CALLS_AT_ONCE: usize = 1024;
/// The loop. One per store.
pub struct Reconciler {
    app: Arc<App>,
    desk: Arc<Mutex<Desk>>,
    calls: Arc<Semaphore>,
    remote_calls: Arc<Semaphore>,
    tasks: TaskTracker,
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

impl std::fmt::Debug for Reconciler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reconciler")
    }
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
        let mut seen = Observed::new();
        let runtimes = self.app.runtimes.to_look_after();
        for (kind, runtime) in &runtimes {
            seen.insert(*kind, runtime.observe().await.map(by_workshop));
        }
        let now = self.app.clock.now();
        if self.app.fleet.is_anyone_leaving() {
            lock(&self.desk).settled.clear();
        }
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
                    if lock(&self.desk).is_settled(workshop, *counts, &environments, &in_flight) {
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
            let ends = ends::to_tell(&sight, &decided, &mut lock(&self.desk).told_ends);
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
            lock(&self.desk).forget(&workshop.id);
        }
        let until = |at: Timestamp| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO);
        Ok((decided.look_again.map_or(PERIOD, until).max(Duration::from_millis(20)), settled))
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
