//! Who the workers are: those of the setting, those added over the API, and those made on a cloud.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::ErrorCode;
use clarateach_api::agent::{DrainBody, Revocations, SeatKeys, SessionAtSeat};
use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::SeatState;
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort, SharedRuntime,
};
use clarateach_runtime_worker::{Sighting, Tls, Worker, WorkerAddress};
use clarateach_store::{SeatWrite, StoreError, WorkerRecord, WorkerSource, WorkerWish, WorkshopWrite};
use futures_util::StreamExt;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout};

use super::member::Member;
use super::merge::is_drawn;
use super::{Fleet, lock};
use crate::app::error::AppError;
use crate::config::{PUBLIC_AUTHORITIES, WorkerAgent};

/// Marks a worker of the setting that is not listed there any more, and was drained for that.
pub const UNLISTED: &str = "clarateach/unlisted";
/// The reason of a held seat whose worker was given up.
pub const WORKER_FORGOTTEN: &str = "WORKER_FORGOTTEN";

/// What tokens of workers are sealed for.
const TOKEN_PURPOSE: &str = "worker-token";
/// How long the answer to a new worker waits for its first word.
const FIRST_WORD_WITHIN: Duration = Duration::from_secs(2);
/// How long the seats of a worker that answers are removed before it is forgotten all the same.
const CLEAR_WITHIN: Duration = Duration::from_secs(30);
const CLEAR_AT_ONCE: usize = 16;

fn no_worker(id: &str) -> AppError {
    AppError::new(ErrorCode::NotFound, format!("There is no worker {id:?}."))
}

fn tls(text: &str) -> Tls {
    if text == PUBLIC_AUTHORITIES { Tls::PublicRoots } else { Tls::Pinned(text.to_owned()) }
}

impl Fleet {
    /// Whether a client can be made for a worker as it is asked for: its certificates are certificates.
    ///
    /// # Errors
    /// Why not, in a sentence.
    pub fn try_connect(&self, agent: &WorkerAgent) -> Result<(), String> {
        let address = WorkerAddress {
            address: agent.address.clone(),
            token: agent.token.clone(),
            tls: agent.tls.as_deref().map(tls),
        };
        (self.connect)(address).map(|_| ())
    }

    fn record(&self, agent: &WorkerAgent, source: WorkerSource) -> WorkerRecord {
        WorkerRecord {
            id: agent.id(),
            address: agent.address.clone(),
            token_sealed: self.sealer.seal(TOKEN_PURPOSE, agent.token.expose_secret().as_bytes()),
            public_url: agent.public_url.clone(),
            labels: agent.labels.clone(),
            capacity: agent.capacity,
            tls: agent.tls.clone(),
            source,
            wish: WorkerWish::Active,
            kind: None,
            created_at: self.around.clock.now(),
        }
    }

    fn token(&self, record: &WorkerRecord) -> Result<String, String> {
        let sealed = self.sealer.open_sealed(TOKEN_PURPOSE, &record.token_sealed);
        let text = sealed.ok().and_then(|clear| String::from_utf8(clear).ok());
        text.ok_or_else(|| "Its token was sealed under another SERVER_KEY; add the worker again.".to_owned())
    }

