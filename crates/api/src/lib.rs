//! Wire types of the HTTP APIs and their error bodies: the server's here, the worker agent's in [`agent`].
//!
//! Times are RFC 3339 in UTC. Lists come as `{"workshops":[…]}`, single things as `{"workshop":{…}}`. Unknown fields
//! in requests are refused.

mod admin;
pub mod agent;
mod error;
mod fleet;
mod session;
mod time;
mod unique;
mod workshop;

pub use admin::{
    AdminOverview, AdminOverviewBody, AdminVm, AdminVmsBody, CreateUser, CreatedUserBody, Health,
    LoginRequest, Readiness, ReadinessPart, RuntimeView, RuntimesBody, UserView, UsersBody, WhoAmI,
};
pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use fleet::{AddWorker, AdminWorkersBody, DrainWorker, FleetView, WorkerBody, WorkerView};
pub use session::{JoinRequest, Joined, SessionState, SessionView, WaitingInLine};
pub use workshop::{
    CreateWorkshop, ExtendWorkshop, LockWorkshop, SeatCounts, SeatToken, SeatView, SeatsBody, WorkshopBody,
    WorkshopEvent, WorkshopView, WorkshopsBody,
};
