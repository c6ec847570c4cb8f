//! One worker: what is known of it ([`Seen`]), and the tasks that find out (`asking`, `looking`).

mod asking;
mod looking;
mod seen;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_api::agent::{RevokedSession, SeatKeys};
use clarateach_ids::{SeatKey, SessionId};
use clarateach_runtime::{ImageRef, RuntimeError, RuntimeKind};
use clarateach_runtime_worker::{Worker, is_incompatible, is_token_refused};
use clarateach_store::{Store, WorkerRecord, WorkerWish};
use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use self::seen::{Environments, MAX_SKEW, Seen};
use super::health::{Answer, Health, Pulse};
use super::placement::ImageSight;
use crate::app::clock::Clock;

/// Seats of one worker that are made or removed at once.
const CALLS_AT_ONCE: usize = 8;
/// A worker that said that it is full is not asked again before.
const FULL_FOR: Duration = Duration::from_secs(5);
/// How long an ended session is told to a worker that does not answer: twice the life of a token.
const REVOKED_FOR: Duration = Duration::from_secs(600);
/// One worker.
pub struct Member {
    id: String,
    worker: Arc<dyn Worker>,
    seen: Mutex<Seen>,
    /// The mark of the last look, for those who wait for it.
    looked: watch::Sender<u64>,
    /// Wakes the task that looks.
    look: Notify,
    /// Wakes the task that asks and tells.
    tell: Notify,
    revoked: Mutex<Vec<(RevokedSession, Instant)>>,
    calls: Semaphore,
    stop: CancellationToken,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What a member's tasks need of the fleet.
#[derive(Clone)]
pub struct Surroundings {
    /// By which last sightings are dated.
    pub clock: Arc<dyn Clock>,
    /// Moves on when anything about a worker changed.
    pub revision: Arc<watch::Sender<u64>>,
    /// Kinds that this server makes itself.
    pub local: Arc<BTreeSet<RuntimeKind>>,
    /// Which tokens workers with a public URL accept.
    pub keys: Arc<Mutex<Option<SeatKeys>>>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").field("local", &self.local).finish_non_exhaustive()
    }
}

