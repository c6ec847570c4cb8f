//! The store in one SQLite file.
//!
//! One thread writes, in groups ([`writer`]); a few connections read. A fault (locked, full, read-only, gone) fails
//! what was under way with [`StoreError::Unavailable`], and the next call tries again: no restart is needed.
//!
//! Where a statement orders its rows, a parameter is compared as `(SELECT ?1)`: compared plainly, its value takes part in
//! the choice of an order, and SQLite plans the statement anew at each use, which costs more than running it.

mod accounts;
mod connection;
mod events;
mod failure;
mod joining;
mod leases;
mod lock;
mod migrate;
mod open;
mod placements;
mod readers;
mod rows;
mod seats;
mod sessions;
mod workers;
mod workshops;
mod writer;

use async_trait::async_trait;
use clarateach_ids::{
    EventSeq, Generation, InstallationId, JoinCode, KeyId, SeatKey, SessionId, UserId, WorkshopId,
};
use clarateach_lifecycle::{EndReason, Wanted};
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use tokio::sync::broadcast;

use crate::{
    CodeHash, EventRecord, Fence, JoinDecision, JoinWish, KeyRecord, Lease, NewEvent, NewWorkshop, Placement,
    SeatRecord, SessionRecord, Store, StoreError, TokenHash, UserRecord, WorkerRecord, WorkerWish,
    WorkshopCounts, WorkshopRecord, WorkshopWrite,
};

pub use lock::{FileLock, LockError};
pub use migrate::MigrateError;
pub(crate) use open::LockedFile;
pub use open::OpenError;

use crate::timed::timed;
use failure::Outcome;
use readers::Readers;
use writer::{Write, Writer};

/// Wakes that a slow receiver may be behind before it lags.
const WAKES: usize = 1024;

/// The control plane's memory in a SQLite file. Made by [`SqliteStore::open`].
#[derive(Debug)]
pub struct SqliteStore {
    /// `None` in memory, where the writer reads.
    readers: Option<Readers>,
    writer: Writer,
    wakes: broadcast::Sender<WorkshopId>,
}

