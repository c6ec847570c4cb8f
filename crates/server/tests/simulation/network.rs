//! The network between one server and one worker: messages are late, lost, doubled and cut off.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::agent::{DrainBody, Revocations, SeatKeys, SessionAtSeat, WorkerInfo};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
};
use clarateach_runtime_worker::{Sighting, Worker};
use jiff::SignedDuration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::gate::Gate;
use crate::host::Host;
use crate::time::SimulatedClock;
use crate::world::World;

/// How long a client waits, as the real one.
const CALL_WITHIN: Duration = Duration::from_secs(10);
const WATCH_HELD: Duration = Duration::from_secs(30);
const WATCH_WITHIN: Duration = Duration::from_secs(40);
const REFUSED_AFTER: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
/// Milliseconds that a late message takes.
const LATE: std::ops::Range<u64> = 500..25_000;
/// Milliseconds until a doubled request is carried out again.
const AGAIN: std::ops::Range<u64> = 1..180_000;

/// Which directions of a connection are cut.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    pub(crate) to_worker: AtomicBool,
    pub(crate) from_worker: AtomicBool,
}

impl Cut {
    pub(crate) fn set(&self, to_worker: bool, from_worker: bool) {
        self.to_worker.store(to_worker, Ordering::Relaxed);
        self.from_worker.store(from_worker, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
enum Request {
    Apply(Box<DesiredSeat>),
    Remove(SeatKey, Generation),
    TakeBack(SeatKey, Generation),
    Drain(bool),
    Observe,
    Info,
    Nothing,
}

impl Request {
    /// How it shows in the trace; what only looks does not.
    fn name(&self) -> Option<String> {
        match self {
            Self::Apply(desired) => Some(format!("apply {} {}", desired.key, desired.generation)),
            Self::Remove(key, generation) => Some(format!("remove {key} {generation}")),
            Self::TakeBack(key, generation) => Some(format!("take back {key} {generation}")),
            Self::Drain(draining) => Some(format!("drain {draining}")),
            Self::Observe | Self::Info | Self::Nothing => None,
        }
    }
}

#[derive(Debug)]
enum Answer {
    Done,
    TakenBack(bool),
    Drained(DrainBody),
    Shown(Vec<Environment>),
    Said(Box<WorkerInfo>),
}

/// A server's client of a worker.
#[derive(Debug)]
pub(crate) struct Line {
    world: Weak<World>,
    host: Arc<Host>,
    gate: Arc<Gate>,
    cut: Arc<Cut>,
    /// The server's own clock.
    clock: Arc<SimulatedClock>,
    server: String,
    failed_watches: AtomicU32,
}

/// What the network does with one request.
#[derive(Debug)]
struct Fate {
    there: Duration,
    back: Duration,
    lost: bool,
    unanswered: bool,
    /// After how long it is carried out once more.
    again: Option<Duration>,
}

fn unavailable(host: &Host, why: &str) -> RuntimeError {
    RuntimeError::Unavailable { message: format!("worker {}: {why}", host.address) }
}

fn wrong_answer() -> RuntimeError {
    RuntimeError::Failed { operation: "ask a worker".to_owned(), message: "another answer".to_owned() }
}

async fn carry_out(host: &Arc<Host>, request: Request) -> Result<Answer, RuntimeError> {
    match request {
        Request::Apply(desired) => host.apply(&desired).map(|()| Answer::Done),
        Request::Remove(key, generation) => host.remove(&key, generation).await.map(|()| Answer::Done),
        Request::TakeBack(key, generation) => host.take_back(&key, generation).await.map(Answer::TakenBack),
        Request::Drain(draining) => Ok(Answer::Drained(host.drain(draining))),
        Request::Observe => Ok(Answer::Shown(host.environments())),
        Request::Info => Ok(Answer::Said(Box::new(host.info()))),
        Request::Nothing => Ok(Answer::Done),
    }
}

impl Line {
    pub(crate) fn new(
        world: &Arc<World>,
        host: Arc<Host>,
        gate: Arc<Gate>,
        cut: Arc<Cut>,
        clock: Arc<SimulatedClock>,
        server: &str,
    ) -> Self {
        let (world, server) = (Arc::downgrade(world), server.to_owned());
        Self { world, host, gate, cut, clock, server, failed_watches: AtomicU32::new(0) }
    }

    /// One request and its answer.
    async fn call(&self, request: Request) -> Result<Answer, RuntimeError> {
        self.gate.pass().await;
        let answer = timeout(CALL_WITHIN, self.send(request)).await;
        self.gate.pass().await;
        answer.unwrap_or_else(|_| Err(unavailable(&self.host, "no answer within 10 s")))
    }

    /// What becomes of a request; only what changes something is ever doubled.
    fn draw(&self, changes: bool) -> Option<Fate> {
        let world = self.world.upgrade()?;
        let weather = world.weather();
        let mut dice = world.dice();
        let travel = |dice: &mut Dice| {
            if dice.chance(weather.late) { dice.span(&LATE) } else { dice.span(&weather.travel) }
        };
        let (there, back) = (travel(&mut dice), travel(&mut dice));
        let lost = dice.chance(weather.lost_requests);
        let unanswered = dice.chance(weather.lost_answers);
        let again = changes && dice.chance(weather.doubled);
        let again = again.then(|| travel(&mut dice) + dice.span(&AGAIN));
        Some(Fate { there, back, lost, unanswered, again })
    }

    /// What the network does with a request; it goes on when nobody waits for the answer any more.
    async fn send(&self, request: Request) -> Result<Answer, RuntimeError> {
        let name = request.name();
        let Some(Fate { there, back, lost, unanswered, again }) = self.draw(name.is_some()) else {
            return std::future::pending().await;
        };
        let (reply, answer) = oneshot::channel();
        let (host, cut, line) = (Arc::clone(&self.host), Arc::clone(&self.cut), self.server.clone());
        let weak = self.world.clone();
        let once = {
            let (host, cut, request, name) =
                (Arc::clone(&host), Arc::clone(&cut), request.clone(), name.clone());
            async move {
                sleep(there).await;
                if lost || cut.to_worker.load(Ordering::Relaxed) || !host.is_up() {
                    return;
                }
                if !host.answers() {
                    sleep(REFUSED_AFTER).await;
                    let _ = reply.send(Err(unavailable(&host, "connection refused")));
                    return;
                }
                let breaks = host.breaks.now();
                let done = carry_out(&host, request).await;
                if let (Some(name), Some(world)) = (name, weak.upgrade()) {
                    let done = done.as_ref().map(|_| "done").map_err(ToString::to_string);
                    world.trace.note(&format!("{line} → {}: {name}: {done:?}", host.id));
                }
                sleep(back).await;
                if unanswered || cut.from_worker.load(Ordering::Relaxed) || !host.is_up() {
                    // Kept open: whoever waits hears nothing, as long as it likes.
                    sleep(WATCH_WITHIN).await;
                    return;
                }
                let broken = breaks != host.breaks.now();
                let _ = reply.send(if broken { Err(unavailable(&host, "connection reset")) } else { done });
            }
        };
        tokio::spawn(once);
        if let Some(later) = again {
            let weak = self.world.clone();
            let line = self.server.clone();
            tokio::spawn(async move {
                sleep(later).await;
                if cut.to_worker.load(Ordering::Relaxed) || !host.answers() {
                    return;
                }
                let done = carry_out(&host, request).await;
                if let (Some(name), Some(world)) = (name, weak.upgrade()) {
                    let done = done.as_ref().map(|_| "done").map_err(ToString::to_string);
                    world.trace.note(&format!("{line} → {}: {name}, once more: {done:?}", host.id));
                }
            });
        }
        match answer.await {
            Ok(answer) => answer,
            // Lost on the way.
            Err(_) => std::future::pending().await,
        }
    }

    /// A watch held open by the agent.
    async fn hold(&self, since: Revision) -> Option<Revision> {
        self.gate.pass().await;
        let travel = {
            let world = self.world.upgrade()?;
            let weather = world.weather();
            let mut dice = world.dice();
            if dice.chance(weather.lost_requests) { None } else { Some(dice.span(&weather.travel)) }
        };
        let held = async {
            sleep(travel?).await;
            if self.cut.to_worker.load(Ordering::Relaxed) || !self.host.is_up() {
                return std::future::pending().await;
            }
            if !self.host.answers() {
                return None;
            }
            let breaks = self.host.breaks.now();
            let revision = tokio::select! {
                biased;
                _ = self.host.breaks.until(|now| now != breaks) => return None,
                revision = self.host.changed(since) => revision,
                () = sleep(WATCH_HELD) => since,
            };
            if self.cut.from_worker.load(Ordering::Relaxed) || !self.host.is_up() {
                return std::future::pending().await;
            }
            Some(revision)
        };
        let revision = timeout(WATCH_WITHIN, held).await.ok().flatten();
        self.gate.pass().await;
        revision
    }
}

#[async_trait]
impl Runtime for Line {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Firecracker
    }

    async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    async fn resolve(&self, image: &ImageRef) -> Result<ImageRef, RuntimeError> {
        self.call(Request::Nothing).await.map(|_| image.clone())
    }

    async fn prepare(&self, _: &ImageRef, _: ProgressFn) -> Result<(), RuntimeError> {
        self.call(Request::Nothing).await.map(|_| ())
    }

    async fn apply(&self, desired: DesiredSeat) -> Result<(), RuntimeError> {
        self.call(Request::Apply(Box::new(desired))).await.map(|_| ())
    }

    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        match self.call(Request::Observe).await? {
            Answer::Shown(environments) => Ok(environments),
            _ => Err(wrong_answer()),
        }
    }

    async fn watch(&self, since: Revision) -> Revision {
        match self.hold(since).await {
            Some(revision) => {
                self.failed_watches.store(0, Ordering::Relaxed);
                revision
            }
            None => {
                let failures = self.failed_watches.fetch_add(1, Ordering::Relaxed);
                sleep(PAUSE.saturating_mul(1 << failures.min(10)).min(PAUSE_AT_MOST)).await;
                since
            }
        }
    }

    async fn remove(&self, key: &SeatKey, generation: Generation) -> Result<(), RuntimeError> {
        self.call(Request::Remove(key.clone(), generation)).await.map(|_| ())
    }

    async fn dial(&self, key: &SeatKey, _: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        Err(RuntimeError::NotFound { key: key.clone() })
    }

    async fn logs(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        Err(RuntimeError::NotFound { key: key.clone() })
    }

    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        let info = self.info().await?.info;
        Ok(Capacity { total: info.capacity, used: info.vm_count })
    }
}

