//! The records. Times are whole milliseconds in the database.

use std::fmt;

use clarateach_ids::{
    EventSeq, Generation, InstallationId, JoinCode, KeyId, SeatKey, SeatNumber, SessionId, UserId, WorkshopId,
};
use clarateach_lifecycle::{EndReason, SeatState, SessionState, Wanted, WorkshopStatus};
use jiff::Timestamp;

use crate::Fence;

/// BLAKE3 of a session code's canonical symbols: what is stored instead of the code.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CodeHash(pub [u8; 32]);

/// BLAKE3 of a user token: what is stored instead of the token.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash(pub [u8; 32]);

impl fmt::Debug for CodeHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodeHash")
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash")
    }
}

/// A workshop to be recorded.
#[derive(Debug, Clone)]
pub struct NewWorkshop {
    /// Its id.
    pub id: WorkshopId,
    /// Who owns it.
    pub owner: UserId,
    /// Its name.
    pub name: String,
    /// Its join code.
    pub join_code: JoinCode,
    /// How many seats.
    pub seats: u32,
    /// Name of the runtime.
    pub runtime: String,
    /// Image, as resolved.
    pub image: String,
    /// Environment variables: names in the open, for views.
    pub env_names: Vec<String>,
    /// Environment variables, sealed by the server key; the store can't read them.
    pub env_sealed: Vec<u8>,
    /// MiB.
    pub memory_mb: u32,
    /// Processors.
    pub vcpus: u32,
    /// MiB.
    pub disk_mb: u32,
    /// `Running` or, without autostart, `Created`.
    pub wanted: Wanted,
    /// When it stops by itself.
    pub ends_at: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// A workshop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkshopRecord {
    /// Its id.
    pub id: WorkshopId,
    /// Who owns it.
    pub owner: UserId,
    /// Its name.
    pub name: String,
    /// Its join code.
    pub join_code: JoinCode,
    /// How many seats.
    pub seats: u32,
    /// Name of the runtime.
    pub runtime: String,
    /// Image, as resolved.
    pub image: String,
    /// Names of the environment variables.
    pub env_names: Vec<String>,
    /// Environment variables, sealed.
    pub env_sealed: Vec<u8>,
    /// MiB.
    pub memory_mb: u32,
    /// Processors.
    pub vcpus: u32,
    /// MiB.
    pub disk_mb: u32,
    /// What is wanted.
    pub wanted: Wanted,
    /// What is so.
    pub status: WorkshopStatus,
    /// Why: code and sentence.
    pub reason: Option<(String, String)>,
    /// Whether newcomers are kept out.
    pub locked: bool,
    /// When it stops by itself.
    pub ends_at: Option<Timestamp>,
    /// When it was recorded.
    pub created_at: Timestamp,
}

/// Counts over a workshop's seats and sessions. `ready` counts free seats; held ones that answer are `occupied`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkshopCounts {
    /// Seats pending.
    pub pending: u32,
    /// Seats starting.
    pub starting: u32,
    /// Seats ready and free.
    pub ready: u32,
    /// Seats ready and held.
    pub occupied: u32,
    /// Seats unreachable.
    pub unreachable: u32,
    /// Seats failed.
    pub failed: u32,
    /// Sessions waiting.
    pub waiting: u32,
    /// Sessions active.
    pub active: u32,
}

/// A seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatRecord {
    /// Which.
    pub key: SeatKey,
    /// Which make of it is wanted.
    pub generation: Generation,
    /// How far it is.
    pub state: SeatState,
    /// Whether this generation was ever written down as ready or unreachable: then somebody may have worked in it.
    pub was_ready: bool,
    /// Why: code and sentence.
    pub reason: Option<(String, String)>,
    /// How often making this generation has failed.
    pub attempts: u32,
    /// Not to be tried again before.
    pub retry_at: Option<Timestamp>,
}

impl SeatRecord {
    /// The seat's next generation: pending, with a clean slate.
    pub(crate) fn renewed(&self) -> Self {
        Self {
            key: self.key.clone(),
            generation: self.generation.next(),
            state: SeatState::Pending,
            was_ready: false,
            reason: None,
            attempts: 0,
            retry_at: None,
        }
    }
}

/// What the reconciler writes of a seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeatWrite {
    /// Which.
    pub seat: SeatNumber,
    /// The generation that was looked at; skipped when the seat has another one by now.
    pub generation: Generation,
    /// The generation to go to: the same, or the next one when the seat is to be made anew. Skipped for a seat that a
    /// session holds by now, unless the generation that was looked at [was never ready](SeatRecord::was_ready).
    pub next_generation: Generation,
    /// How far it is.
    pub state: SeatState,
    /// Why.
    pub reason: Option<(String, String)>,
    /// How often making it has failed.
    pub attempts: u32,
    /// Not to be tried again before.
    pub retry_at: Option<Timestamp>,
    /// When true, skip this write if a session holds the seat by now: free seats only.
    pub only_if_free: bool,
}

