//! What is wanted and what is known of every seat, in memory: the published state that `observe` and `watch` read.
//!
//! Nothing here talks to the Engine. The worker of a seat writes what it did, the watcher what it saw, the probe what
//! it heard; each change moves the revision on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_runtime::probe::Health;
use clarateach_runtime::{DesiredSeat, Environment, EnvironmentState, Reason, Revision, RuntimeError};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::container::{Container, Phase};

/// What the runtime was last told about a seat.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// Nothing, since this process started.
    Unknown,
    Keep(Arc<DesiredSeat>),
    /// Nothing up to this generation.
    Remove(Generation),
}

/// Why the last attempt failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) reason: Reason,
    /// Nobody could be asked: worth another try as soon as somebody can.
    pub(crate) unavailable: bool,
}

impl From<&RuntimeError> for Failure {
    fn from(error: &RuntimeError) -> Self {
        Self { reason: error.reason(), unavailable: matches!(error, RuntimeError::Unavailable { .. }) }
    }
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) wish: Wish,
    /// Nothing of it has been made or seen.
    pub(crate) new: bool,
    /// Moves on with every wish, so that a worker sees that it has been overtaken.
    pub(crate) turn: u64,
    /// A worker is at it.
    pub(crate) busy: bool,
    /// The container died while the worker was busy with it.
    pub(crate) missed_death: bool,
    pub(crate) container: Option<Container>,
    /// A disk without a container.
    pub(crate) disk: Option<Generation>,
    pub(crate) failure: Option<Failure>,
    /// Removed, but for what it shares with other seats.
    pub(crate) gone: bool,
    health: Option<Health>,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    container: String,
    started_at: String,
    _stop: DropGuard,
}

impl Seat {
    fn new() -> Self {
        Self {
            wish: Wish::Unknown,
            new: true,
            turn: 0,
            busy: false,
            missed_death: false,
            container: None,
            disk: None,
            failure: None,
            gone: false,
            health: None,
            probe: None,
        }
    }

    pub(crate) fn wish(&mut self, wish: Wish) -> u64 {
        self.wish = wish;
        self.turn += 1;
        self.failure = None;
        self.gone = false;
        self.turn
    }

    /// Which make is there, or is being made.
    pub(crate) fn generation(&self) -> Generation {
        let there = self.container.as_ref().map(|container| container.generation).or(self.disk);
        match (&self.wish, there) {
            (Wish::Keep(desired), _) => desired.generation,
            (_, Some(there)) => there,
            (Wish::Remove(generation), None) => *generation,
            (Wish::Unknown, None) => Generation::default(),
        }
    }

    /// The container of the wished generation, if it runs.
    pub(crate) fn running(&self) -> Option<&Container> {
        let generation = self.generation();
        self.container.as_ref().filter(|c| c.generation == generation && matches!(c.phase, Phase::Running(_)))
    }

    fn state(&self) -> (EnvironmentState, Option<Reason>) {
        let failed = self.failure.as_ref().map(|failure| failure.reason.clone());
        if matches!(self.wish, Wish::Remove(_)) {
            return (EnvironmentState::Removing, failed);
        }
        if self.running().is_some() {
            return match &self.health {
                Some(Health::Well) => (EnvironmentState::Ready, None),
                Some(Health::Silent(reason)) => (EnvironmentState::Unresponsive, Some(reason.clone())),
                None => (EnvironmentState::Starting, None),
            };
        }
        if self.busy {
            return (EnvironmentState::Starting, None);
        }
        if failed.is_some() {
            return (EnvironmentState::Failed, failed);
        }
        match self.container.as_ref().map(|container| &container.phase) {
            Some(Phase::Ended(reason)) => (EnvironmentState::Stopped, Some(reason.clone())),
            Some(Phase::Removing) => (EnvironmentState::Removing, None),
            Some(Phase::Created | Phase::Running(_)) => {
                let reason = Reason::new("INTERRUPTED", "Its making was interrupted");
                (EnvironmentState::Stopped, Some(reason))
            }
            None => {
                let reason = Reason::new("CONTAINER_GONE", "Its container is gone; its disk is still there");
                (EnvironmentState::Stopped, Some(reason))
            }
        }
    }

