//! Where the gateway finds seats: a cache over the store, so that a request into a seat costs no query.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_gateway::{Refusal, SeatDirectory, SeatRoute};
use clarateach_ids::{Generation, InstallationId, SeatKey, SessionId, WorkshopId};
use clarateach_lifecycle::Wanted;
use clarateach_seatproto::token::{Role, SeatClaims};
use clarateach_store::{Store, StoreError};
use tokio::time::Instant;

use super::runtimes::Runtimes;
use super::seal::Sealer;

/// How long an answer of the store is believed. Whoever changes a seat forgets it here at once.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Known {
    at: Instant,
    generation: Generation,
    holder: Option<SessionId>,
    runtime: String,
    running: bool,
}

/// The gateway's view of the store.
pub struct Directory {
    store: Arc<dyn Store>,
    runtimes: Arc<Runtimes>,
    sealer: Arc<Sealer>,
    installation: InstallationId,
    known: RwLock<HashMap<SeatKey, Known>>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory")
    }
}

impl Directory {
    /// Over the parts it asks.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        runtimes: Arc<Runtimes>,
        sealer: Arc<Sealer>,
        installation: InstallationId,
    ) -> Self {
        Self { store, runtimes, sealer, installation, known: RwLock::default() }
    }

    /// Forgets a seat: the next request asks the store.
    pub fn forget(&self, key: &SeatKey) {
        self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner).remove(key);
    }

    /// Forgets all seats of a workshop.
    pub fn forget_workshop(&self, id: &WorkshopId) {
        self.known
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .retain(|key, _| key.workshop != *id);
    }

    fn remembered(&self, key: &SeatKey) -> Option<Known> {
        let known = self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        known.get(key).filter(|known| known.at.elapsed() < FRESH).cloned()
    }

    async fn look_up(&self, key: &SeatKey) -> Result<Known, Refusal> {
        let refusal = |error| match error {
            StoreError::NotFound { .. } => Refusal::not_found("There is no such seat."),
            _ => Refusal::unavailable("The database can't be used right now; try again in a moment."),
        };
        let workshop = self.store.workshop(&key.workshop).await.map_err(refusal)?;
        let seats = self.store.seats(&key.workshop).await.map_err(refusal)?;
        let at = Instant::now();
        let mut known = self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (seat, holder) in seats {
            let entry = Known {
                at,
                generation: seat.generation,
                holder: holder.map(|session| session.id),
                runtime: workshop.runtime.clone(),
                running: workshop.wanted == Wanted::Running,
            };
            known.insert(seat.key, entry);
        }
        known.get(key).cloned().ok_or_else(|| Refusal::not_found("There is no such seat."))
    }
}

#[async_trait]
impl SeatDirectory for Directory {
    async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal> {
        let key = claims.seat_key();
        let held_by_caller =
            |known: &Known| claims.role == Role::Instructor || known.holder.as_ref() == Some(&claims.session);
        // What is remembered may be older than the token: only the store may turn a caller away.
        let known = match self.remembered(&key) {
            Some(known)
                if known.running && known.generation == claims.generation && held_by_caller(&known) =>
            {
                known
            }
            _ => self.look_up(&key).await?,
        };
        if !known.running {
            return Err(Refusal::ended("The workshop has stopped."));
        }
        if !held_by_caller(&known) {
            return Err(Refusal::ended("This session no longer holds the seat."));
        }
        let runtime = self.runtimes.named(&known.runtime).ok_or_else(|| {
            Refusal::unavailable(format!("This server has no {} runtime at the moment.", known.runtime))
        })?;
        Ok(SeatRoute {
            runtime: Arc::clone(runtime),
            secret: self.sealer.seat_secret(&self.installation, &key, known.generation),
            generation: known.generation,
            key,
        })
    }
}