/// What the reconciler writes of a workshop.
#[derive(Debug, Clone)]
pub struct WorkshopWrite {
    /// Which.
    pub id: WorkshopId,
    /// What was wanted when it was looked at: the status is skipped when that has changed by now.
    pub wanted: Wanted,
    /// What is so; `None` leaves it.
    pub status: Option<WorkshopStatus>,
    /// Why; written together with the status.
    pub reason: Option<(String, String)>,
    /// Seats whose record changes; others are left alone.
    pub seats: Vec<SeatWrite>,
    /// The lease on whose strength this is written.
    pub fence: Option<Fence>,
    /// Now.
    pub now: Timestamp,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecord {
    /// Its id.
    pub id: SessionId,
    /// The workshop.
    pub workshop: WorkshopId,
    /// The seat it holds, or held when it ended.
    pub seat: Option<SeatNumber>,
    /// How it is.
    pub state: SessionState,
    /// Why it ended.
    pub end_reason: Option<EndReason>,
    /// The learner's name.
    pub name: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last seen.
    pub last_seen_at: Timestamp,
}

/// A learner's wish to join. The join code was looked up by the store itself, in the same transaction.
#[derive(Debug, Clone)]
pub struct JoinWish {
    /// The join code.
    pub join_code: JoinCode,
    /// Id for the session, should a new one be made.
    pub new_session: SessionId,
    /// Hash of the session code for it. When the learner is known by `client_id` alone, the code is replaced by this
    /// one, since the old one can't be shown again (only its hash is kept); unless `returning_code` was right.
    pub new_code: CodeHash,
    /// Hash of the session code the learner came back with.
    pub returning_code: Option<CodeHash>,
    /// The browser's random value.
    pub client_id: Option<String>,
    /// The learner's name; replaces the recorded one when given.
    pub name: Option<String>,
    /// Now.
    pub now: Timestamp,
}

/// What became of a join.
///
/// In this order: unknown join code or workshop wanted deleted → `NotFound`; `returning_code` of a session *of this
/// workshop* that has not ended → that session (a code of another workshop is ignored); `client_id` of a session of this
/// workshop that has not ended → that session; an ended session by code → `Ended`; workshop wanted `Created` →
/// `NotRunning`, `Stopped` or past its `ends_at` → `Ended` (known sessions too, since no seat is there);
/// locked → `Locked`; a ready free seat (lowest number) and nobody in line before → active; seats that are
/// neither held nor promised to somebody in line → waiting; else `Full`.
/// Active plus waiting sessions never exceed the workshop's seats.
#[derive(Debug, Clone)]
pub enum JoinDecision {
    /// A seat.
    Seated {
        /// The session, active.
        session: SessionRecord,
        /// Its seat.
        seat: SeatRecord,
        /// The workshop.
        workshop: Box<WorkshopRecord>,
        /// Whether the session was there before.
        returning: bool,
        /// Whether the session's code is `new_code` now; otherwise `returning_code` stays good.
        code_is_new: bool,
    },
    /// A place in line.
    Waiting {
        /// The session, waiting.
        session: SessionRecord,
        /// From 1.
        place: u32,
        /// The workshop.
        workshop: Box<WorkshopRecord>,
        /// Whether the session's code is `new_code` now; otherwise `returning_code` stays good.
        code_is_new: bool,
    },
    /// No workshop has this code.
    NotFound,
    /// It has not been started.
    NotRunning,
    /// Newcomers are kept out.
    Locked,
    /// Every seat is held or promised.
    Full,
    /// The workshop, or this learner's session, is over.
    Ended {
        /// Why, for a session that was ended.
        reason: Option<EndReason>,
    },
}

/// An event to be added.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The workshop.
    pub workshop: WorkshopId,
    /// What, like `seat.opened_by_instructor`.
    pub kind: String,
    /// Details.
    pub data: serde_json::Value,
    /// Now.
    pub now: Timestamp,
}

/// An event.
#[derive(Debug, Clone, PartialEq)]
pub struct EventRecord {
    /// The workshop.
    pub workshop: WorkshopId,
    /// Position in its history.
    pub seq: EventSeq,
    /// When.
    pub at: Timestamp,
    /// What, like `workshop.running`, `seat.ready` or `session.ended`.
    pub kind: String,
    /// Details.
    pub data: serde_json::Value,
}

/// Somebody who owns workshops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRecord {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// A signing key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Its id.
    pub id: KeyId,
    /// The installation it signs for.
    pub installation: InstallationId,
    /// The private half, sealed by the server key.
    pub sealed_private: Vec<u8>,
    /// The public half.
    pub public: [u8; 32],
    /// When it was made.
    pub created_at: Timestamp,
    /// Not used to sign before this: published first.
    pub signs_from: Timestamp,
    /// Not used to sign after this; accepted until its last token is dead.
    pub retired_at: Option<Timestamp>,
}

impl fmt::Debug for KeyRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRecord")
            .field("id", &self.id)
            .field("retired_at", &self.retired_at)
            .finish_non_exhaustive()
    }
}
