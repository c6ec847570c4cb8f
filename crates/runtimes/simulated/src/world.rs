//! What there is: environments, their pretended disks and processes, and the faults that a test asks for.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, EnvironmentState, Generations, Reason, Revision,
    RuntimeError,
};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::time::{interval, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::mortal::Mortal;
use crate::workspace::{self, Disk};

const DEADLINE_TICK: Duration = Duration::from_millis(200);

/// How a world behaves when nothing goes wrong.
#[derive(Debug, Clone)]
pub struct SimulatedConfig {
    /// The most environments at once.
    pub capacity: u32,
    /// From which all times are drawn.
    pub seed: u64,
    /// How long a start takes.
    pub start: Range<Duration>,
    /// How long a removal takes.
    pub removal: Range<Duration>,
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        let start = Duration::from_millis(5)..Duration::from_millis(20);
        let removal = Duration::from_millis(1)..Duration::from_millis(5);
        Self { capacity: 10_000, seed: 0, start, removal }
    }
}

#[derive(Debug)]
struct Seat {
    desired: DesiredSeat,
    state: EnvironmentState,
    reason: Option<Reason>,
    disk: Disk,
    /// Moves on with every start, so that a start that has been overtaken notices.
    life: u64,
    /// Ends the pretended process, and with it every open stream.
    process: Option<Process>,
    log: String,
}

#[derive(Debug)]
struct Process {
    dead: CancellationToken,
    hung: watch::Sender<bool>,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct Faults {
    unavailable: Option<String>,
    failing_starts: u32,
}

/// A host that isn't there.
#[derive(Debug)]
pub struct World {
    config: SimulatedConfig,
    pub(crate) generations: Generations,
    /// Held from a decision until it shows, where a later one must not come in between.
    pub(crate) deciding: tokio::sync::Mutex<()>,
    seats: Mutex<HashMap<SeatKey, Seat>>,
    faults: Mutex<Faults>,
    revision: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SplitMix64 (Steele, Lea, Flood 2014): a well-mixed number for each input.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

impl World {
    /// An empty world. Must be called within a tokio runtime.
    #[must_use]
    pub fn new(config: SimulatedConfig) -> Arc<Self> {
        let world = Arc::new(Self {
            config,
            generations: Generations::in_memory(),
            deciding: tokio::sync::Mutex::default(),
            seats: Mutex::new(HashMap::new()),
            faults: Mutex::new(Faults::default()),
            revision: watch::Sender::new(1),
        });
        tokio::spawn(end_on_time(Arc::downgrade(&world)));
        world
    }

    /// As if the backend did not answer, until [`World::come_back`].
    pub fn go_away(&self, why: &str) {
        lock(&self.faults).unavailable = Some(why.to_owned());
        self.publish();
    }

    /// The backend answers again.
    pub fn come_back(&self) {
        lock(&self.faults).unavailable = None;
        self.publish();
    }

    /// The next `count` starts fail.
    pub fn fail_starts(&self, count: u32) {
        lock(&self.faults).failing_starts = count;
    }

    /// The environment's process dies; its disk stays. False if it does not run.
    pub fn kill(&self, key: &SeatKey) -> bool {
        let died = self.with(key, |seat| {
            seat.state = EnvironmentState::Stopped;
            seat.reason = Some(Reason::new("EXITED", "It was killed (exit code 137)"));
            seat.log.push_str("killed\n");
            seat.process.take().is_some()
        });
        died == Some(true)
    }

    /// The environment's workspace stops answering; connections open and nothing comes back.
    pub fn hang(&self, key: &SeatKey) {
        self.with(key, |seat| {
            if let Some(process) = &seat.process {
                process.hung.send_replace(true);
                seat.state = EnvironmentState::Unresponsive;
                seat.reason = Some(Reason::new("UNRESPONSIVE", "Its workspace has stopped answering"));
            }
        });
    }

    /// How many environments there are, in whatever state.
    #[must_use]
    pub fn count(&self) -> usize {
        lock(&self.seats).len()
    }

