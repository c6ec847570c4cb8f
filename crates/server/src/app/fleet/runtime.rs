//! One runtime of a kind over all workers of that kind.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, PrepareProgress, ProgressFn, Revision,
    Runtime, RuntimeError, RuntimeKind, SeatPort,
};
use clarateach_store::{Placement, StoreError};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::member::{Member, Seen};
use super::merge::{View, merge};
use super::placement::{Candidate, ImageSight, choose};
use super::{Fleet, lock};

/// How long a look waits for workers that have not shown their seats as they are now. Those that take longer are shown
/// as they were a moment ago, and looked at again when they have answered.
const LOOK_WITHIN: Duration = Duration::from_millis(500);
/// The same for workers of which nothing is known yet.
const FIRST_LOOK_WITHIN: Duration = Duration::from_secs(5);
/// How long a worker may take to say whether it has an image.
const RESOLVE_WITHIN: Duration = Duration::from_secs(4);
/// So many are asked at once.
const RESOLVE_AT_ONCE: usize = 4;
/// When the image is ready on one worker, how long the others are waited for before seats are made.
const PREPARE_GRACE: Duration = Duration::from_secs(5);
/// After a worker failed to make an image ready, wait this long before it is asked again.
const PREPARE_RETRY: Duration = Duration::from_secs(2);

/// What the reconciler and the gateway see of all workers of a kind.
pub struct FleetRuntime {
    kind: RuntimeKind,
    fleet: Weak<Fleet>,
}

impl std::fmt::Debug for FleetRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetRuntime").field("kind", &self.kind).finish_non_exhaustive()
    }
}

fn unavailable(message: impl Into<String>) -> RuntimeError {
    RuntimeError::Unavailable { message: message.into() }
}

/// A store that can't say where a seat is: nobody knows what came of it.
fn unplaced(error: &StoreError) -> RuntimeError {
    unavailable(format!("where the seat goes could not be written down: {error}"))
}

impl FleetRuntime {
    pub(super) const fn new(kind: RuntimeKind, fleet: Weak<Fleet>) -> Self {
        Self { kind, fleet }
    }

    fn fleet(&self) -> Result<Arc<Fleet>, RuntimeError> {
        self.fleet.upgrade().ok_or_else(|| unavailable("the server is stopping"))
    }

    fn nobody_answers(&self, members: &[Arc<Member>]) -> RuntimeError {
        if members.is_empty() {
            return unavailable(format!("There is no {} worker.", self.kind));
        }
        let first = members.iter().find_map(|member| member.with(|seen| seen.problem(&BTreeSet::new())));
        let why = first.map(|why| format!(" {why}")).unwrap_or_default();
        unavailable(format!("None of the {} {} workers can be used now.{why}", members.len(), self.kind))
    }

    /// The worker for a make of a seat: where it was placed, else the best of those that take seats. Takes its room.
    fn choose(&self, fleet: &Fleet, desired: &DesiredSeat) -> Result<String, RuntimeError> {
        let members = fleet.of_kind(self.kind);
        let mut table = lock(&fleet.table);
        if let Some((worker, generation)) = table.newest(&desired.key)
            && generation >= desired.generation
        {
            return Ok(worker.to_owned());
        }
        let (mut used, mut total, mut missing) = (0, 0, 0);
        let mut candidates = Vec::with_capacity(members.len());
        for member in &members {
            let had_it = table.holders(&desired.key).is_some_and(|holders| holders.contains_key(member.id()));
            let placed = table.seats_on(member.id());
            let candidate = member.with(|seen: &Seen| {
                if !seen.takes_seats(&fleet.around.local) {
                    return None;
                }
                let capacity = seen.capacity();
                let taken = placed.max(seen.shown());
                (used, total) = (used + taken.min(capacity), total + capacity);
                let room = if seen.is_full() { 0 } else { capacity.saturating_sub(taken) };
                Some((room + u32::from(had_it && !seen.is_full()), seen.image(&desired.image)))
            });
            let Some((room, image)) = candidate else { continue };
            missing += u32::from(image == ImageSight::Missing);
            candidates.push(Candidate {
                id: member.id().to_owned(),
                room,
                of_workshop: table.seats_of(&desired.key.workshop, member.id()),
                had_it,
                image,
            });
        }
        match choose(&candidates) {
            Some(chosen) => {
                table.reserve(&desired.key, &chosen.id);
                Ok(chosen.id.clone())
            }
            None if candidates.is_empty() => Err(self.nobody_answers(&members)),
            None if missing > 0 && candidates.iter().all(|c| c.image == ImageSight::Missing) => {
                let message = "none of the workers that answer has it".to_owned();
                Err(RuntimeError::ImageNotFound { image: desired.image.clone(), message })
            }
            None => Err(RuntimeError::AtCapacity { used, total }),
        }
    }

