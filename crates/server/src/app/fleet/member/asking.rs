//! The task that asks a worker what it is, and tells it what it has not been told yet.

use std::collections::BTreeMap;
use std::time::Duration;

use clarateach_api::agent::Revocations;
use clarateach_runtime::{RuntimeError, RuntimeKind};
use clarateach_runtime_worker::Sighting;
use clarateach_store::{Store, WorkerWish};
use jiff::{SignedDuration, Timestamp};
use tokio::time::{Instant, timeout};

use super::{Member, Surroundings, lock};
use crate::app::fleet::health::{Answer, Health, speaks_with};

/// How often a worker is asked what it is and has.
const INFO_PERIOD: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const INFO_WITHIN: Duration = Duration::from_secs(8);
/// What was seen is looked at again at least this often, whatever its watch says.
const OBSERVED_FOR: Duration = Duration::from_secs(15);
/// The most sessions in one call.
const REVOKED_AT_ONCE: usize = 1000;

impl Member {
    /// Asks and tells, now and then and when there is something to tell.
    pub(super) async fn keep_asking(&self, around: &Surroundings, store: &dyn Store) {
        loop {
            self.ask(around, store).await;
            tokio::select! {
                biased;
                () = self.tell.notified() => {}
                () = tokio::time::sleep(INFO_PERIOD) => {}
            }
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
}