impl SqliteStore {
    async fn read<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&Connection) -> Outcome<T> + Send + 'static,
    {
        timed(operation, async {
            match &self.readers {
                Some(readers) => {
                    // Files that were exchanged are opened by the writer first.
                    if !readers.still_there() {
                        self.writer.ask(operation, |_| Ok(())).await?;
                    }
                    readers.ask(operation, work).await
                }
                None => self.writer.ask(operation, move |write| work(write.db)).await,
            }
        })
        .await
    }

    async fn write<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Write<'_>) -> Outcome<T> + Send + 'static,
    {
        timed(operation, self.writer.ask(operation, work)).await
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn installation(&self) -> Result<InstallationId, StoreError> {
        self.read("read the installation's id", |db| Ok(accounts::installation(db)?)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        if let Some(readers) = &self.readers {
            readers.has_room()?;
        }
        self.write("write a check", accounts::check).await?;
        self.installation().await.map(|_| ())
    }

    async fn create_workshop(&self, new: NewWorkshop) -> Result<WorkshopRecord, StoreError> {
        self.write("create a workshop", move |write| workshops::create(write, &new)).await
    }

    async fn workshop(&self, id: &WorkshopId) -> Result<WorkshopRecord, StoreError> {
        let id = id.clone();
        self.read("read a workshop", move |db| workshops::get(db, &id)).await
    }

    async fn workshop_by_code(&self, code: &JoinCode) -> Result<WorkshopRecord, StoreError> {
        let code = *code;
        self.read("read a workshop by its join code", move |db| workshops::by_code(db, &code)).await
    }

    async fn workshops(
        &self,
        owner: Option<&UserId>,
    ) -> Result<Vec<(WorkshopRecord, WorkshopCounts)>, StoreError> {
        let owner = owner.cloned();
        self.read("list workshops", move |db| workshops::list(db, owner.as_ref())).await
    }

    async fn workshop_counts(&self, id: &WorkshopId) -> Result<WorkshopCounts, StoreError> {
        let id = id.clone();
        self.read("count a workshop's seats", move |db| workshops::counts(db, &id)).await
    }

    async fn set_wanted(
        &self,
        id: &WorkshopId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        let id = id.clone();
        self.write("write what is wanted", move |write| workshops::set_wanted(write, &id, wanted, now)).await
    }

    async fn set_ends_at(
        &self,
        id: &WorkshopId,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        let id = id.clone();
        self.write("set a workshop's end", move |write| workshops::set_ends_at(write, &id, ends_at, now))
            .await
    }

    async fn set_locked(
        &self,
        id: &WorkshopId,
        locked: bool,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        let id = id.clone();
        self.write("lock a workshop", move |write| workshops::set_locked(write, &id, locked, now)).await
    }

    async fn purge_workshop(&self, id: &WorkshopId, fence: Option<&Fence>) -> Result<(), StoreError> {
        let (id, fence) = (id.clone(), fence.cloned());
        self.write("remove a workshop", move |write| workshops::purge(write, &id, fence.as_ref())).await
    }

    async fn seats(&self, id: &WorkshopId) -> Result<Vec<(SeatRecord, Option<SessionRecord>)>, StoreError> {
        let id = id.clone();
        self.read("list seats", move |db| {
            workshops::get(db, &id)?;
            seats::list(db, &id)
        })
        .await
    }

    async fn write_workshop(&self, wish: WorkshopWrite) -> Result<Vec<SessionRecord>, StoreError> {
        self.write("write down a workshop", move |write| workshops::write(write, &wish)).await
    }

    async fn reset_seat(&self, key: &SeatKey, now: Timestamp) -> Result<SeatRecord, StoreError> {
        let key = key.clone();
        self.write("reset a seat", move |write| seats::reset(write, &key, now)).await
    }

    async fn join(&self, wish: JoinWish) -> Result<JoinDecision, StoreError> {
        self.write("decide a join", move |write| joining::join(write, &wish)).await
    }

    async fn session_by_code(
        &self,
        code: &CodeHash,
    ) -> Result<(SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>), StoreError> {
        let code = *code;
        self.read("read a session by its code", move |db| sessions::by_code(db, &code)).await
    }

    async fn end_session(
        &self,
        id: &SessionId,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<SessionRecord, StoreError> {
        let id = id.clone();
        self.write("end a session", move |write| sessions::end(write, &id, reason, now)).await
    }

    async fn touch_sessions(&self, seen: &[(SessionId, Timestamp)]) -> Result<(), StoreError> {
        if seen.is_empty() {
            return Ok(());
        }
        let seen = seen.to_vec();
        self.write("note who was seen", move |write| sessions::touch(write, &seen)).await
    }

    async fn add_event(&self, event: NewEvent) -> Result<EventSeq, StoreError> {
        self.write("add an event", move |write| events::add_new(write, &event)).await
    }

    async fn events(
        &self,
        id: &WorkshopId,
        since: EventSeq,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        let id = id.clone();
        self.read("list events", move |db| {
            workshops::get(db, &id)?;
            events::list(db, &id, since, limit)
        })
        .await
    }

    fn event_wakes(&self) -> broadcast::Receiver<WorkshopId> {
        self.wakes.subscribe()
    }

    async fn put_worker(&self, worker: WorkerRecord) -> Result<WorkerRecord, StoreError> {
        self.write("record a worker", move |write| workers::put(write, &worker)).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.read("list workers", workers::list).await
    }

    async fn set_worker_wish(&self, id: &str, wish: WorkerWish) -> Result<WorkerRecord, StoreError> {
        let id = id.to_owned();
        self.write("write what is wanted of a worker", move |write| workers::set_wish(write, &id, wish)).await
    }

    async fn note_worker_kind(&self, id: &str, kind: &str) -> Result<(), StoreError> {
        let (id, kind) = (id.to_owned(), kind.to_owned());
        self.write("note a worker's kind", move |write| workers::note_kind(write, &id, &kind)).await
    }

    async fn remove_worker(&self, id: &str) -> Result<(), StoreError> {
        let id = id.to_owned();
        self.write("remove a worker", move |write| workers::remove(write, &id)).await
    }

    async fn place(&self, fence: Option<&Fence>, placement: Placement) -> Result<Placement, StoreError> {
        let fence = fence.cloned();
        self.write("place a seat", move |write| placements::place(write, fence.as_ref(), &placement)).await
    }

    async fn placements(&self, workshop: Option<&WorkshopId>) -> Result<Vec<Placement>, StoreError> {
        let workshop = workshop.cloned();
        self.read("list placements", move |db| placements::list(db, workshop.as_ref())).await
    }

    async fn unplace(&self, key: &SeatKey, worker: &str, generation: Generation) -> Result<(), StoreError> {
        let (key, worker) = (key.clone(), worker.to_owned());
        self.write("forget a placement", move |write| placements::remove(write, &key, &worker, generation))
            .await
    }

    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let (name, holder) = (name.to_owned(), holder.to_owned());
        self.write("take a lease", move |write| leases::acquire(write, &name, &holder, ttl, now)).await
    }

    async fn release_lease(&self, fence: &Fence, holder: &str) -> Result<(), StoreError> {
        let (fence, holder) = (fence.clone(), holder.to_owned());
        self.write("release a lease", move |write| leases::release(write, &fence, &holder)).await
    }

    async fn note_replica(
        &self,
        holder: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let holder = holder.to_owned();
        self.write("note a replica", move |write| leases::note_replica(write, &holder, ttl, now)).await
    }

    async fn create_user(&self, user: UserRecord, token: TokenHash) -> Result<(), StoreError> {
        self.write("create a user", move |write| accounts::create_user(write, &user, &token)).await
    }

    async fn user_by_token(&self, token: &TokenHash) -> Result<UserRecord, StoreError> {
        let token = *token;
        self.read("read a user by token", move |db| accounts::user_by_token(db, &token)).await
    }

    async fn users(&self) -> Result<Vec<UserRecord>, StoreError> {
        self.read("list users", accounts::users).await
    }

    async fn delete_user(&self, id: &UserId) -> Result<(), StoreError> {
        let id = id.clone();
        self.write("delete a user", move |write| accounts::delete_user(write, &id)).await
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.read("list signing keys", accounts::keys).await
    }

    async fn add_key(&self, key: KeyRecord) -> Result<(), StoreError> {
        self.write("add a signing key", move |write| accounts::add_key(write, &key)).await
    }

    async fn drop_keys_retired_before(&self, before: Timestamp) -> Result<(), StoreError> {
        self.write("drop retired keys", move |write| accounts::drop_keys_retired_before(write, before)).await
    }

    async fn retire_keys_except(&self, keep: &KeyId, at: Timestamp) -> Result<(), StoreError> {
        let keep = keep.clone();
        self.write("retire signing keys", move |write| accounts::retire_keys_except(write, &keep, at)).await
    }

    async fn close(&self) {
        if let Some(readers) = &self.readers {
            readers.close().await;
        }
        self.writer.close().await;
    }
}