impl Surroundings {
    fn changed(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// A worker as it was recorded, not asked yet.
    pub fn new(record: WorkerRecord, worker: Arc<dyn Worker>) -> Arc<Self> {
        let kind = record.kind.as_deref().and_then(|kind| kind.parse().ok());
        Arc::new(Self {
            id: record.id.clone(),
            worker,
            seen: Mutex::new(Seen {
                record,
                pulse: Pulse::new(Instant::now()),
                kind,
                sighting: None,
                last_seen_at: None,
                last_error: None,
                observed: None,
                mark: 1,
                called: BTreeMap::new(),
                images: HashMap::new(),
                full_until: None,
                same_as: None,
                compared: false,
                keys: None,
                undrain: false,
                learners: BTreeMap::new(),
            }),
            looked: watch::Sender::new(0),
            look: Notify::new(),
            tell: Notify::new(),
            revoked: Mutex::default(),
            calls: Semaphore::new(CALLS_AT_ONCE),
            stop: CancellationToken::new(),
        })
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// How it is called.
    pub fn worker(&self) -> &Arc<dyn Worker> {
        &self.worker
    }

    /// Waits for its turn: a worker is not asked for everything at once.
    pub async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.acquire().await.ok()
    }

    /// As it is recorded.
    pub fn record(&self) -> WorkerRecord {
        lock(&self.seen).record.clone()
    }

    /// Takes over a record that still names the same agent and token.
    pub fn update(&self, mut record: WorkerRecord) {
        let mut seen = lock(&self.seen);
        // It may have been read before the kind was noted here.
        record.kind = record.kind.or_else(|| seen.record.kind.clone());
        // What another server found out counts here too: seats that it placed there are there.
        if seen.kind.is_none() {
            seen.kind = record.kind.as_deref().and_then(|kind| kind.parse().ok());
        }
        if seen.record.wish == WorkerWish::Draining && record.wish == WorkerWish::Active {
            seen.undrain = true;
        }
        let told = seen.record.wish != record.wish || seen.record.public_url != record.public_url;
        seen.record = record;
        drop(seen);
        if told {
            self.tell.notify_one();
        }
    }

    /// Has the agent told that it takes seats again, whoever told it otherwise.
    pub fn undrain(&self) {
        lock(&self.seen).undrain = true;
        self.tell.notify_one();
    }

    /// Ends its tasks.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// How it is now.
    pub fn health(&self) -> Health {
        lock(&self.seen).pulse.health(Instant::now())
    }

    /// Which kind of seats it makes, once that is known.
    pub fn kind(&self) -> Option<RuntimeKind> {
        lock(&self.seen).kind
    }

    /// Learners who use their seats at the worker itself, as far as it answers, and when they were last heard of.
    pub fn learners(&self) -> BTreeMap<SessionId, Timestamp> {
        let seen = lock(&self.seen);
        if seen.pulse.answers(Instant::now()) { seen.learners.clone() } else { BTreeMap::new() }
    }

    /// Whether it answers, is known, and is no other worker's double.
    pub fn is_there(&self) -> bool {
        let seen = lock(&self.seen);
        seen.pulse.answers(Instant::now()) && seen.sighting.is_some() && seen.same_as.is_none()
    }

    /// Whether nothing has been heard of it yet, and it may still come.
    pub fn may_come(&self) -> bool {
        let seen = lock(&self.seen);
        seen.pulse.health(Instant::now()) == Health::Starting && seen.last_error.is_none()
    }

    /// Something is known of it under a lock that must be held briefly.
    pub fn with<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&lock(&self.seen))
    }

    /// Says whose double the host is that calls itself `name`, if anybody's. Gives whether that is news.
    pub fn set_same_as(&self, name: Option<&str>, other: Option<String>) -> bool {
        let mut seen = lock(&self.seen);
        let named = seen.sighting.as_ref().map(|sighting| sighting.info.worker_id.to_string());
        if named.as_deref() != name {
            return false;
        }
        if name.is_some() && !seen.compared {
            // What is wanted of it was kept back until now.
            seen.compared = true;
            self.tell.notify_one();
        }
        let differs = seen.same_as != other;
        seen.same_as = other;
        differs
    }

    /// What it shows may have changed.
    pub fn touch(&self) {
        lock(&self.seen).mark += 1;
        self.look.notify_one();
    }

    /// What it shows is not known any more: somebody else may have called it.
    pub fn forget_observed(&self) {
        let mut seen = lock(&self.seen);
        seen.observed = None;
        seen.mark += 1;
        drop(seen);
        self.look.notify_one();
    }

    /// A call for a seat has begun or ended.
    pub fn called(&self, key: &SeatKey) {
        let mut seen = lock(&self.seen);
        seen.mark += 1;
        let mark = seen.mark;
        seen.called.insert(key.clone(), mark);
        drop(seen);
        self.look.notify_one();
    }

    /// It said that it is full.
    pub fn is_full(&self) {
        lock(&self.seen).full_until = Some(Instant::now() + FULL_FOR);
    }

    /// How far an image is on it.
    pub fn set_image(&self, image: &ImageRef, sight: ImageSight) {
        lock(&self.seen).images.insert(image.clone(), sight);
    }

    /// Has it end a session, as soon as it answers.
    pub fn revoke(&self, sessions: &[RevokedSession]) {
        let until = Instant::now() + REVOKED_FOR;
        lock(&self.revoked).extend(sessions.iter().map(|session| (session.clone(), until)));
        self.tell.notify_one();
    }

    /// There is something to tell it.
    pub fn tell(&self) {
        self.tell.notify_one();
    }

    /// Notes what a call came to.
    pub fn heard<T>(&self, result: &Result<T, RuntimeError>) {
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        match result {
            Err(error) if is_token_refused(error) => {
                seen.pulse.heard(Answer::TokenRefused, now);
                seen.last_error = Some(error.to_string());
            }
            Err(error) if is_incompatible(error) => {
                seen.pulse.heard(Answer::NotUnderstood, now);
                seen.last_error = Some(error.to_string());
            }
            Err(error @ RuntimeError::Unavailable { .. }) => seen.last_error = Some(error.to_string()),
            // A refusal is an answer too.
            _ => {
                seen.pulse.heard(Answer::Good, now);
                seen.last_error = None;
            }
        }
    }

    /// Waits until what it shows is known as of now, at most until `deadline`. Whether it is.
    pub async fn fresh(&self, deadline: Instant) -> bool {
        let (mark, known) = {
            let seen = lock(&self.seen);
            (seen.mark, seen.observed.as_ref().is_some_and(|observed| observed.mark >= seen.mark))
        };
        if known {
            return true;
        }
        self.look.notify_one();
        let mut looked = self.looked.subscribe();
        let looked = looked.wait_for(|looked| *looked >= mark);
        tokio::time::timeout_at(deadline, looked).await.is_ok_and(|looked| looked.is_ok())
    }

    /// Asks and tells until it is stopped.
    pub async fn run(self: Arc<Self>, around: Surroundings, store: Arc<dyn Store>) {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = self.keep_asking(&around, &*store) => {}
            () = self.keep_looking(&around) => {}
            () = self.keep_watching() => {}
        }
    }
}
