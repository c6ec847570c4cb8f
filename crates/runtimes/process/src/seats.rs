//! What is known of every seat: the published state.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::probe::Health;
use clarateach_runtime::{Environment, EnvironmentState, Reason, Revision};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

use crate::place::Place;

/// A seat's workspace, for as long as it is watched.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) pid: i32,
    pub(crate) health: Option<Health>,
    pub(crate) _watch: DropGuard,
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) place: Place,
    pub(crate) secret: SecretString,
    pub(crate) running: Option<Running>,
    /// Why it doesn't run: it has ended, or could not be started.
    pub(crate) down: Option<(EnvironmentState, Reason)>,
    pub(crate) removing: bool,
    pub(crate) not_after: Option<Timestamp>,
}

impl Seat {
    fn environment(&self) -> Environment {
        let (state, reason) = match (&self.running, &self.down) {
            _ if self.removing => (EnvironmentState::Removing, None),
            (Some(Running { health: Some(Health::Well), .. }), _) => (EnvironmentState::Ready, None),
            (Some(Running { health: Some(Health::Silent(reason)), .. }), _) => {
                (EnvironmentState::Unresponsive, Some(reason.clone()))
            }
            (Some(_), _) | (None, None) => (EnvironmentState::Starting, None),
            (None, Some((state, reason))) => (*state, Some(reason.clone())),
        };
        Environment {
            key: self.place.key.clone(),
            generation: self.place.generation,
            state,
            reason,
            address: self.running.as_ref().map(|_| format!("unix:{}", self.place.socket.display())),
            handle: self.running.as_ref().map(|running| running.pid.to_string()),
            not_after: None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Seats {
    map: Mutex<HashMap<SeatKey, Seat>>,
    /// Held while a seat is changed on disk; one per seat, kept for as long as the seat is there.
    changes: Mutex<HashMap<SeatKey, Arc<tokio::sync::Mutex<()>>>>,
    revision: watch::Sender<u64>,
}

impl Seats {
    pub(crate) fn new() -> Self {
        Self {
            map: Mutex::new(HashMap::new()),
            changes: Mutex::new(HashMap::new()),
            revision: watch::Sender::new(1),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<SeatKey, Seat>> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self) {
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// The right to change a seat, in turn.
    pub(crate) async fn change(&self, key: &SeatKey) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits for those that only this map holds.
            changes.retain(|_, turn| Arc::strong_count(turn) > 1);
            changes.entry(key.clone()).or_default().clone()
        };
        turn.lock_owned().await
    }

    pub(crate) async fn changed(&self, since: Revision) -> Revision {
        let mut revision = self.revision.subscribe();
        match revision.wait_for(|revision| *revision > since.0).await {
            Ok(revision) => Revision(*revision),
            Err(_) => since,
        }
    }

    pub(crate) fn environments(&self) -> Vec<Environment> {
        self.lock().values().map(Seat::environment).collect()
    }

    /// Changes a seat if it still is of this generation.
    pub(crate) fn with(&self, place: &Place, change: impl FnOnce(&mut Seat)) {
        if let Some(seat) = self.lock().get_mut(&place.key)
            && seat.place.generation == place.generation
        {
            change(seat);
        }
        self.publish();
    }

    /// The highest generation there is of a seat.
    pub(crate) fn generation(&self, key: &SeatKey) -> Option<Generation> {
        self.lock().get(key).map(|seat| seat.place.generation)
    }
}