    fn with<R>(&self, key: &SeatKey, change: impl FnOnce(&mut Seat) -> R) -> Option<R> {
        let result = lock(&self.seats).get_mut(key).map(change);
        self.publish();
        result
    }

    fn publish(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    pub(crate) fn up(&self) -> Result<(), RuntimeError> {
        match &lock(&self.faults).unavailable {
            Some(why) => Err(RuntimeError::Unavailable { message: why.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) async fn changed(&self, since: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        match revision.wait_for(|revision| *revision > since.0).await {
            Ok(revision) => Revision(*revision),
            Err(_) => since,
        }
    }

    fn draw(&self, range: &Range<Duration>, key: &SeatKey, generation: Generation) -> Duration {
        let workshop = key.workshop.as_str().bytes().fold(0, |sum, byte| mix(sum ^ u64::from(byte)));
        let drawn = mix(self.config.seed ^ workshop ^ (u64::from(key.seat.get()) << 32) ^ generation.0);
        let spread = range.end.saturating_sub(range.start).as_nanos();
        let offset = if spread == 0 { 0 } else { u128::from(drawn) % spread };
        range.start + Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX))
    }

    pub(crate) fn capacity(&self) -> Capacity {
        Capacity { total: self.config.capacity, used: u32::try_from(self.count()).unwrap_or(u32::MAX) }
    }

    pub(crate) fn has_room(&self, key: &SeatKey) -> Result<(), RuntimeError> {
        let seats = lock(&self.seats);
        self.room_in(&seats, key)
    }

    fn room_in(&self, seats: &HashMap<SeatKey, Seat>, key: &SeatKey) -> Result<(), RuntimeError> {
        let (used, total) = (u32::try_from(seats.len()).unwrap_or(u32::MAX), self.config.capacity);
        if used >= total && !seats.contains_key(key) {
            return Err(RuntimeError::AtCapacity { used, total });
        }
        Ok(())
    }

    /// Whether a make of a seat is there, and nobody has asked for it to be removed.
    pub(crate) fn has_begun(&self, key: &SeatKey, generation: Generation) -> bool {
        let seats = lock(&self.seats);
        let there = seats.get(key).filter(|seat| seat.desired.generation == generation);
        there.is_some_and(|seat| seat.state != EnvironmentState::Removing)
    }

    pub(crate) fn make(self: &Arc<Self>, desired: DesiredSeat) -> Result<(), RuntimeError> {
        let (key, generation) = (desired.key.clone(), desired.generation);
        let life = 'life: {
            let mut seats = lock(&self.seats);
            self.room_in(&seats, &key)?;
            // Somebody may have decided otherwise while this decision was written down.
            if !self.generations.is_wanted(&key, generation) {
                let seen = self.generations.seen(&key).map_or(generation, |seen| seen.generation);
                return Err(RuntimeError::StaleGeneration { key, given: generation, seen });
            }
            let there = seats.get(&key).filter(|seat| seat.desired.generation == generation);
            let life = match there {
                Some(seat) if matches!(seat.state, EnvironmentState::Stopped | EnvironmentState::Failed) => {
                    seat.life + 1
                }
                Some(_) => {
                    if let Some(seat) = seats.get_mut(&key) {
                        seat.desired.not_after = desired.not_after;
                    }
                    break 'life None;
                }
                None => seats.get(&key).map_or(1, |older| older.life + 1),
            };
            let disk = there.map(|seat| seat.disk.clone()).unwrap_or_default();
            let log = there.map(|seat| seat.log.clone()).unwrap_or_default();
            let state = EnvironmentState::Starting;
            let seat = Seat { desired, state, reason: None, disk, life, process: None, log };
            seats.insert(key.clone(), seat);
            Some(life)
        };
        self.publish();
        let Some(life) = life else { return Ok(()) };
        let (world, pause) = (self.clone(), self.draw(&self.config.start, &key, generation));
        tokio::spawn(async move {
            sleep(pause).await;
            world.finish_start(&key, generation, life);
        });
        Ok(())
    }

    fn finish_start(&self, key: &SeatKey, generation: Generation, life: u64) {
        let fails = self.next_start_fails();
        self.with(key, |seat| {
            let overtaken = seat.life != life || seat.desired.generation != generation;
            if overtaken || seat.state != EnvironmentState::Starting {
                return;
            }
            if fails {
                seat.state = EnvironmentState::Failed;
                seat.reason = Some(Reason::new("START_FAILED", "It could not be started, as the test asked"));
                seat.log.push_str("failed to start\n");
            } else {
                let dead = CancellationToken::new();
                let stop = dead.clone().drop_guard();
                seat.process = Some(Process { dead, hung: watch::Sender::new(false), _stop: stop });
                seat.state = EnvironmentState::Ready;
                seat.reason = None;
                seat.log.push_str("workspace listens\n");
            }
        });
    }

    fn next_start_fails(&self) -> bool {
        let mut faults = lock(&self.faults);
        if faults.failing_starts > 0 {
            faults.failing_starts -= 1;
            return true;
        }
        false
    }

    pub(crate) async fn unmake(&self, key: &SeatKey, generation: Generation) {
        let there = self.with(key, |seat| {
            let doomed = seat.desired.generation <= generation;
            if doomed {
                seat.state = EnvironmentState::Removing;
                seat.process = None;
            }
            doomed
        });
        if there == Some(true) {
            sleep(self.draw(&self.config.removal, key, generation)).await;
            let mut seats = lock(&self.seats);
            if seats.get(key).is_some_and(|seat| seat.desired.generation <= generation) {
                seats.remove(key);
            }
        }
        self.publish();
    }

    pub(crate) fn environments(&self) -> Vec<Environment> {
        let seats = lock(&self.seats);
        let environment = |(key, seat): (&SeatKey, &Seat)| Environment {
            key: key.clone(),
            generation: seat.desired.generation,
            state: seat.state,
            reason: seat.reason.clone(),
            address: Some(format!("simulated:{key}")),
            handle: Some(format!("{key}#{}", seat.life)),
            not_after: seat.desired.not_after,
        };
        seats.iter().map(environment).collect()
    }

    pub(crate) fn dial(&self, key: &SeatKey) -> Result<(BoxedSeatStream, SecretString), RuntimeError> {
        let seats = lock(&self.seats);
        let seat = seats.get(key).ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        let Some(process) = &seat.process else {
            return Err(RuntimeError::Unreachable {
                key: key.clone(),
                message: "it is not running".to_owned(),
            });
        };
        let (near, far) = tokio::io::duplex(64 * 1024);
        let near = Mortal::new(near, &process.dead);
        let secret = seat.desired.secret.clone();
        let (disk, dead, mut hung) = (seat.disk.clone(), process.dead.clone(), process.hung.subscribe());
        let serve = {
            let secret = secret.clone();
            async move {
                // A hung workspace has accepted the connection and says nothing.
                if hung.wait_for(|hung| !hung).await.is_ok() {
                    workspace::serve(far, secret, disk).await;
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = dead.cancelled() => {}
                () = serve => {}
            }
        });
        Ok((Box::new(near), secret))
    }

    pub(crate) fn log(&self, key: &SeatKey) -> Result<String, RuntimeError> {
        let seats = lock(&self.seats);
        let seat = seats.get(key).ok_or_else(|| RuntimeError::NotFound { key: key.clone() })?;
        Ok(seat.log.clone())
    }
}

async fn end_on_time(world: Weak<World>) {
    let mut tick = interval(DEADLINE_TICK);
    loop {
        tick.tick().await;
        let Some(world) = world.upgrade() else { return };
        let now = Timestamp::now();
        let before = world.count();
        lock(&world.seats).retain(|_, seat| seat.desired.not_after.is_none_or(|at| at > now));
        if world.count() != before {
            world.publish();
        }
    }
}
