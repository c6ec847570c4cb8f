//! Workshops, their seats and events.

use std::collections::BTreeMap;

use clarateach_ids::{EventSeq, Generation, JoinCode, SeatNumber, UserId, WorkshopId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

fn yes() -> bool {
    true
}

/// `POST /api/workshops`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkshop {
    /// 1 to 100 characters, no control characters.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// How many seats, from 1 to the configured maximum (500).
    #[schema(minimum = 1, maximum = 500)]
    pub seats: u32,
    /// `docker`, `firecracker`, `qemu` or `process`; without one the best that is there.
    #[serde(default)]
    #[schema(example = "docker")]
    pub runtime: Option<String>,
    /// Container image; `clarateach-workspace` without one.
    #[serde(default)]
    #[schema(max_length = 255)]
    pub image: Option<String>,
    /// Environment variables for every seat; at most 64, names like `API_KEY`, values up to 8 KiB.
    #[serde(default, deserialize_with = "crate::unique::deserialize")]
    pub env: BTreeMap<String, String>,
    /// Memory of a seat in MiB, 64 to 65536; 512 without.
    #[serde(default)]
    #[schema(minimum = 64, maximum = 65536)]
    pub memory_mb: Option<u32>,
    /// Processors of a seat, 1 to 64; 2 without.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 64)]
    pub vcpus: Option<u32>,
    /// Disk of a seat in MiB, 256 to 1048576; 10240 without.
    #[serde(default)]
    #[schema(minimum = 256, maximum = 1048576)]
    pub disk_mb: Option<u32>,
    /// When the workshop stops by itself; not together with `duration_minutes`.
    #[serde(default, deserialize_with = "crate::time::deserialize")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// After how many minutes the workshop stops by itself, 1 to 43200.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 43200)]
    pub duration_minutes: Option<u32>,
    /// Whether to make the seats now (true) or on `/start`.
    #[serde(default = "yes")]
    #[schema(default = true)]
    pub autostart: bool,
}

/// `POST /api/workshops/{id}/extend`: exactly one of the two.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtendWorkshop {
    /// The new end.
    #[serde(default, deserialize_with = "crate::time::deserialize")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// How many minutes later than now planned (or than now, when no end was planned), 1 to 43200.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 43200)]
    pub minutes: Option<u32>,
}

/// `POST /api/workshops/{id}/lock`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LockWorkshop {
    /// Whether newcomers are kept out; those who hold a seat come back all the same.
    pub locked: bool,
}

/// How many seats are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SeatCounts {
    /// Wanted, nothing made yet.
    pub pending: u32,
    /// Being made.
    pub starting: u32,
    /// Free and answering.
    pub ready: u32,
    /// Held by a learner and answering.
    pub occupied: u32,
    /// Not answering; kept.
    pub unreachable: u32,
    /// Could not be made.
    pub failed: u32,
}

/// A workshop as its instructor sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkshopView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: WorkshopId,
    /// Its name.
    pub name: String,
    /// What learners type to join.
    #[schema(value_type = String, example = "K7QM-4XTP")]
    pub join_code: JoinCode,
    /// Where learners join.
    pub join_url: String,
    /// `created`, `provisioning`, `running`, `stopping`, `stopped`, `deleting` or `error`.
    #[schema(example = "running")]
    pub status: String,
    /// Why, when the status is `error` or something is amiss: code.
    pub reason_code: Option<String>,
    /// Why: one sentence.
    pub reason: Option<String>,
    /// How many seats it has.
    pub seats: u32,
    /// How they are.
    pub seat_counts: SeatCounts,
    /// Learners in line for a seat.
    pub waiting: u32,
    /// What makes its environments.
    pub runtime: String,
    /// Anything to know about that runtime's isolation here.
    pub warnings: Vec<String>,
    /// Container image.
    pub image: String,
    /// Names of the environment variables; the values are not shown.
    pub env_names: Vec<String>,
    /// MiB of memory per seat.
    pub memory_mb: u32,
    /// Processors per seat.
    pub vcpus: u32,
    /// MiB of disk per seat.
    pub disk_mb: u32,
    /// Whether newcomers are kept out.
    pub locked: bool,
    /// Who owns it.
    #[schema(value_type = String)]
    pub owner_id: UserId,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it stops by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ends_at: Option<Timestamp>,
    /// What is being fetched for it right now, such as an image, in a few words.
    pub progress: Option<String>,
}

/// `{"workshop":{…}}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkshopBody {
    /// The workshop.
    pub workshop: WorkshopView,
}

/// `{"workshops":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkshopsBody {
    /// Newest first.
    pub workshops: Vec<WorkshopView>,
}

/// One seat as the instructor sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SeatView {
    /// Its number, from 1.
    #[schema(value_type = u32)]
    pub seat: SeatNumber,
    /// `pending`, `starting`, `ready`, `occupied`, `unreachable` or `failed`.
    #[schema(example = "ready")]
    pub status: String,
    /// Why, for programs.
    pub reason_code: Option<String>,
    /// Why, for people.
    pub reason: Option<String>,
    /// Which make of the seat this is.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// Name of the learner who holds it.
    pub learner: Option<String>,
    /// When that learner joined.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub joined_at: Option<Timestamp>,
    /// When that learner last asked for a token or was connected.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Timestamp>,
    /// Whether the learner has a terminal or another stream open now.
    pub connected: bool,
}

/// `{"seats":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SeatsBody {
    /// By number.
    pub seats: Vec<SeatView>,
}

/// A token for an instructor to look into a seat and help.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SeatToken {
    /// The seat token, a JWT.
    pub token: String,
    /// Base URL of the seat's workspace.
    pub endpoint: String,
    /// When the token ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

/// One event of a workshop; the `data:` of a server-sent event, whose id is `seq`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkshopEvent {
    /// Position in the workshop's history.
    #[schema(value_type = u64)]
    pub seq: EventSeq,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What, like `workshop.running` or `seat.ready`.
    pub kind: String,
    /// Details, by kind.
    pub data: serde_json::Value,
}
