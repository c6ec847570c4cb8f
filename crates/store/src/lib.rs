//! What is wanted and who holds what, kept in SQLite or PostgreSQL.
//!
//! [`Store`] is the whole of it: each method is one transaction, and only this crate names SQL. SQLite serves one server,
//! PostgreSQL several that share the work; both halves pass the same story of tests.

mod error;
mod event_data;
mod fleet;
mod migration;
mod model;
pub mod postgres;
pub mod sqlite;
mod timed;
pub mod transfer;
mod url;

use async_trait::async_trait;
use clarateach_ids::{
    EventSeq, Generation, InstallationId, JoinCode, SeatKey, SessionId, UserId, WorkshopId,
};
use clarateach_lifecycle::{EndReason, Wanted};
use jiff::{SignedDuration, Timestamp};

pub use error::StoreError;
pub use fleet::{Fence, Lease, Placement, UnknownWord, WorkerRecord, WorkerSource, WorkerWish};
pub use model::{
    CodeHash, EventRecord, JoinDecision, JoinWish, KeyRecord, NewEvent, NewWorkshop, SeatRecord, SeatWrite,
    SessionRecord, TokenHash, UserRecord, WorkshopCounts, WorkshopRecord, WorkshopWrite,
};
pub use url::{DatabaseUrl, ParseDatabaseUrlError};

