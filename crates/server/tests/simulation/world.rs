//! What servers, workers and people share in one run.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_server::app::clock::Clock;
use clarateach_store::Fence;
use clarateach_store::sqlite::SqliteStore;
use futures_util::FutureExt;
use tokio::time::Instant;

use crate::dice::Dice;
use crate::host::Host;
use crate::rules::Rules;
use crate::time::SimulatedClock;
use crate::trace::Trace;

/// How badly things go at the moment. Chances are in thousand.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// Milliseconds that a message travels.
    pub(crate) travel: Range<u64>,
    /// Messages that take much longer.
    pub(crate) late: u64,
    /// Requests that never arrive.
    pub(crate) lost_requests: u64,
    /// Requests that are carried out, and nobody is told.
    pub(crate) lost_answers: u64,
    /// Requests that are carried out a second time, maybe much later.
    pub(crate) doubled: u64,
    /// Calls that the store refuses.
    pub(crate) store_refusals: u64,
    /// Writes that the store carries out and says that it did not.
    pub(crate) store_silences: u64,
    /// Starts of environments that fail.
    pub(crate) failing_starts: u64,
    /// Milliseconds that a start takes.
    pub(crate) start: Range<u64>,
    /// Starts that take minutes.
    pub(crate) slow_starts: u64,
}

impl Weather {
    pub(crate) fn fine() -> Self {
        Self {
            travel: 1..10,
            late: 0,
            lost_requests: 0,
            lost_answers: 0,
            doubled: 0,
            store_refusals: 0,
            store_silences: 0,
            failing_starts: 0,
            start: 50..800,
            slow_starts: 0,
        }
    }
}

/// One run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) trace: Trace,
    /// The store as it is, without the network before it.
    pub(crate) store: Arc<SqliteStore>,
    /// The right time.
    pub(crate) clock: SimulatedClock,
    dice: Mutex<Dice>,
    weather: Mutex<Weather>,
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    rules: Mutex<Rules>,
    /// Whether the store sees on the strength of which lease something is written.
    fenced: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the store answers: it works in line, so it answers at once.
pub(crate) fn at_once<T>(asked: impl Future<Output = T>) -> T {
    tokio::task::unconstrained(asked).now_or_never().expect("a store without threads answers at once")
}

impl World {
    pub(crate) fn new(seed: u64, fenced: bool) -> Arc<Self> {
        Arc::new(Self {
            trace: Trace::new(),
            store: Arc::new(SqliteStore::in_line().unwrap()),
            clock: SimulatedClock::new(Instant::now()),
            dice: Mutex::new(Dice::new(seed)),
            weather: Mutex::new(Weather::fine()),
            hosts: Mutex::default(),
            rules: Mutex::default(),
            fenced,
        })
    }

    /// A fence as the store gets it.
    pub(crate) fn shown(&self, fence: Option<Fence>) -> Option<Fence> {
        fence.filter(|_| self.fenced)
    }

    pub(crate) fn dice(&self) -> MutexGuard<'_, Dice> {
        lock(&self.dice)
    }

    pub(crate) fn weather(&self) -> Weather {
        lock(&self.weather).clone()
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    pub(crate) fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }

    /// How long the run has taken.
    pub(crate) fn age(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.trace.milliseconds())
    }

    pub(crate) fn rules(&self) -> MutexGuard<'_, Rules> {
        lock(&self.rules)
    }

    pub(crate) fn add_host(&self, host: Arc<Host>) {
        lock(&self.hosts).insert(host.address.clone(), host);
    }

    pub(crate) fn hosts(&self) -> Vec<Arc<Host>> {
        lock(&self.hosts).values().cloned().collect()
    }

    pub(crate) fn host(&self, address: &str) -> Option<Arc<Host>> {
        lock(&self.hosts).get(address).cloned()
    }

    /// Something happened that must never happen. The first of these ends the run.
    pub(crate) fn broken(&self, why: &str) {
        self.trace.note(&format!("BROKEN: {why}"));
        self.rules().broken.get_or_insert_with(|| why.to_owned());
    }

    /// Which generation of a seat the store wants, with who holds it; none when nothing is wanted.
    pub(crate) fn wanted(&self, key: &SeatKey) -> Option<(Generation, Option<String>)> {
        use clarateach_lifecycle::Wanted;
        use clarateach_store::Store;
        let workshop = at_once(self.store.workshop(&key.workshop)).ok()?;
        if workshop.wanted != Wanted::Running {
            return None;
        }
        let seats = at_once(self.store.seats(&key.workshop)).ok()?;
        let (seat, holder) = seats.into_iter().find(|(seat, _)| seat.key == *key)?;
        Some((seat.generation, holder.map(|session| session.id.to_string())))
    }

    /// What there is of a workshop, on hosts that were never given up.
    pub(crate) fn there_is(&self, workshop: &WorkshopId) -> Vec<String> {
        let hosts = self.hosts();
        let of = hosts.iter().filter(|host| !host.was_forgotten()).flat_map(|host| {
            let there = host.environments();
            there
                .into_iter()
                .filter(|e| e.key.workshop == *workshop)
                .map(|e| format!("{} at generation {} ({:?}) on {}", e.key, e.generation, e.state, host.id))
        });
        of.collect()
    }
}
