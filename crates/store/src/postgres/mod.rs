//! The store in a PostgreSQL database, which several servers may share.
//!
//! Whoever changes anything of a workshop first locks its row, so that all of it is decided one after the other, whichever
//! replica decides. Work that loses against others (a deadlock, a broken connection before the commit) is done again; what
//! can't be done now fails with [`StoreError::Unavailable`] within seconds, and the next call tries with a new connection.

mod accounts;
mod classroom;
mod database;
mod events;
mod failure;
mod grouped;
mod joining;
mod leases;
mod listen;
mod migrate;
mod open;
mod placements;
mod rows;
mod seats;
mod sessions;
mod tls;
mod url;
mod workers;
mod workshops;

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::{
    EventSeq, Generation, InstallationId, JoinCode, KeyId, SeatKey, SessionId, UserId, WorkshopId,
};
use clarateach_lifecycle::{EndReason, Wanted};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

use crate::{
    CodeHash, EventRecord, Fence, JoinDecision, JoinWish, KeyRecord, Lease, NewEvent, NewWorkshop, Placement,
    SeatRecord, SessionRecord, Store, StoreError, TokenHash, UserRecord, WorkerRecord, WorkerWish,
    WorkshopCounts, WorkshopRecord, WorkshopWrite,
};

pub use migrate::MigrateError;
pub use open::OpenError;
pub(crate) use open::migrated_client;
pub use tls::TlsError;
pub use url::{ParsePostgresUrlError, PostgresUrl};

use database::Database;
use grouped::Groups;
use placements::{Place, Unplace};

/// Wakes that a slow receiver may be behind before it lags.
const WAKES: usize = 1024;

/// The control plane's memory in a PostgreSQL database. Made by [`PostgresStore::connect`].
pub struct PostgresStore {
    database: Arc<Database>,
    joins: Arc<Groups<JoinWish>>,
    places: Arc<Groups<Place>>,
    unplaces: Arc<Groups<Unplace>>,
    wakes: broadcast::Sender<WorkshopId>,
    listening: JoinHandle<()>,
}

