//! Health, login and the admin's view.

use clarateach_ids::{Generation, SeatNumber, UserId, WorkshopId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`: the process is alive.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: String,
}

/// One part of readiness.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReadinessPart {
    /// `store` or a runtime's name.
    pub part: String,
    /// Whether it can be used now.
    pub ok: bool,
    /// Why not.
    pub message: Option<String>,
}

/// `GET /api/ready`: 200 when everything can be used, else 503 with the same body.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    /// `ready` or `degraded`.
    pub status: String,
    /// Part by part.
    pub parts: Vec<ReadinessPart>,
}

/// `POST /api/login`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    /// The admin token or a user token.
    #[schema(max_length = 512)]
    pub token: String,
}

/// Who the caller is to the server.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WhoAmI {
    /// The user.
    #[schema(value_type = String)]
    pub user_id: UserId,
    /// The user's name.
    pub name: String,
    /// Whether admin calls are open to the caller.
    pub admin: bool,
    /// Whether a login is needed at all on this server.
    pub login_required: bool,
}

/// `POST /api/admin/users`.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    /// 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
}

/// An instructor.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UserView {
    /// Its id.
    #[schema(value_type = String)]
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `{"users":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UsersBody {
    /// Oldest first.
    pub users: Vec<UserView>,
}

/// A new instructor with the token that is shown only once.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedUserBody {
    /// The instructor.
    pub user: UserView,
    /// What the instructor logs in with. It can't be shown again.
    pub token: String,
}

/// A runtime and how much room it has.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuntimeView {
    /// Its name.
    pub runtime: String,
    /// Whether it can be used now.
    pub available: bool,
    /// The most environments.
    pub capacity: u32,
    /// How many there are.
    pub used: u32,
    /// Anything to know about isolation, or why it can't be used.
    pub warnings: Vec<String>,
    /// Whether a workshop without a `runtime` gets this one.
    pub default: bool,
}

/// `{"runtimes":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RuntimesBody {
    /// In order of their names.
    pub runtimes: Vec<RuntimeView>,
}

/// The dashboard.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminOverview {
    /// Version of the server.
    pub version: String,
    /// How long the server has been up, in seconds.
    pub uptime_seconds: u64,
    /// Workshops there are.
    pub workshops: u32,
    /// Of these, running.
    pub running_workshops: u32,
    /// Seats wanted.
    pub seats: u32,
    /// Seats that answer, free or held.
    pub ready_seats: u32,
    /// Learners with a seat.
    pub learners: u32,
    /// Learners in line.
    pub waiting: u32,
    /// Environments there are, by whatever runtime.
    pub vms: u32,
    /// Workers there are.
    pub workers: u32,
    /// Of these, those that answer and take seats.
    pub usable_workers: u32,
    /// Runtimes of this server.
    pub runtimes: Vec<RuntimeView>,
}

/// `{"overview":{…}}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminOverviewBody {
    /// The dashboard.
    pub overview: AdminOverview,
}

/// One environment.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminVm {
    /// The workshop it was made for.
    #[schema(value_type = String)]
    pub workshop_id: WorkshopId,
    /// The seat it was made for.
    #[schema(value_type = u32)]
    pub seat_id: SeatNumber,
    /// Which make of the seat.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// Which runtime has it.
    pub runtime: String,
    /// Which worker has it; none on this machine.
    pub worker: Option<String>,
    /// `starting`, `ready`, `unresponsive`, `stopped`, `failed` or `removing`.
    pub status: String,
    /// Why.
    pub reason: Option<String>,
    /// Its address on its host.
    pub address: Option<String>,
    /// What its runtime calls it.
    pub handle: Option<String>,
}

/// `{"vms":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminVmsBody {
    /// By workshop and seat.
    pub vms: Vec<AdminVm>,
    /// Runtimes that could not be asked, with the reason; their environments are missing above.
    pub unknown: Vec<String>,
}