    /// Writes down where the seat goes, unless somebody has before.
    async fn place(&self, fleet: &Fleet, desired: &DesiredSeat) -> Result<Arc<Member>, RuntimeError> {
        let worker = self.choose(fleet, desired)?;
        let placement = Placement { key: desired.key.clone(), generation: desired.generation, worker };
        let placed = fleet.place(placement).await;
        lock(&fleet.table).release(&desired.key);
        let placed = match placed {
            Ok(placed) => placed,
            Err(error @ StoreError::Conflict { .. }) => {
                // Somebody decided otherwise meanwhile, or the worker was forgotten: the next look sees it.
                let _ = fleet.read_placements(Some(&desired.key.workshop)).await;
                return Err(unplaced(&error));
            }
            Err(error) => return Err(unplaced(&error)),
        };
        if placed.generation > desired.generation {
            let (given, seen) = (desired.generation, placed.generation);
            return Err(RuntimeError::StaleGeneration { key: desired.key.clone(), given, seen });
        }
        fleet.member(&placed.worker).ok_or_else(|| {
            unavailable(format!(
                "the seat is on worker {}, which this server does not know yet",
                placed.worker
            ))
        })
    }

    /// The worker that a seat is on.
    async fn holder(&self, key: &SeatKey) -> Result<(Arc<Fleet>, Arc<Member>), RuntimeError> {
        let fleet = self.fleet()?;
        match fleet.find(key, None).await {
            Some(member) => Ok((fleet, member)),
            None => Err(RuntimeError::NotFound { key: key.clone() }),
        }
    }
}

/// Makes an image ready on a worker, and notes how far it is.
pub(super) async fn prepare_on(
    member: Arc<Member>,
    image: ImageRef,
    progress: ProgressFn,
) -> Result<(), RuntimeError> {
    member.set_image(&image, ImageSight::Preparing);
    let prepared = member.worker().prepare(&image, progress).await;
    member.heard(&prepared);
    let sight = match &prepared {
        Ok(()) => ImageSight::Ready,
        Err(RuntimeError::Unavailable { .. }) => ImageSight::Unknown,
        Err(_) => ImageSight::Missing,
    };
    if let Err(error) = &prepared {
        tracing::warn!(worker = member.id(), %image, %error, "the image can't be made ready on the worker");
        tokio::time::sleep(PREPARE_RETRY).await;
    }
    member.set_image(&image, sight);
    prepared
}

/// Waits for the workers' views to be of now, each for a while.
async fn look(members: &[Arc<Member>]) {
    let now = Instant::now();
    let waits = members.iter().map(|member| async move {
        let known = member.with(|seen| seen.observed().is_some());
        let within = match (known, member.is_there(), member.may_come()) {
            (true, true, _) => LOOK_WITHIN,
            (false, true, _) | (_, false, true) => FIRST_LOOK_WITHIN,
            (_, false, false) => return,
        };
        let deadline = now + within;
        if member.is_there() {
            member.fresh(deadline).await;
            return;
        }
        // Until it has said who it is, or that it can't be reached.
        while member.may_come() && Instant::now() < deadline {
            if tokio::time::timeout(Duration::from_millis(50), member.fresh(deadline)).await.is_ok() {
                return;
            }
        }
        if member.is_there() {
            member.fresh(deadline).await;
        }
    });
    futures_util::future::join_all(waits).await;
}

#[async_trait]
impl Runtime for FleetRuntime {
    fn kind(&self) -> RuntimeKind {
        self.kind
    }

