//! A worker's host and its agent, as far as a control plane can tell: environments, their disks, and the generations
//! that the agent has written down.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use clarateach_api::agent::{DrainBody, HostView, MemoryView, VmmView, WorkerInfo};
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    DesiredSeat, Environment, EnvironmentState, Reason, Revision, RuntimeError, RuntimeKind,
};
use clarateach_server::app::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, sleep};

use crate::bell::Bell;
use crate::time::SimulatedClock;
use crate::world::World;

/// Milliseconds that a removal takes.
const REMOVAL: std::ops::Range<u64> = 5..300;
/// How often an agent looks whose time is up.
const END_TICK: Duration = Duration::from_secs(5);
/// How much later than its end something may still be there.
const END_GRACE: SignedDuration = SignedDuration::from_secs(11);

#[derive(Debug, Clone, Copy)]
struct Seen {
    generation: Generation,
    removed: bool,
}

#[derive(Debug)]
struct Seat {
    generation: Generation,
    state: EnvironmentState,
    reason: Option<Reason>,
    not_after: Option<Timestamp>,
    /// Moves on with each start, so that one that was overtaken notices.
    life: u64,
}

#[derive(Debug)]
struct State {
    seats: BTreeMap<SeatKey, Seat>,
    seen: BTreeMap<SeatKey, Seen>,
    lives: u64,
    agent_up: bool,
    host_up: bool,
    draining: bool,
    was_forgotten: bool,
    agent_since: Instant,
    skewed_at: Option<Instant>,
}

/// A host. Its disk outlives everything.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) address: String,
    pub(crate) capacity: u32,
    pub(crate) clock: SimulatedClock,
    world: Weak<World>,
    state: Mutex<State>,
    revision: Bell,
    /// Moves on when connections to the agent break.
    pub(crate) breaks: Bell,
}

/// Why an environment is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gone {
    /// A newer make of its seat took its place.
    Replaced,
    /// It was told to go.
    Removed,
    /// Its time was over.
    Expired,
}