impl std::fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PostgresStore").finish_non_exhaustive()
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn installation(&self) -> Result<InstallationId, StoreError> {
        self.database
            .read("read the installation's id", |db| async move { accounts::installation(&db).await })
            .await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.database.write("write a check", |write| async move { accounts::check(&write).await }).await?;
        self.installation().await.map(|_| ())
    }

    async fn create_workshop(&self, new: NewWorkshop) -> Result<WorkshopRecord, StoreError> {
        let new = &new;
        self.database
            .write("create a workshop", |write| async move { workshops::create(&write, new).await })
            .await
    }

    async fn workshop(&self, id: &WorkshopId) -> Result<WorkshopRecord, StoreError> {
        self.database.read("read a workshop", |db| async move { workshops::get(&db, id).await }).await
    }

    async fn workshop_by_code(&self, code: &JoinCode) -> Result<WorkshopRecord, StoreError> {
        self.database
            .read("read a workshop by its join code", |db| async move { workshops::by_code(&db, code).await })
            .await
    }

    async fn workshops(
        &self,
        owner: Option<&UserId>,
    ) -> Result<Vec<(WorkshopRecord, WorkshopCounts)>, StoreError> {
        self.database.read("list workshops", |db| async move { workshops::list(&db, owner).await }).await
    }

    async fn workshop_counts(&self, id: &WorkshopId) -> Result<WorkshopCounts, StoreError> {
        self.database
            .read("count a workshop's seats", |db| async move { workshops::counts(&db, id).await })
            .await
    }

    async fn set_wanted(
        &self,
        id: &WorkshopId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        self.database
            .write("write what is wanted", |write| async move {
                workshops::set_wanted(&write, id, wanted, now).await
            })
            .await
    }

    async fn set_ends_at(
        &self,
        id: &WorkshopId,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        self.database
            .write("set a workshop's end", |write| async move {
                workshops::set_ends_at(&write, id, ends_at, now).await
            })
            .await
    }

    async fn set_locked(
        &self,
        id: &WorkshopId,
        locked: bool,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError> {
        self.database
            .write(
                "lock a workshop",
                |write| async move { workshops::set_locked(&write, id, locked, now).await },
            )
            .await
    }

    async fn purge_workshop(&self, id: &WorkshopId, fence: Option<&Fence>) -> Result<(), StoreError> {
        self.database
            .write("remove a workshop", |write| async move { workshops::purge(&write, id, fence).await })
            .await
    }

    async fn seats(&self, id: &WorkshopId) -> Result<Vec<(SeatRecord, Option<SessionRecord>)>, StoreError> {
        self.database.read("list seats", |db| async move { seats::list(&db, id).await }).await
    }

    async fn write_workshop(&self, wish: WorkshopWrite) -> Result<Vec<SessionRecord>, StoreError> {
        let wish = &wish;
        self.database
            .write("write down a workshop", |write| async move { workshops::write_down(&write, wish).await })
            .await
    }

    async fn reset_seat(&self, key: &SeatKey, now: Timestamp) -> Result<SeatRecord, StoreError> {
        self.database.write("reset a seat", |write| async move { seats::reset(&write, key, now).await }).await
    }

    async fn join(&self, wish: JoinWish) -> Result<JoinDecision, StoreError> {
        self.joins.ask(&self.database, wish).await
    }

    async fn session_by_code(
        &self,
        code: &CodeHash,
    ) -> Result<(SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>), StoreError> {
        self.database
            .read("read a session by its code", |db| async move { sessions::by_code(&db, code).await })
            .await
    }

    async fn end_session(
        &self,
        id: &SessionId,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<SessionRecord, StoreError> {
        self.database
            .write("end a session", |write| async move { sessions::end(&write, id, reason, now).await })
            .await
    }

    async fn touch_sessions(&self, seen: &[(SessionId, Timestamp)]) -> Result<(), StoreError> {
        if seen.is_empty() {
            return Ok(());
        }
        self.database
            .write("note who was seen", |write| async move { sessions::touch(&write, seen).await })
            .await
    }

    async fn add_event(&self, event: NewEvent) -> Result<EventSeq, StoreError> {
        let event = &event;
        self.database.write("add an event", |write| async move { events::add_new(&write, event).await }).await
    }

    async fn events(
        &self,
        id: &WorkshopId,
        since: EventSeq,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError> {
        self.database.read("list events", |db| async move { events::list(&db, id, since, limit).await }).await
    }

    fn event_wakes(&self) -> broadcast::Receiver<WorkshopId> {
        self.wakes.subscribe()
    }

    async fn put_worker(&self, worker: WorkerRecord) -> Result<WorkerRecord, StoreError> {
        let worker = &worker;
        self.database
            .write("record a worker", |write| async move { workers::put(&write, worker).await })
            .await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError> {
        self.database.read("list workers", |db| async move { workers::list(&db).await }).await
    }

    async fn set_worker_wish(&self, id: &str, wish: WorkerWish) -> Result<WorkerRecord, StoreError> {
        self.database
            .write("write what is wanted of a worker", |write| async move {
                workers::set_wish(&write, id, wish).await
            })
            .await
    }

    async fn note_worker_kind(&self, id: &str, kind: &str) -> Result<(), StoreError> {
        self.database
            .write("note a worker's kind", |write| async move { workers::note_kind(&write, id, kind).await })
            .await
    }

    async fn remove_worker(&self, id: &str) -> Result<(), StoreError> {
        self.database.write("remove a worker", |write| async move { workers::remove(&write, id).await }).await
    }

    async fn place(&self, fence: Option<&Fence>, placement: Placement) -> Result<Placement, StoreError> {
        self.places.ask(&self.database, Place { fence: fence.cloned(), wish: placement }).await
    }

    async fn placements(&self, workshop: Option<&WorkshopId>) -> Result<Vec<Placement>, StoreError> {
        self.database.read("list placements", |db| async move { placements::list(&db, workshop).await }).await
    }

    async fn unplace(&self, key: &SeatKey, worker: &str, generation: Generation) -> Result<(), StoreError> {
        let gone = Unplace { key: key.clone(), worker: worker.to_owned(), generation };
        self.unplaces.ask(&self.database, gone).await
    }

    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
        _now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        self.database
            .write("take a lease", |write| async move { leases::acquire(&write, name, holder, ttl).await })
            .await
    }

    async fn release_lease(&self, fence: &Fence, holder: &str) -> Result<(), StoreError> {
        self.database
            .write("release a lease", |write| async move { leases::release(&write, fence, holder).await })
            .await
    }

    async fn note_replica(
        &self,
        holder: &str,
        ttl: SignedDuration,
        _now: Timestamp,
    ) -> Result<u32, StoreError> {
        self.database
            .write("note a replica", |write| async move { leases::note_replica(&write, holder, ttl).await })
            .await
    }

    async fn create_user(&self, user: UserRecord, token: TokenHash) -> Result<(), StoreError> {
        let token = &token;
        let user = &user;
        self.database
            .write("create a user", |write| async move { accounts::create_user(&write, user, token).await })
            .await
    }

    async fn user_by_token(&self, token: &TokenHash) -> Result<UserRecord, StoreError> {
        self.database
            .read("read a user by token", |db| async move { accounts::user_by_token(&db, token).await })
            .await
    }

    async fn users(&self) -> Result<Vec<UserRecord>, StoreError> {
        self.database.read("list users", |db| async move { accounts::users(&db).await }).await
    }

    async fn delete_user(&self, id: &UserId) -> Result<(), StoreError> {
        self.database
            .write("delete a user", |write| async move { accounts::delete_user(&write, id).await })
            .await
    }

    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError> {
        self.database.read("list signing keys", |db| async move { accounts::keys(&db).await }).await
    }

    async fn add_key(&self, key: KeyRecord) -> Result<(), StoreError> {
        let key = &key;
        self.database
            .write("add a signing key", |write| async move { accounts::add_key(&write, key).await })
            .await
    }

    async fn drop_keys_retired_before(&self, before: Timestamp) -> Result<(), StoreError> {
        self.database
            .write("drop retired keys", |write| async move {
                accounts::drop_keys_retired_before(&write, before).await
            })
            .await
    }

    async fn retire_keys_except(&self, keep: &KeyId, at: Timestamp) -> Result<(), StoreError> {
        self.database
            .write("retire signing keys", |write| async move {
                accounts::retire_keys_except(&write, keep, at).await
            })
            .await
    }

    async fn close(&self) {
        self.listening.abort();
        self.database.close().await;
    }
}