    /// Makes the registry say what the setting says: its workers are there, and those it does not list any more are
    /// drained and shown, until an admin forgets them.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn take_setting(&self, agents: &[WorkerAgent]) -> Result<(), StoreError> {
        let known: BTreeMap<String, WorkerRecord> =
            self.store.workers().await?.into_iter().map(|record| (record.id.clone(), record)).collect();
        // Together: each alone would wait for the disk.
        futures_util::future::try_join_all(
            agents.iter().map(|agent| self.take(agent, known.get(&agent.id()))),
        )
        .await?;
        let listed: BTreeSet<String> = agents.iter().map(WorkerAgent::id).collect();
        let unlisted = known.into_values().filter(|record| {
            record.source == WorkerSource::Setting
                && record.wish == WorkerWish::Active
                && !listed.contains(&record.id)
        });
        for mut record in unlisted {
            tracing::warn!(worker = %record.id, "WORKER_AGENTS does not list the worker any more; it is drained, and stays until it is forgotten");
            record.labels.insert(UNLISTED.to_owned(), "true".to_owned());
            let id = record.id.clone();
            self.store.put_worker(record).await?;
            self.store.set_worker_wish(&id, WorkerWish::Draining).await?;
        }
        Ok(())
    }

    /// Makes the registry say what the setting says of one worker.
    async fn take(&self, agent: &WorkerAgent, before: Option<&WorkerRecord>) -> Result<(), StoreError> {
        let record = self.record(agent, WorkerSource::Setting);
        let id = record.id.clone();
        if let Some(before) = before.filter(|before| before.wish != WorkerWish::Forgotten) {
            let same_token = self.token(before).is_ok_and(|token| token == agent.token.expose_secret());
            let settings = |record: &WorkerRecord| {
                let WorkerRecord { address, public_url, labels, capacity, tls, source, .. } = record.clone();
                (address, public_url, labels, capacity, tls, source)
            };
            if same_token && settings(before) == settings(&record) {
                return Ok(());
            }
        }
        match self.store.put_worker(record).await {
            Ok(_) => {}
            Err(StoreError::Conflict { message }) => {
                tracing::error!(worker = %id, "WORKER_AGENTS: the worker can't be added: {message}");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if before.is_some_and(|before| before.labels.contains_key(UNLISTED)) {
            self.store.set_worker_wish(&id, WorkerWish::Active).await?;
            lock(&self.undrain).insert(id);
        }
        Ok(())
    }

    /// Makes the members be those of the registry.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn sync(&self) -> Result<(), StoreError> {
        let records = self.store.workers().await?;
        self.had_workers.store(!records.is_empty(), Ordering::Relaxed);
        let mut changed = false;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone: BTreeSet<String> = members.keys().cloned().collect();
        for record in records.into_iter().filter(|record| record.wish != WorkerWish::Forgotten) {
            gone.remove(&record.id);
            if let Some(member) = members.get(&record.id) {
                let before = member.record();
                if before == record {
                    continue;
                }
                changed = true;
                let same_agent = (&before.address, &before.token_sealed, &before.tls)
                    == (&record.address, &record.token_sealed, &record.tls);
                if same_agent {
                    member.update(record);
                    continue;
                }
                member.stop();
            }
            changed = true;
            let member = Member::new(record.clone(), self.client(&record));
            if lock(&self.undrain).remove(&record.id) {
                member.undrain();
            }
            self.tasks.spawn(Arc::clone(&member).run(self.around.clone(), Arc::clone(&self.store)));
            members.insert(record.id, member);
        }
        for id in gone {
            changed = true;
            if let Some(member) = members.remove(&id) {
                member.stop();
            }
            lock(&self.table).forgotten(&id);
        }
        drop(members);
        if changed {
            self.changed();
        }
        Ok(())
    }

    pub(super) fn client(&self, record: &WorkerRecord) -> Arc<dyn Worker> {
        let client = self.token(record).and_then(|token| {
            (self.connect)(WorkerAddress {
                address: record.address.clone(),
                token: token.into(),
                tls: record.tls.as_deref().map(tls),
            })
        });
        client.unwrap_or_else(|why| {
            tracing::error!(worker = %record.id, why, "the worker can't be connected to");
            Arc::new(Unusable(why))
        })
    }

    /// Adds a worker that an admin named, or gives the one with its address a new token and settings. Whether it is new.
    ///
    /// # Errors
    /// `CONFLICT` when a worker of another name has its address, `INVALID_FIELD` when its certificates can't be used.
    pub async fn add(&self, agent: WorkerAgent) -> Result<(bool, clarateach_api::WorkerView), AppError> {
        self.try_connect(&agent).map_err(|problem| AppError::new(ErrorCode::InvalidField, problem))?;
        let mut record = self.record(&agent, WorkerSource::Api);
        let id = record.id.clone();
        let known = self.store.workers().await?;
        let before = known.iter().find(|known| known.id == id && known.wish != WorkerWish::Forgotten);
        if let Some(before) = before {
            record.source = before.source;
        }
        let is_new = before.is_none();
        self.put(record).await?;
        let deadline = Instant::now() + FIRST_WORD_WITHIN;
        let mut revision = self.around.revision.subscribe();
        while self.member(&id).is_some_and(|member| member.may_come()) {
            if tokio::time::timeout_at(deadline, revision.changed()).await.is_err() {
                break;
            }
        }
        Ok((is_new, self.view(&id).ok_or_else(|| no_worker(&id))?))
    }

    /// Records a worker, from wherever it comes, and begins to use it.
    ///
    /// # Errors
    /// `CONFLICT` when another worker has its address.
    pub async fn put(&self, record: WorkerRecord) -> Result<(), AppError> {
        self.store.put_worker(record).await?;
        self.sync().await?;
        Ok(())
    }

    /// Seals a worker's token, for a record.
    #[must_use]
    pub fn seal_token(&self, token: &str) -> Vec<u8> {
        self.sealer.seal(TOKEN_PURPOSE, token.as_bytes())
    }

    /// A worker that was recorded, maybe through another server a moment ago.
    async fn known(&self, id: &str) -> Result<Arc<Member>, AppError> {
        if self.member(id).is_none() {
            self.sync().await?;
        }
        self.member(id).ok_or_else(|| no_worker(id))
    }

    /// Has a worker take no more seats and free ones leave it, or take seats again.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn drain(&self, id: &str, draining: bool) -> Result<clarateach_api::WorkerView, AppError> {
        self.known(id).await?;
        let wish = if draining { WorkerWish::Draining } else { WorkerWish::Active };
        self.store.set_worker_wish(id, wish).await?;
        self.sync().await?;
        if let Some(member) = self.member(id).filter(|_| !draining) {
            member.undrain();
        }
        self.view(id).ok_or_else(|| no_worker(id))
    }

    /// Gives a worker up, with all that it has. What was on it is not waited for any more; should it come back under
    /// this name, that is removed.
    ///
    /// # Errors
    /// `NOT_FOUND`; `CONFLICT` while it answers and has seats, unless `force`.
    pub async fn forget(&self, id: &str, force: bool) -> Result<(), AppError> {
        let member = self.known(id).await?;
        self.read_placements(None).await?;
        let seats = lock(&self.table).seats_on(id);
        if member.is_there() && seats > 0 {
            if !force {
                let message = format!(
                    "Worker {id} answers and has {seats} seats. Drain it first, or forget it with force=true, which \
                     removes them."
                );
                return Err(AppError::new(ErrorCode::Conflict, message));
            }
            self.store.set_worker_wish(id, WorkerWish::Draining).await?;
            self.sync().await?;
        }
        let had: Vec<(SeatKey, Generation)> = {
            let table = lock(&self.table);
            let rows = table
                .rows()
                .iter()
                .filter(|(key, _)| table.newest(key).is_some_and(|(worker, _)| worker == id));
            rows.filter_map(|(key, holders)| Some((key.clone(), *holders.get(id)?))).collect()
        };
        if member.is_there() && timeout(CLEAR_WITHIN, self.clear(&member)).await.is_err() {
            tracing::warn!(worker = id, "not everything on the worker was removed before it was forgotten");
        }
        // Before the rows go: whoever looks in between knows why.
        let given_up = had.iter().map(|(key, generation)| (key.clone(), (*generation, id.to_owned())));
        lock(&self.given_up).extend(given_up);
        self.store.set_worker_wish(id, WorkerWish::Forgotten).await?;
        lock(&self.table).forgotten(id);
        self.sync().await?;
        tracing::warn!(worker = id, seats = had.len(), "the worker was forgotten");
        self.tell_seats(id, had).await?;
        self.changed();
        Ok(())
    }

    /// Why nothing is left of a make of a seat, when its worker was given up through this server.
    #[must_use]
    pub fn why_given_up(&self, key: &SeatKey, generation: Generation) -> Option<(String, String)> {
        let all = lock(&self.given_up);
        all.get(key).filter(|(had, _)| *had == generation).map(|(_, worker)| given_up(worker))
    }

    /// Removes all seats that servers made from a worker that answers.
    async fn clear(&self, member: &Arc<Member>) {
        member.fresh(Instant::now() + Duration::from_secs(2)).await;
        let shown: Vec<_> = member.with(|seen| {
            let all = seen.observed().map(|(environments, _, _)| environments).unwrap_or_default();
            let drawn = all.values().filter(|e| is_drawn(&e.key.workshop));
            drawn.map(|e| (e.key.clone(), e.generation)).collect()
        });
        futures_util::stream::iter(shown)
            .for_each_concurrent(CLEAR_AT_ONCE, |(key, generation)| async move {
                if let Err(error) = member.worker().remove(&key, generation).await {
                    tracing::warn!(worker = member.id(), seat = %key, %error, "a seat could not be removed");
                }
            })
            .await;
    }

    /// Says at the held seats of a forgotten worker why they are gone; free ones are made anew anyway.
    async fn tell_seats(&self, id: &str, had: Vec<(SeatKey, Generation)>) -> Result<(), StoreError> {
        let mut by_workshop: BTreeMap<WorkshopId, BTreeMap<SeatKey, Generation>> = BTreeMap::new();
        for (key, generation) in had {
            by_workshop.entry(key.workshop.clone()).or_default().insert(key, generation);
        }
        let why = given_up(id);
        for (workshop, had) in by_workshop {
            let told = async {
                let record = self.store.workshop(&workshop).await?;
                let seats = self.store.seats(&workshop).await?;
                let lost = seats.into_iter().filter(|(seat, holder)| {
                    holder.is_some()
                        && had.get(&seat.key) == Some(&seat.generation)
                        && matches!(seat.state, SeatState::Ready | SeatState::Unreachable)
                });
                let seats = lost.map(|(seat, _)| SeatWrite {
                    seat: seat.key.seat,
                    generation: seat.generation,
                    next_generation: seat.generation,
                    state: SeatState::Unreachable,
                    reason: Some(why.clone()),
                    attempts: seat.attempts,
                    retry_at: None,
                    only_if_free: false,
                });
                let write = WorkshopWrite {
                    id: workshop.clone(),
                    wanted: record.wanted,
                    status: None,
                    reason: None,
                    seats: seats.collect(),
                    fence: None,
                    now: self.around.clock.now(),
                };
                self.store.write_workshop(write).await.map(|_| ())
            };
            match told.await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What is said at a held seat of a worker that was given up.
fn given_up(id: &str) -> (String, String) {
    let message = format!(
        "Worker {id}, which had this seat and its disk, was given up. Reset the seat to give its learner a fresh one."
    );
    (WORKER_FORGOTTEN.to_owned(), message)
}

/// A worker whose client can't be made: says why to every call.
struct Unusable(String);

impl Unusable {
    fn no<T>(&self) -> Result<T, RuntimeError> {
        Err(RuntimeError::Unavailable { message: self.0.clone() })
    }
}

#[async_trait]
impl Runtime for Unusable {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Firecracker
    }
    async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    async fn resolve(&self, _: &ImageRef) -> Result<ImageRef, RuntimeError> {
        self.no()
    }
    async fn prepare(&self, _: &ImageRef, _: ProgressFn) -> Result<(), RuntimeError> {
        self.no()
    }
    async fn apply(&self, _: DesiredSeat) -> Result<(), RuntimeError> {
        self.no()
    }
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        self.no()
    }
    async fn watch(&self, _: Revision) -> Revision {
        std::future::pending().await
    }
    async fn remove(&self, _: &SeatKey, _: Generation) -> Result<(), RuntimeError> {
        self.no()
    }
    async fn dial(&self, _: &SeatKey, _: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        self.no()
    }
    async fn logs(&self, _: &SeatKey) -> Result<String, RuntimeError> {
        self.no()
    }
    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        self.no()
    }
}

#[async_trait]
impl SharedRuntime for Unusable {
    async fn take_back(&self, _: &SeatKey, _: Generation) -> Result<bool, RuntimeError> {
        self.no()
    }
}

#[async_trait]
impl Worker for Unusable {
    async fn info(&self) -> Result<Sighting, RuntimeError> {
        self.no()
    }
    async fn set_keys(&self, _: &SeatKeys) -> Result<(), RuntimeError> {
        self.no()
    }
    async fn revoke(&self, _: &Revocations) -> Result<(), RuntimeError> {
        self.no()
    }
    async fn sessions(&self) -> Result<Vec<SessionAtSeat>, RuntimeError> {
        self.no()
    }
    async fn drain(&self, _: bool) -> Result<DrainBody, RuntimeError> {
        self.no()
    }
}