impl Host {
    pub(crate) fn new(world: &Arc<World>, id: &str, capacity: u32) -> Arc<Self> {
        Arc::new(Self {
            id: id.to_owned(),
            address: format!("{id}.example:9090"),
            capacity,
            clock: SimulatedClock::new(tokio::time::Instant::now() - world.age()),
            world: Arc::downgrade(world),
            state: Mutex::new(State {
                seats: BTreeMap::new(),
                seen: BTreeMap::new(),
                lives: 0,
                agent_up: true,
                host_up: true,
                draining: false,
                was_forgotten: false,
                agent_since: Instant::now(),
                skewed_at: None,
            }),
            revision: Bell::new(1),
            breaks: Bell::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn world(&self) -> Option<Arc<World>> {
        self.world.upgrade()
    }

    fn publish(&self) {
        self.revision.ring();
    }

    /// Whether anything on it runs.
    pub(crate) fn is_up(&self) -> bool {
        self.state().host_up
    }

    /// Whether its agent answers.
    pub(crate) fn answers(&self) -> bool {
        let state = self.state();
        state.host_up && state.agent_up
    }

    pub(crate) fn was_forgotten(&self) -> bool {
        self.state().was_forgotten
    }

    /// The control plane has given it up: what is on it is lost to it, and goes when it comes back.
    pub(crate) fn forgotten(&self) {
        self.state().was_forgotten = true;
    }

    // --- what goes wrong -------------------------------------------------------------------------------------------

    /// The agent dies; environments live on.
    pub(crate) fn crash_agent(&self) {
        self.state().agent_up = false;
        self.breaks.ring();
    }

    /// It starts again and finishes what it had begun to remove.
    pub(crate) fn start_agent(self: &Arc<Self>) {
        {
            let mut state = self.state();
            (state.agent_up, state.agent_since) = (true, Instant::now());
        }
        self.clean_up();
        self.publish();
    }

    /// The host dies, with all that runs on it.
    pub(crate) fn die(&self) {
        let mut state = self.state();
        state.host_up = false;
        for seat in state.seats.values_mut() {
            seat.life = 0;
        }
    }

    /// It is back: what is wanted starts again from its disk.
    pub(crate) fn come_back(self: &Arc<Self>) {
        let again: Vec<SeatKey> = {
            let mut state = self.state();
            state.host_up = true;
            (state.agent_up, state.agent_since) = (true, Instant::now());
            let again = state.seats.iter_mut().filter(|(_, seat)| {
                matches!(
                    seat.state,
                    EnvironmentState::Ready | EnvironmentState::Starting | EnvironmentState::Unresponsive
                )
            });
            again.map(|(key, _)| key.clone()).collect()
        };
        self.clean_up();
        for key in again {
            self.start(&key);
        }
        self.publish();
    }

    fn clean_up(self: &Arc<Self>) {
        let half_gone: Vec<SeatKey> = {
            let state = self.state();
            let half_gone = state.seats.iter().filter(|(key, seat)| {
                state.seen.get(*key).is_some_and(|seen| seen.removed && seen.generation >= seat.generation)
            });
            half_gone.map(|(key, _)| key.clone()).collect()
        };
        for key in half_gone {
            self.erase(&key, None, Gone::Removed);
        }
    }

    /// An environment ends; its disk stays.
    pub(crate) fn end(&self, key: &SeatKey) {
        self.change(key, |seat| {
            if matches!(seat.state, EnvironmentState::Ready | EnvironmentState::Unresponsive) {
                seat.state = EnvironmentState::Stopped;
                seat.reason = Some(Reason::new("EXITED", "It was killed"));
            }
        });
    }

    /// Its workspace falls silent.
    pub(crate) fn hush(&self, key: &SeatKey) {
        self.change(key, |seat| {
            if seat.state == EnvironmentState::Ready {
                seat.state = EnvironmentState::Unresponsive;
                seat.reason = Some(Reason::new("UNRESPONSIVE", "Its workspace does not answer"));
            }
        });
    }

    /// It speaks again.
    pub(crate) fn unhush(&self, key: &SeatKey) {
        self.change(key, |seat| {
            if seat.state == EnvironmentState::Unresponsive {
                seat.state = EnvironmentState::Ready;
                seat.reason = None;
            }
        });
    }

    fn change(&self, key: &SeatKey, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.state().seats.get_mut(key) {
            change(seat);
        }
        self.publish();
    }

    // --- what its agent does ---------------------------------------------------------------------------------------

    pub(crate) fn environments(&self) -> Vec<Environment> {
        let state = self.state();
        let environment = |(key, seat): (&SeatKey, &Seat)| Environment {
            key: key.clone(),
            generation: seat.generation,
            state: seat.state,
            reason: seat.reason.clone(),
            address: None,
            handle: None,
            not_after: seat.not_after,
        };
        state.seats.iter().map(environment).collect()
    }

    pub(crate) fn info(&self) -> WorkerInfo {
        let state = self.state();
        let kind = RuntimeKind::Firecracker.as_str().to_owned();
        WorkerInfo {
            worker_id: format!("n{}", self.id).parse().unwrap(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            vmm: VmmView { kind, version: None, problem: None },
            bridge: None,
            capacity: self.capacity,
            vm_count: u32::try_from(state.seats.len()).unwrap(),
            memory: MemoryView { total_mb: 1, available_mb: 1 },
            images: Vec::new(),
            kernel_version: None,
            draining: state.draining,
            drained_by: None,
            preempted: false,
            public_url: None,
            uptime_seconds: 1,
            host: HostView { hostname: self.id.clone(), kernel: "6".to_owned(), cpus: 1 },
            warnings: Vec::new(),
        }
    }

    pub(crate) fn drain(&self, draining: bool) -> DrainBody {
        let mut state = self.state();
        state.draining = draining;
        DrainBody { draining, vm_count: u32::try_from(state.seats.len()).unwrap() }
    }

    pub(crate) async fn changed(&self, since: Revision) -> Revision {
        Revision(self.revision.until(|revision| revision != since.0).await)
    }

    /// Writes a decision down, or refuses it as stale.
    fn decide(
        state: &mut State,
        key: &SeatKey,
        given: Generation,
        removed: bool,
    ) -> Result<(), RuntimeError> {
        if let Some(seen) = state.seen.get(key)
            && (given < seen.generation || (given == seen.generation && seen.removed && !removed))
        {
            return Err(RuntimeError::StaleGeneration { key: key.clone(), given, seen: seen.generation });
        }
        state.seen.insert(key.clone(), Seen { generation: given, removed });
        Ok(())
    }

    pub(crate) fn apply(self: &Arc<Self>, desired: &DesiredSeat) -> Result<(), RuntimeError> {
        let (key, generation) = (&desired.key, desired.generation);
        if desired.not_after.is_some_and(|at| at <= self.clock.now()) {
            return Err(RuntimeError::InvalidSpec { message: "the time it is to end has passed".to_owned() });
        }
        let replaced = {
            let mut state = self.state();
            let there = state.seats.get(key).map(|seat| (seat.generation, seat.state));
            let used = u32::try_from(state.seats.len()).unwrap();
            if there.is_none() && (used >= self.capacity || state.draining) {
                return Err(RuntimeError::AtCapacity { used, total: self.capacity });
            }
            Self::decide(&mut state, key, generation, false)?;
            let lives = !matches!(
                there,
                Some((_, EnvironmentState::Stopped | EnvironmentState::Failed | EnvironmentState::Removing))
                    | None
            );
            if lives && there.is_some_and(|(of, _)| of == generation) {
                let had_one = state
                    .seats
                    .get_mut(key)
                    .and_then(|seat| std::mem::replace(&mut seat.not_after, desired.not_after));
                drop(state);
                if let (None, Some(at)) = (had_one, desired.not_after) {
                    self.end_at(key.clone(), generation, at);
                }
                return Ok(());
            }
            let replaced = there.filter(|(of, _)| *of != generation).map(|(of, _)| of);
            state.seats.insert(
                key.clone(),
                Seat {
                    generation,
                    state: EnvironmentState::Starting,
                    reason: None,
                    not_after: desired.not_after,
                    life: 0,
                },
            );
            replaced
        };
        if let Some(world) = self.world() {
            if let Some(replaced) = replaced {
                world.gone(self, key, replaced, Gone::Replaced);
            }
            world.made(self, key, generation);
        }
        self.start(key);
        if let Some(at) = desired.not_after {
            self.end_at(key.clone(), generation, at);
        }
        self.publish();
        Ok(())
    }

    fn start(self: &Arc<Self>, key: &SeatKey) {
        let Some(world) = self.world() else { return };
        let weather = world.weather();
        let (takes, fails) = {
            let mut dice = world.dice();
            let slow = dice.chance(weather.slow_starts);
            let takes = if slow { dice.span(&(60_000..150_000)) } else { dice.span(&weather.start) };
            (takes, dice.chance(weather.failing_starts))
        };
        let life = {
            let mut state = self.state();
            state.lives += 1;
            let life = state.lives;
            let Some(seat) = state.seats.get_mut(key) else { return };
            (seat.life, seat.state, seat.reason) = (life, EnvironmentState::Starting, None);
            life
        };
        let (host, key) = (Arc::clone(self), key.clone());
        tokio::spawn(async move {
            sleep(takes).await;
            let ready = {
                let mut state = host.state();
                let Some(seat) = state.seats.get_mut(&key).filter(|seat| seat.life == life) else { return };
                if seat.state != EnvironmentState::Starting {
                    return;
                }
                if fails {
                    seat.state = EnvironmentState::Failed;
                    seat.reason = Some(Reason::new("START_FAILED", "It could not be started"));
                } else {
                    seat.state = EnvironmentState::Ready;
                }
                (!fails).then_some(seat.generation)
            };
            if let (Some(generation), Some(world)) = (ready, host.world()) {
                world.ready(&host, &key, generation);
            }
            host.publish();
        });
    }

    /// What should have ended by its own clock and has not, although its agent has had the time for it.
    pub(crate) fn overdue(&self) -> Option<SeatKey> {
        let state = self.state();
        let up = state.host_up && state.agent_up && state.agent_since.elapsed() > END_TICK * 2;
        let before = self.clock.now().checked_sub(END_GRACE).ok()?;
        let skewed = state.skewed_at.is_some_and(|at| at.elapsed() <= END_TICK * 2);
        let late = |seat: &Seat| seat.not_after.is_some_and(|at| at < before);
        let mut late =
            state.seats.iter().filter(|(_, seat)| late(seat) && seat.state != EnvironmentState::Removing);
        late.next().filter(|_| up && !skewed).map(|(key, _)| key.clone())
    }

    /// Sets its clock wrong, or right.
    pub(crate) fn set_skew(&self, milliseconds: i64) {
        self.clock.set_skew(milliseconds);
        self.state().skewed_at = Some(Instant::now());
    }

    /// Cut off, it ends what nobody told it to keep; when the agent is back, if it wasn't there at the time.
    fn end_at(self: &Arc<Self>, key: SeatKey, generation: Generation, at: Timestamp) {
        let host = Arc::clone(self);
        tokio::spawn(async move {
            let mut at = at;
            loop {
                let left = Duration::try_from(at.duration_since(host.clock.now())).unwrap_or(Duration::ZERO);
                sleep(left.clamp(Duration::from_millis(10), END_TICK)).await;
                let moved = {
                    let state = host.state();
                    let seat = state.seats.get(&key).filter(|seat| seat.generation == generation);
                    let Some(seat) = seat else { return };
                    seat.not_after
                };
                match moved {
                    None => return,
                    Some(moved) if moved > host.clock.now() => at = moved,
                    Some(_) if !host.answers() => sleep(END_TICK).await,
                    Some(_) => break,
                }
            }
            host.erase(&key, Some(generation), Gone::Expired);
        });
    }

    pub(crate) async fn remove(
        self: &Arc<Self>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<(), RuntimeError> {
        let there = {
            let mut state = self.state();
            Self::decide(&mut state, key, generation, true)?;
            let seat = state.seats.get_mut(key).filter(|seat| seat.generation <= generation);
            seat.map(|seat| {
                seat.state = EnvironmentState::Removing;
                seat.life = 0;
            })
        };
        if there.is_none() {
            return Ok(());
        }
        self.publish();
        let takes = self.world().map_or(Duration::ZERO, |world| world.dice().span(&REMOVAL));
        sleep(takes).await;
        if !self.answers() {
            return Err(RuntimeError::Unavailable { message: "the agent has died".to_owned() });
        }
        let still = self.state().seats.get(key).is_some_and(|seat| seat.generation <= generation);
        if still {
            self.erase(key, None, Gone::Removed);
        }
        Ok(())
    }

    /// As a removal, unless this very make has been begun.
    pub(crate) async fn take_back(
        self: &Arc<Self>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<bool, RuntimeError> {
        let begun =
            self.state().seats.get(key).is_some_and(|seat| {
                seat.generation == generation && seat.state != EnvironmentState::Removing
            });
        if begun {
            return Ok(false);
        }
        self.remove(key, generation).await.map(|()| true)
    }

    /// Nothing is left of it, its disk included.
    fn erase(&self, key: &SeatKey, only: Option<Generation>, how: Gone) {
        let gone = {
            let mut state = self.state();
            let there = state.seats.get(key).is_some_and(|s| only.is_none_or(|only| only == s.generation));
            if there { state.seats.remove(key) } else { None }
        };
        if let (Some(gone), Some(world)) = (gone, self.world()) {
            world.gone(self, key, gone.generation, how);
        }
        self.publish();
    }
}