/// The control plane's memory. Every method is atomic; every error leaves everything as it was.
///
/// Callers pass `now`, so that the store has no clock of its own.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The id of this installation; made at the first start and never changed.
    async fn installation(&self) -> Result<InstallationId, StoreError>;

    /// Whether the store can be read and written now: writes something and takes it back.
    async fn check(&self) -> Result<(), StoreError>;

    // --- workshops ---------------------------------------------------------------------------------------------

    /// Records a workshop with all its seats pending at generation 1 and a `workshop.created` event.
    /// `Conflict` when the join code is taken: draw another.
    async fn create_workshop(&self, new: NewWorkshop) -> Result<WorkshopRecord, StoreError>;

    /// One workshop; `NotFound` when there is none.
    async fn workshop(&self, id: &WorkshopId) -> Result<WorkshopRecord, StoreError>;

    /// The workshop with this join code; `NotFound` when there is none.
    async fn workshop_by_code(&self, code: &JoinCode) -> Result<WorkshopRecord, StoreError>;

    /// Workshops of `owner`, or all; newest first, each with its counts.
    async fn workshops(
        &self,
        owner: Option<&UserId>,
    ) -> Result<Vec<(WorkshopRecord, WorkshopCounts)>, StoreError>;

    /// Counts of one workshop.
    async fn workshop_counts(&self, id: &WorkshopId) -> Result<WorkshopCounts, StoreError>;

    /// Writes down what is wanted. `Deleted` is final: a later other wish is a `Conflict`. Going from `Stopped` or
    /// `Created` to `Running` gives every seat its next generation, state pending and a clean slate of attempts.
    /// `Deleted` ends all sessions with [`EndReason::WorkshopDeleted`]. Returns the record after it.
    async fn set_wanted(
        &self,
        id: &WorkshopId,
        wanted: Wanted,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError>;

    /// Sets or clears the end.
    async fn set_ends_at(
        &self,
        id: &WorkshopId,
        ends_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError>;

    /// Keeps newcomers out, or lets them in.
    async fn set_locked(
        &self,
        id: &WorkshopId,
        locked: bool,
        now: Timestamp,
    ) -> Result<WorkshopRecord, StoreError>;

    /// Removes every row of a workshop that is wanted deleted: seats, sessions, events, itself. `Conflict` while
    /// workers may hold something of it.
    async fn purge_workshop(&self, id: &WorkshopId, fence: Option<&Fence>) -> Result<(), StoreError>;

    // --- reconciling -------------------------------------------------------------------------------------------

    /// Every seat of a workshop, by number, each with the session that holds it.
    async fn seats(&self, id: &WorkshopId) -> Result<Vec<(SeatRecord, Option<SessionRecord>)>, StoreError>;

    /// Writes down what the reconciler saw and decided for a workshop, in one transaction: workshop status and reason,
    /// seat states, then waiting sessions bound to ready free seats, first come, first served. A seat write whose
    /// generation isn't the seat's is skipped: a newer decision has been made since. Events are added for every
    /// change of status. Returns the sessions that got a seat. `Fenced` when the write's fence does not hold any more.
    async fn write_workshop(&self, write: WorkshopWrite) -> Result<Vec<SessionRecord>, StoreError>;

    /// Gives a seat its next generation, pending, with no attempts: a person chose a fresh one. The session that holds
    /// it keeps it. Event `seat.reset`. Returns the seat.
    async fn reset_seat(&self, key: &SeatKey, now: Timestamp) -> Result<SeatRecord, StoreError>;

    // --- sessions ----------------------------------------------------------------------------------------------

    /// Decides a join in one transaction; see [`JoinDecision`]. Many joins may share one commit.
    async fn join(&self, wish: JoinWish) -> Result<JoinDecision, StoreError>;

    /// The session with this code, with its workshop and seat, and its place in line (from 1) when waiting;
    /// `NotFound` when there is none.
    async fn session_by_code(
        &self,
        code: &CodeHash,
    ) -> Result<(SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>), StoreError>;

    /// Ends a session and frees its seat, which gets its next generation (pending), so that nobody inherits another's
    /// work. Event `session.ended`. Returns the session; `NotFound` when there is none, no-op when it has ended.
    async fn end_session(
        &self,
        id: &SessionId,
        reason: EndReason,
        now: Timestamp,
    ) -> Result<SessionRecord, StoreError>;

    /// Notes when sessions were last seen. Ids that are gone are skipped.
    async fn touch_sessions(&self, seen: &[(SessionId, Timestamp)]) -> Result<(), StoreError>;

    // --- events ------------------------------------------------------------------------------------------------

    /// Adds an event.
    async fn add_event(&self, event: NewEvent) -> Result<EventSeq, StoreError>;

    /// Events of a workshop after `since`, oldest first, at most `limit`.
    async fn events(
        &self,
        id: &WorkshopId,
        since: EventSeq,
        limit: u32,
    ) -> Result<Vec<EventRecord>, StoreError>;

    /// A receiver that wakes after every commit that added an event, with the workshop's id. It may lag: on lag, look.
    fn event_wakes(&self) -> tokio::sync::broadcast::Receiver<WorkshopId>;

    // --- workers -----------------------------------------------------------------------------------------------

    /// Records a worker, or replaces the one with its id. Of one that is there, `created_at` stays, its kind stays where
    /// none is given, and unless it was forgotten what is wanted of it stays. `Conflict` when another worker that is not
    /// forgotten has the address. Returns the record after it.
    async fn put_worker(&self, worker: WorkerRecord) -> Result<WorkerRecord, StoreError>;

    /// All workers, by id, forgotten ones too.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, StoreError>;

    /// Writes down what is wanted of a worker. `Forgotten` also deletes its placements. `NotFound` when there is none,
    /// `Conflict` when a forgotten one is wanted again and its address is taken. Returns the record after it.
    async fn set_worker_wish(&self, id: &str, wish: WorkerWish) -> Result<WorkerRecord, StoreError>;

    /// Notes which kind of runtime a worker has; nothing when there is no such worker.
    async fn note_worker_kind(&self, id: &str, kind: &str) -> Result<(), StoreError>;

    /// Removes a worker's row; `Conflict` while placements name it, fine when there is none.
    async fn remove_worker(&self, id: &str) -> Result<(), StoreError>;

    /// Writes down, before it is asked to, that a worker may hold a seat's generation. `Conflict` unless the workshop is
    /// wanted running, this is the seat's generation, and the worker is there and not forgotten. When the seat has been
    /// placed at this generation or a higher one, on whichever worker, that placement is returned and nothing changes.
    async fn place(&self, fence: Option<&Fence>, placement: Placement) -> Result<Placement, StoreError>;

    /// What workers may hold, of one workshop or of all: by seat, then generation, the highest first.
    async fn placements(&self, workshop: Option<&WorkshopId>) -> Result<Vec<Placement>, StoreError>;

    /// Forgets that a worker may hold a seat, up to a generation: it has said that nothing is left.
    async fn unplace(&self, key: &SeatKey, worker: &str, generation: Generation) -> Result<(), StoreError>;

    // --- replicas ----------------------------------------------------------------------------------------------

    /// Takes a lease that is free or has expired, with the next token, or extends one's own, with the same token. `None`
    /// when another has it. SQLite compares with `now`; PostgreSQL with the database's clock, so that it does not matter
    /// how those of the replicas differ.
    async fn acquire_lease(
        &self,
        name: &str,
        holder: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError>;

    /// Gives one's lease back; nothing when another has it by now. Its fence does not hold any more.
    async fn release_lease(&self, fence: &Fence, holder: &str) -> Result<(), StoreError>;

    /// A sign of life of a replica, good for `ttl`. Returns how many are alive, this one included; forgets the long dead.
    async fn note_replica(
        &self,
        holder: &str,
        ttl: SignedDuration,
        now: Timestamp,
    ) -> Result<u32, StoreError>;

    // --- users and keys ----------------------------------------------------------------------------------------

    /// Records a user.
    async fn create_user(&self, user: UserRecord, token: TokenHash) -> Result<(), StoreError>;

    /// The user with this token; `NotFound` when there is none.
    async fn user_by_token(&self, token: &TokenHash) -> Result<UserRecord, StoreError>;

    /// All users, oldest first.
    async fn users(&self) -> Result<Vec<UserRecord>, StoreError>;

    /// Removes a user who owns no workshops; `Conflict` when workshops are left, `NotFound` when there is none.
    async fn delete_user(&self, id: &UserId) -> Result<(), StoreError>;

    /// All signing keys, oldest first.
    async fn keys(&self) -> Result<Vec<KeyRecord>, StoreError>;

    /// Adds a signing key.
    async fn add_key(&self, key: KeyRecord) -> Result<(), StoreError>;

    /// Removes signing keys that were retired before `before`.
    async fn drop_keys_retired_before(&self, before: Timestamp) -> Result<(), StoreError>;

    /// Sets when keys other than `keep` are retired, where that is not set yet.
    async fn retire_keys_except(&self, keep: &clarateach_ids::KeyId, at: Timestamp)
    -> Result<(), StoreError>;

    /// Closes the store: waits for what is under way, writes the journal back and lets go of the file.
    async fn close(&self);
}
