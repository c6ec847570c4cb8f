//! One worker: what is known of it, and the tasks that find out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_api::agent::{Revocations, RevokedSession, SeatKeys};
use clarateach_ids::{SeatKey, SessionId};
use clarateach_runtime::{Environment, ImageRef, Revision, RuntimeError, RuntimeKind};
use clarateach_runtime_worker::{Sighting, Worker, is_incompatible, is_token_refused};
use clarateach_store::{Store, WorkerRecord, WorkerWish};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::{Notify, Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::health::{Answer, Health, Pulse, speaks_with};
use super::placement::ImageSight;
use crate::app::clock::Clock;

/// Seats of one worker that are made or removed at once.
const CALLS_AT_ONCE: usize = 8;
/// How often a worker is asked what it is and has.
const INFO_PERIOD: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const INFO_WITHIN: Duration = Duration::from_secs(8);
/// How long it may take to show its environments.
const OBSERVE_WITHIN: Duration = Duration::from_secs(10);
/// After a look that failed, wait this long.
const OBSERVE_RETRY: Duration = Duration::from_secs(1);
/// Changes that come one after the other are looked at together.
const OBSERVE_PAUSE: Duration = Duration::from_millis(10);
/// What was seen is looked at again at least this often, whatever its watch says.
const OBSERVED_FOR: Duration = Duration::from_secs(15);
/// A watch that reports nothing new is not asked faster than this.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// A worker that said that it is full is not asked again before.
const FULL_FOR: Duration = Duration::from_secs(5);
/// The most that clocks may differ: seat tokens and ends of seats are read by the worker's clock.
pub const MAX_SKEW: SignedDuration = SignedDuration::from_secs(60);
/// How long an ended session is told to a worker that does not answer: twice the life of a token.
const REVOKED_FOR: Duration = Duration::from_secs(600);
/// The most sessions in one call.
const REVOKED_AT_ONCE: usize = 1000;

/// A worker's environments, by seat.
pub type Environments = Arc<BTreeMap<SeatKey, Environment>>;

/// What a worker showed.
#[derive(Debug)]
struct Observed {
    environments: Environments,
    /// Changes known of when it was asked.
    mark: u64,
    at: Instant,
}

/// What is known of a worker.
#[derive(Debug)]
pub struct Seen {
    record: WorkerRecord,
    pulse: Pulse,
    kind: Option<RuntimeKind>,
    sighting: Option<Sighting>,
    last_seen_at: Option<Timestamp>,
    last_error: Option<String>,
    observed: Option<Observed>,
    /// Counts what may have changed what it shows.
    mark: u64,
    /// Seats that were called, each with the mark of then.
    called: BTreeMap<SeatKey, u64>,
    images: HashMap<ImageRef, ImageSight>,
    full_until: Option<Instant>,
    /// Another worker that is the same host, and goes first.
    same_as: Option<String>,
    /// Whether the name that it gives itself was compared with the others'.
    compared: bool,
    /// Whether it has these keys.
    keys: Option<SeatKeys>,
    /// Whether the agent is to be told that it takes seats again.
    undrain: bool,
    /// Learners who use their seats at the worker itself, and when they were last heard of.
    learners: BTreeMap<SessionId, Timestamp>,
}

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
        let asking = async {
            loop {
                self.ask(&around, &*store).await;
                tokio::select! {
                    biased;
                    () = self.tell.notified() => {}
                    () = tokio::time::sleep(INFO_PERIOD) => {}
                }
            }
        };
        let looking = async {
            loop {
                self.look(&around).await;
            }
        };
        let watching = async {
            let mut since = Revision::default();
            loop {
                let revision = self.worker.watch(since).await;
                if revision == since {
                    tokio::time::sleep(WATCH_PAUSE).await;
                } else {
                    since = revision;
                    self.touch();
                }
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = asking => {}
            () = looking => {}
            () = watching => {}
        }
    }

    async fn ask(&self, around: &Surroundings, store: &dyn Store) {
        let before = self.health();
        let began = Instant::now();
        let asked = timeout(INFO_WITHIN, self.worker.info()).await;
        let result = asked.unwrap_or_else(|_| {
            let message = format!("worker {}: no answer within {} s", self.id, INFO_WITHIN.as_secs());
            Err(RuntimeError::Unavailable { message })
        });
        metrics::histogram!("clarateach_worker_call_seconds", "call" => "info")
            .record(began.elapsed().as_secs_f64());
        match result {
            Ok(sighting) => {
                // Before anything is placed there: a server that never reached it, and takes over what is placed, must know
                // whose seats to look for.
                self.note_kind(&sighting, store).await;
                self.meet(sighting, around);
                self.tell_all(around, store).await;
            }
            Err(error) => {
                tracing::debug!(worker = %self.id, %error, "the worker did not say how it is");
                self.heard::<()>(&Err(error));
            }
        }
        let stale = self.with(|seen| seen.observed.as_ref().is_none_or(|o| o.at.elapsed() >= OBSERVED_FOR));
        if stale {
            self.touch();
        }
        let after = self.health();
        if before != after {
            if after == Health::Alive {
                tracing::info!(worker = %self.id, "the worker answers");
                // It may have been started anew with nothing of what it was told.
                lock(&self.seen).keys = None;
                self.tell.notify_one();
            } else {
                let why = self.with(|seen| seen.last_error.clone());
                tracing::warn!(worker = %self.id, state = after.as_str(), why, "the worker is not well");
            }
            around.changed();
        }
    }

    /// Writes down which kind of seats it makes, if that is news to the store.
    async fn note_kind(&self, sighting: &Sighting, store: &dyn Store) {
        let Ok(kind) = sighting.info.vmm.kind.parse::<RuntimeKind>() else { return };
        if self.with(|seen| seen.record.kind.as_deref() == Some(kind.as_str())) {
            return;
        }
        match store.note_worker_kind(&self.id, kind.as_str()).await {
            Ok(()) => lock(&self.seen).record.kind = Some(kind.as_str().to_owned()),
            Err(error) => tracing::debug!(worker = %self.id, %error, "the worker's kind could not be noted"),
        }
    }

    /// Takes in what it says of itself.
    fn meet(&self, sighting: Sighting, around: &Surroundings) {
        let speaks = speaks_with(env!("CARGO_PKG_VERSION"), &sighting.info.version);
        let answer = if speaks { Answer::Good } else { Answer::OtherVersion };
        let kind: Option<RuntimeKind> = sighting.info.vmm.kind.parse().ok();
        let mut seen = lock(&self.seen);
        let first = seen.sighting.is_none();
        let differs = seen.sighting.as_ref().is_none_or(|before| {
            let by_us = (before.drained_by_us, sighting.drained_by_us);
            let (before, now) = (&before.info, &sighting.info);
            (before.capacity, before.draining, by_us.0, before.preempted, &before.worker_id)
                != (now.capacity, now.draining, by_us.1, now.preempted, &now.worker_id)
        });
        if seen.sighting.as_ref().is_some_and(|before| before.info.worker_id != sighting.info.worker_id) {
            // Another host behind the same address.
            seen.observed = None;
            seen.images.clear();
            seen.keys = None;
            seen.compared = false;
        }
        seen.pulse.introduced(answer, Instant::now());
        seen.last_seen_at = Some(around.clock.now());
        seen.last_error = None;
        seen.sighting = Some(sighting);
        let news = kind.is_some() && seen.kind != kind;
        if news {
            seen.kind = kind;
        }
        if first {
            seen.mark += 1;
        }
        drop(seen);
        if first {
            self.look.notify_one();
        }
        if differs || news {
            around.changed();
        }
    }

    /// Tells it what it has not been told yet; what it does not take is told again with the next look.
    async fn tell_all(&self, around: &Surroundings, store: &dyn Store) {
        let (wish, undrain, draining, by_us, public, double) = self.with(|seen| {
            let draining = seen.sighting.as_ref().is_some_and(|sighting| sighting.info.draining);
            let public = seen.record.public_url.is_some();
            let by_us = seen.is_drained_by_us();
            let double = seen.same_as.is_some() || seen.is_newcomer();
            (seen.record.wish, seen.undrain, draining, by_us, public, double)
        });
        let drain = match wish {
            // What is wanted of a host is wanted of it under the name that goes first.
            _ if double => None,
            WorkerWish::Draining if !draining => Some(true),
            WorkerWish::Active if undrain => Some(false),
            // Who was to tell it that the drain is over may have died first, or an old call came late.
            WorkerWish::Active if by_us && self.is_still_wanted(store).await => Some(false),
            _ => None,
        };
        if let Some(drain) = drain {
            let told = self.worker.drain(drain).await;
            match &told {
                Ok(body) => {
                    self.drains(drain, body.draining);
                    around.changed();
                }
                Err(error) => tracing::warn!(worker = %self.id, %error, "the worker was not told to drain"),
            }
        }
        if !public {
            lock(&self.revoked).clear();
            lock(&self.seen).learners.clear();
            return;
        }
        let keys = lock(&around.keys).clone();
        if let Some(keys) = keys.filter(|keys| self.with(|seen| seen.keys.as_ref() != Some(keys))) {
            match self.worker.set_keys(&keys).await {
                Ok(()) => lock(&self.seen).keys = Some(keys),
                Err(error) => tracing::warn!(worker = %self.id, %error, "the worker did not take the keys"),
            }
        }
        self.tell_revoked().await;
        self.ask_learners(around).await;
    }

    /// Asks who uses a seat there. By our own clock.
    async fn ask_learners(&self, around: &Surroundings) {
        let learners = match self.worker.sessions().await {
            Ok(sessions) => {
                let now = around.clock.now();
                let heard = |idle: u64| {
                    let ago = SignedDuration::from_secs(i64::try_from(idle).unwrap_or(i64::MAX));
                    now.checked_sub(ago).unwrap_or(Timestamp::UNIX_EPOCH)
                };
                sessions.into_iter().map(|s| (s.session_id, heard(s.idle_seconds))).collect()
            }
            Err(error) => {
                tracing::debug!(worker = %self.id, %error, "the worker did not say who is at its seats");
                BTreeMap::new()
            }
        };
        lock(&self.seen).learners = learners;
    }

    /// Whether the store wants it to take seats now: another server may have begun a drain a moment ago.
    async fn is_still_wanted(&self, store: &dyn Store) -> bool {
        let workers = store.workers().await.unwrap_or_default();
        workers.iter().any(|worker| worker.id == self.id && worker.wish == WorkerWish::Active)
    }

    fn drains(&self, told: bool, draining: bool) {
        let mut seen = lock(&self.seen);
        seen.undrain = false;
        if let Some(sighting) = &mut seen.sighting {
            sighting.info.draining = draining;
            sighting.drained_by_us &= told;
        }
    }

    async fn tell_revoked(&self) {
        loop {
            let now = Instant::now();
            let some: Vec<_> = {
                let mut revoked = lock(&self.revoked);
                revoked.retain(|(_, until)| *until > now);
                revoked.iter().take(REVOKED_AT_ONCE).map(|(session, _)| session.clone()).collect()
            };
            if some.is_empty() {
                return;
            }
            let sent = some.len();
            if let Err(error) = self.worker.revoke(&Revocations { sessions: some }).await {
                tracing::warn!(worker = %self.id, %error, "the worker was not told which sessions ended");
                return;
            }
            lock(&self.revoked).drain(..sent);
        }
    }

    /// Takes in what it showed. Whether it differs from before.
    fn saw(&self, environments: BTreeMap<SeatKey, Environment>, mark: u64) -> bool {
        let mut seen = lock(&self.seen);
        let differs = seen.observed.as_ref().is_none_or(|before| *before.environments != environments);
        seen.observed = Some(Observed { environments: Arc::new(environments), mark, at: Instant::now() });
        seen.called.retain(|_, called| *called > mark);
        drop(seen);
        self.looked.send_replace(mark);
        differs
    }

    /// Looks at what it shows as soon as that may have changed.
    async fn look(&self, around: &Surroundings) {
        let mark = loop {
            let (mark, known, introduced) = self.with(|seen| {
                let known = seen.observed.as_ref().map_or(0, |observed| observed.mark);
                (seen.mark, known, seen.sighting.is_some())
            });
            // What it has is believed once it is known who it is.
            if mark > known && introduced {
                break mark;
            }
            self.look.notified().await;
        };
        let began = Instant::now();
        let asked = timeout(OBSERVE_WITHIN, self.worker.observe()).await;
        let result = asked.unwrap_or_else(|_| {
            let message =
                format!("worker {}: did not show its seats within {} s", self.id, OBSERVE_WITHIN.as_secs());
            Err(RuntimeError::Unavailable { message })
        });
        metrics::histogram!("clarateach_worker_call_seconds", "call" => "observe")
            .record(began.elapsed().as_secs_f64());
        self.heard(&result);
        match result {
            Ok(environments) => {
                let environments: BTreeMap<_, _> =
                    environments.into_iter().map(|e| (e.key.clone(), e)).collect();
                if self.saw(environments, mark) {
                    around.changed();
                }
                tokio::time::sleep(OBSERVE_PAUSE).await;
            }
            Err(error) => {
                tracing::debug!(worker = %self.id, %error, "the worker did not show its seats");
                tokio::time::sleep(OBSERVE_RETRY).await;
            }
        }
    }
}