    async fn warnings(&self) -> Vec<String> {
        let Ok(fleet) = self.fleet() else { return Vec::new() };
        let members = fleet.of_kind(self.kind);
        let mut warnings: BTreeMap<String, u32> = BTreeMap::new();
        let mut silent = Vec::new();
        for member in &members {
            if !member.is_there() {
                silent.push(member.id().to_owned());
            }
            member.with(|seen| {
                for warning in seen.sighting().into_iter().flat_map(|sighting| &sighting.info.warnings) {
                    *warnings.entry(warning.clone()).or_default() += 1;
                }
            });
        }
        let mut all: Vec<_> = warnings.into_keys().collect();
        if !silent.is_empty() {
            let (count, of) = (silent.len(), members.len());
            silent.truncate(5);
            all.push(format!("{count} of {of} workers can't be used now: {}", silent.join(", ")));
        }
        all
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        let fleet = self.fleet()?;
        let all = fleet.of_kind(self.kind);
        let mut there: Vec<_> = all.iter().filter(|member| member.is_there()).cloned().collect();
        // Those that take seats first: an old one that is drained may not have the image any more.
        there.sort_by_key(|member| !member.with(|seen| seen.takes_seats(&fleet.around.local)));
        let mut asked = futures_util::stream::iter(there.into_iter().map(|member| async move {
            let resolved = tokio::time::timeout(RESOLVE_WITHIN, member.worker().resolve(image)).await;
            resolved.unwrap_or_else(|_| Err(unavailable(format!("worker {}: no answer", member.id()))))
        }))
        .buffer_unordered(RESOLVE_AT_ONCE);
        let mut refusal = None;
        while let Some(resolved) = asked.next().await {
            match resolved {
                Ok(image) => return Ok(image),
                Err(error @ RuntimeError::Unavailable { .. }) => drop(refusal.get_or_insert(error)),
                Err(error) => refusal = Some(error),
            }
        }
        Err(refusal.unwrap_or_else(|| self.nobody_answers(&all)))
    }

    async fn prepare(&self, image: &ImageRef, progress: ProgressFn) -> Result<(), RuntimeError> {
        let fleet = self.fleet()?;
        let all = fleet.of_kind(self.kind);
        let there: Vec<_> = all
            .iter()
            .filter(|member| member.with(|seen| seen.takes_seats(&fleet.around.local)) && member.is_there())
            .cloned()
            .collect();
        if there.is_empty() {
            return Err(self.nobody_answers(&all));
        }
        lock(&fleet.images).insert((self.kind, image.0.clone()));
        let many = there.len();
        let mut under_way: FuturesUnordered<_> = there
            .into_iter()
            .map(|member| {
                let shown = Arc::clone(&progress);
                let id = member.id().to_owned();
                let progress: ProgressFn = Arc::new(move |step: PrepareProgress| {
                    let said = if many > 1 { format!("{} (worker {id})", step.step) } else { step.step };
                    shown(PrepareProgress { step: said, bytes: step.bytes });
                });
                // A task of its own: it goes on when nobody waits for it any more.
                fleet.tasks.spawn(prepare_on(member, image.clone(), progress))
            })
            .collect();
        let mut refusal = None;
        let mut deadline: Option<Instant> = None;
        loop {
            let next = match deadline {
                Some(at) => match tokio::time::timeout_at(at, under_way.next()).await {
                    Ok(next) => next,
                    Err(_) => return Ok(()),
                },
                None => under_way.next().await,
            };
            match next {
                Some(Ok(Ok(()))) => {
                    deadline.get_or_insert(Instant::now() + PREPARE_GRACE);
                }
                Some(Ok(Err(error))) => drop(refusal.get_or_insert(error)),
                Some(Err(_)) => {}
                None if deadline.is_some() => return Ok(()),
                None => return Err(refusal.unwrap_or_else(|| unavailable("the server is stopping"))),
            }
        }
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let fleet = self.fleet()?;
        let member = self.place(&fleet, &desired).await?;
        if !member.is_there() {
            return Err(unavailable(format!("worker {}, which has the seat, does not answer", member.id())));
        }
        let (key, generation, image) = (desired.key.clone(), desired.generation, desired.image.clone());
        let turn = member.turn().await;
        member.called(&key);
        let began = Instant::now();
        let applied = member.worker().apply(desired).await;
        metrics::histogram!("clarateach_worker_call_seconds", "call" => "apply")
            .record(began.elapsed().as_secs_f64());
        drop(turn);
        member.heard(&applied);
        member.called(&key);
        match &applied {
            Err(RuntimeError::AtCapacity { .. }) => member.is_full(),
            Err(RuntimeError::ImageNotFound { .. }) => member.set_image(&image, ImageSight::Missing),
            Err(RuntimeError::InvalidSpec { .. }) => {}
            _ => return applied,
        }
        // It has said no. When it has written down that it is not to make this either, another one may.
        match fleet.take_back(&member, &key, generation).await {
            Ok(true) => applied,
            // Somebody has asked it again, and it has said yes.
            Ok(false) => Ok(()),
            Err(error) => {
                tracing::debug!(worker = member.id(), seat = %key, %error, "a refused seat could not be taken back yet");
                applied
            }
        }
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        let fleet = self.fleet()?;
        fleet.read_doubted().await;
        let members = fleet.of_kind(self.kind);
        look(&members).await;
        // Who it is and what it has, at one moment: one host under two addresses has its seats once.
        let seen: Vec<_> = members
            .iter()
            .map(|member| {
                let there = member.is_there();
                member.with(|seen| {
                    let name = seen.sighting().map(|sighting| sighting.info.worker_id.to_string());
                    (name, there.then(|| seen.observed()).flatten())
                })
            })
            .collect();
        let named = members.iter().zip(&seen).map(|(member, (name, _))| (member, name.as_deref()));
        let doubles = fleet.doubles(named);
        let snapshots: Vec<_> = members
            .iter()
            .zip(seen)
            .map(|(member, (_, seen))| {
                let seen = seen.filter(|_| !doubles.contains_key(member.id()));
                let why = || {
                    let problem = member.with(|seen| seen.problem(&fleet.around.local)).unwrap_or_default();
                    format!("Worker {}, which has the seat, can't be reached now: {problem}", member.id())
                };
                (member.id(), seen.ok_or_else(why))
            })
            .collect();
        let views: BTreeMap<&str, View<'_>> = snapshots
            .iter()
            .map(|(id, seen)| {
                let view = match seen {
                    Ok((environments, _, true)) => View::Fresh(environments),
                    Ok((environments, called, false)) => View::Stale(environments, called),
                    Err(why) => View::Unknown(why.clone()),
                };
                (*id, view)
            })
            .collect();
        let merged = merge(&views, lock(&fleet.table).rows());
        lock(&fleet.remnants).insert(self.kind, merged.remnants);
        fleet.sweep(merged.doomed);
        Ok(merged.shown)
    }