#[async_trait]
impl SharedRuntime for Line {
    async fn take_back(&self, key: &SeatKey, generation: Generation) -> Result<bool, RuntimeError> {
        match self.call(Request::TakeBack(key.clone(), generation)).await? {
            Answer::TakenBack(taken_back) => Ok(taken_back),
            _ => Err(wrong_answer()),
        }
    }
}

#[async_trait]
impl Worker for Line {
    async fn info(&self) -> Result<Sighting, RuntimeError> {
        let began = Instant::now();
        match self.call(Request::Info).await? {
            Answer::Said(info) => {
                let skew: SignedDuration = self.host.clock.skew() - self.clock.skew();
                // One installation, and nobody else drains.
                let drained_by_us = info.draining;
                let round_trip = began.elapsed();
                Ok(Sighting { info: *info, drained_by_us, clock_skew: Some(skew), round_trip })
            }
            _ => Err(wrong_answer()),
        }
    }

    async fn set_keys(&self, _: &SeatKeys) -> Result<(), RuntimeError> {
        self.call(Request::Nothing).await.map(|_| ())
    }

    async fn revoke(&self, _: &Revocations) -> Result<(), RuntimeError> {
        self.call(Request::Nothing).await.map(|_| ())
    }

    async fn sessions(&self) -> Result<Vec<SessionAtSeat>, RuntimeError> {
        self.call(Request::Nothing).await.map(|_| Vec::new())
    }

    async fn drain(&self, draining: bool) -> Result<DrainBody, RuntimeError> {
        match self.call(Request::Drain(draining)).await? {
            Answer::Drained(body) => Ok(body),
            _ => Err(wrong_answer()),
        }
    }
}