impl Seen {
    /// As it is recorded.
    pub const fn record(&self) -> &WorkerRecord {
        &self.record
    }

    /// What it said of itself last.
    pub const fn sighting(&self) -> Option<&Sighting> {
        self.sighting.as_ref()
    }

    /// When that was.
    pub const fn last_seen_at(&self) -> Option<Timestamp> {
        self.last_seen_at
    }

    /// What it showed last, with the seats that were called since; whether it is as of now.
    pub fn observed(&self) -> Option<(Environments, BTreeSet<SeatKey>, bool)> {
        let observed = self.observed.as_ref()?;
        let called = self.called.iter().filter(|(_, mark)| **mark > observed.mark);
        Some((
            Arc::clone(&observed.environments),
            called.map(|(key, _)| key.clone()).collect(),
            observed.mark >= self.mark,
        ))
    }

    /// How many environments it showed last.
    pub fn shown(&self) -> u32 {
        let count = self.observed.as_ref().map_or(0, |observed| observed.environments.len());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many seats fit: what its agent says, or less where less was asked for.
    pub fn capacity(&self) -> u32 {
        let said = self.sighting.as_ref().map(|sighting| sighting.info.capacity);
        match (said, self.record.capacity) {
            (Some(said), Some(given)) => said.min(given),
            (said, given) => said.or(given).unwrap_or(0),
        }
    }

    /// Whether it said a moment ago that it is full.
    pub fn is_full(&self) -> bool {
        self.full_until.is_some_and(|until| until > Instant::now())
    }

    /// How far an image is on it.
    pub fn image(&self, image: &ImageRef) -> ImageSight {
        self.images.get(image).copied().unwrap_or(ImageSight::Unknown)
    }

    /// Whether seats are to leave it.
    pub fn is_leaving(&self) -> bool {
        self.record.wish == WorkerWish::Draining
            || self.sighting.as_ref().is_some_and(|sighting| sighting.info.preempted)
    }

    /// Whether its agent takes no seats because a server of this installation told it so.
    fn is_drained_by_us(&self) -> bool {
        self.sighting.as_ref().is_some_and(|sighting| sighting.drained_by_us)
    }

    /// Whether learners may be sent to it directly.
    pub fn takes_learners(&self, keys: Option<&SeatKeys>) -> Option<&str> {
        let has_keys = self.keys.is_some() && self.keys.as_ref() == keys;
        self.record.public_url.as_deref().filter(|_| has_keys && self.pulse.answers(Instant::now()))
    }

    /// Why no new seats are placed on it, or what is wrong with it.
    pub fn problem(&self, local: &BTreeSet<RuntimeKind>) -> Option<String> {
        let now = Instant::now();
        let health = self.pulse.health(now);
        let said = || self.last_error.clone();
        match health {
            Health::Starting => return Some(said().unwrap_or_else(|| "It has not answered yet.".to_owned())),
            Health::Suspect | Health::Lost => {
                return Some(said().unwrap_or_else(|| "It does not answer.".to_owned()));
            }
            Health::Unauthorized => {
                return Some(said().unwrap_or_else(|| "It refuses the token.".to_owned()));
            }
            Health::Incompatible => {
                return Some(said().unwrap_or_else(|| {
                    let theirs = self.sighting.as_ref().map_or("?", |sighting| &sighting.info.version);
                    let ours = env!("CARGO_PKG_VERSION");
                    format!(
                        "Its agent is version {theirs}, which does not go with {ours}; upgrade the older one."
                    )
                }));
            }
            Health::Alive => {}
        }
        let sighting = self.sighting.as_ref()?;
        if let Some(other) = &self.same_as {
            return Some(format!(
                "It is the same host as worker {other}, by its own name; forget one of them."
            ));
        }
        if let Some(skew) = sighting.clock_skew.filter(|skew| skew.abs() > MAX_SKEW) {
            let seconds = skew.as_secs();
            return Some(format!("Its clock differs from the server's by {seconds} s; set both by NTP."));
        }
        match sighting.info.vmm.kind.parse::<RuntimeKind>() {
            Err(_) => {
                return Some(format!("It makes {:?} seats, which are not known.", sighting.info.vmm.kind));
            }
            Ok(kind) if local.contains(&kind) => {
                return Some(format!(
                    "This server makes {kind} seats itself; set VMM=off (or SIMULATED_RUNTIME=off) to use workers."
                ));
            }
            Ok(kind) if self.record.kind.as_deref() != Some(kind.as_str()) => {
                return Some(format!("That it makes {kind} seats could not be written down yet."));
            }
            Ok(_) => {}
        }
        if sighting.info.preempted {
            return Some("Its cloud is about to take it away.".to_owned());
        }
        if let Some(problem) = &sighting.info.vmm.problem {
            return Some(format!("It can't make seats: {problem}"));
        }
        if self.record.wish == WorkerWish::Active && self.is_drained_by_us() {
            return Some("Its agent has not been told yet that the drain is over.".to_owned());
        }
        if sighting.info.draining && self.record.wish == WorkerWish::Active && !self.undrain {
            return Some("Its agent takes no new seats: it was told to drain on the worker.".to_owned());
        }
        None
    }

    /// Whether it has said who it is, and nobody knows yet whether another worker is the same host.
    pub const fn is_newcomer(&self) -> bool {
        self.sighting.is_some() && !self.compared
    }

    /// Whether new seats may be placed on it.
    pub fn takes_seats(&self, local: &BTreeSet<RuntimeKind>) -> bool {
        self.record.wish == WorkerWish::Active
            && self.compared
            && self.sighting.as_ref().is_some_and(|sighting| !sighting.info.draining)
            && self.problem(local).is_none()
    }
}