    async fn watch(&self, since: Revision) -> Revision {
        let Ok(fleet) = self.fleet() else { return std::future::pending().await };
        let mut revision = fleet.around.revision.subscribe();
        drop(fleet);
        let next = revision.wait_for(|revision| *revision > since.0).await.map(|revision| *revision);
        match next {
            Ok(revision) => Revision(revision),
            // The server is stopping.
            Err(_) => std::future::pending().await,
        }
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        let fleet = self.fleet()?;
        let mut from: BTreeMap<String, Generation> = BTreeMap::new();
        if let Some(holders) = lock(&fleet.table).holders(key) {
            from.extend(holders.iter().map(|(worker, generation)| (worker.clone(), *generation)));
        }
        for member in fleet.of_kind(self.kind) {
            let shows = member.with(|seen| {
                seen.observed().and_then(|(environments, _, _)| environments.get(key).map(|e| e.generation))
            });
            if let Some(shown) = shows {
                let up_to = from.entry(member.id().to_owned()).or_insert(shown);
                *up_to = (*up_to).max(shown);
            }
        }
        let removals = from.into_iter().filter(|(_, up_to)| *up_to <= generation).map(|(worker, up_to)| {
            let fleet = Arc::clone(&fleet);
            async move {
                match fleet.member(&worker) {
                    Some(member) => fleet.remove_from(&member, key, up_to).await,
                    None => Err(unavailable(format!("worker {worker} is not known to this server yet"))),
                }
            }
        });
        futures_util::future::join_all(removals).await.into_iter().collect()
    }

    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        let (fleet, member) = self.holder(key).await?;
        let dialled = member.worker().dial(key, port).await;
        match dialled {
            // It may have been moved by another server since we read where it is.
            Err(RuntimeError::NotFound { .. } | RuntimeError::Unavailable { .. })
                if !fleet.leases.owns(&key.workshop) =>
            {
                fleet.read_placements(Some(&key.workshop)).await.map_err(|error| unplaced(&error))?;
                match fleet.find(key, None).await {
                    Some(moved) if moved.id() != member.id() => moved.worker().dial(key, port).await,
                    _ => dialled,
                }
            }
            dialled => dialled,
        }
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let (_, member) = self.holder(key).await?;
        member.worker().logs(key).await
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        let fleet = self.fleet()?;
        let members = fleet.of_kind(self.kind);
        let there: Vec<_> = members.iter().filter(|member| member.is_there()).collect();
        if there.is_empty() {
            return Err(self.nobody_answers(&members));
        }
        let table = lock(&fleet.table);
        let sum = there.iter().fold(Capacity { total: 0, used: 0 }, |sum, member| {
            let (capacity, shown) = member.with(|seen| (seen.capacity(), seen.shown()));
            let used = table.seats_on(member.id()).max(shown);
            Capacity { total: sum.total + capacity, used: sum.used + used }
        });
        Ok(sum)
    }
}