    fn environment(&self, key: &SeatKey) -> Environment {
        let (state, reason) = self.state();
        let address = self.running().and_then(|container| match container.phase {
            Phase::Running(address) => Some(address.to_string()),
            _ => None,
        });
        let handle = self.container.as_ref().map(|container| container.id.chars().take(12).collect());
        Environment {
            key: key.clone(),
            generation: self.generation(),
            state,
            reason,
            address,
            handle,
            not_after: None,
        }
    }
}

/// All seats, and the revision of what they say.
#[derive(Debug)]
pub(crate) struct Seats {
    map: Mutex<HashMap<SeatKey, Seat>>,
    revision: watch::Sender<u64>,
}

impl Seats {
    pub(crate) fn new() -> Self {
        Self { map: Mutex::new(HashMap::new()), revision: watch::Sender::new(1) }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<SeatKey, Seat>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry for `key`, made if need be.
    pub(crate) fn entry<'a>(map: &'a mut HashMap<SeatKey, Seat>, key: &SeatKey) -> &'a mut Seat {
        map.entry(key.clone()).or_insert_with(Seat::new)
    }

    /// Call after every change.
    pub(crate) fn publish(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub(crate) async fn changed(&self, since: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        // The sender lives as long as self.
        match revision.wait_for(|revision| *revision > since.0).await {
            Ok(revision) => Revision(*revision),
            Err(_) => since,
        }
    }

    pub(crate) fn environments(&self) -> Vec<Environment> {
        // A seat that is gone but for something that could not be removed is still shown: nobody may call it gone.
        let shown = |seat: &Seat| !seat.gone || seat.failure.is_some();
        self.lock().iter().filter(|(_, seat)| shown(seat)).map(|(key, seat)| seat.environment(key)).collect()
    }

    /// How many places are taken.
    pub(crate) fn used(map: &HashMap<SeatKey, Seat>) -> u32 {
        u32::try_from(map.values().filter(|seat| !seat.gone).count()).unwrap_or(u32::MAX)
    }

    pub(crate) fn has_seats_of(&self, workshop: &WorkshopId) -> bool {
        self.lock().iter().any(|(key, seat)| key.workshop == *workshop && !seat.gone)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().values().all(|seat| seat.gone)
    }

    pub(crate) fn overtaken(&self, key: &SeatKey, turn: u64) -> bool {
        self.lock().get(key).is_none_or(|seat| seat.turn != turn)
    }

    /// Writes down which container and disk a seat has. Returns a token when a probe of the container must be
    /// started, which ends with the token.
    pub(crate) fn saw(
        &self,
        key: &SeatKey,
        container: Option<Container>,
        disk: Option<Generation>,
    ) -> Option<CancellationToken> {
        let mut map = self.lock();
        let seat = Self::entry(&mut map, key);
        let running = container.as_ref().filter(|container| matches!(container.phase, Phase::Running(_)));
        let mut start = None;
        match (running, &seat.probe) {
            (Some(now), Some(probe)) if probe.container == now.id && probe.started_at == now.started_at => {}
            (Some(now), _) => {
                let stop = CancellationToken::new();
                start = Some(stop.clone());
                seat.health = None;
                seat.probe = Some(Probe {
                    container: now.id.clone(),
                    started_at: now.started_at.clone(),
                    _stop: stop.drop_guard(),
                });
            }
            (None, _) => {
                seat.health = None;
                seat.probe = None;
            }
        }
        seat.new = false;
        seat.container = container;
        seat.disk = disk;
        drop(map);
        self.publish();
        start
    }

    /// Writes down what the probe of this start of this container says.
    pub(crate) fn heard(&self, key: &SeatKey, container: &str, started_at: &str, health: Health) {
        if let Some(seat) = self.lock().get_mut(key)
            && seat.probe.as_ref().is_some_and(|p| p.container == container && p.started_at == started_at)
        {
            seat.health = Some(health);
        }
        self.publish();
    }

    pub(crate) fn forget(&self, key: &SeatKey) {
        self.lock().remove(key);
        self.publish();
    }
}
