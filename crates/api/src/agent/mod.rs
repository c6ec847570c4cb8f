//! Wire types of the worker agent's HTTP API.
//!
//! The same conventions as the server's API, except that error codes are in lower case: `{"error":{"code":"vm_exists",…}}`.

mod error;
mod keys;
mod vm;
mod worker;

/// The header in which a control plane says which installation it is: it sees, and can touch, only the VMs that it made, and
/// those that nobody is known to have made.
pub const INSTALLATION_HEADER: &str = "x-clarateach-installation";

pub use error::{AgentErrorBody, AgentErrorCode, AgentErrorDetail};
pub use keys::{PublicKeyView, Revocations, RevokedSession, SeatKeys, SessionAtSeat, SessionsBody};
pub use vm::{
    DesiredVm, EgressView, NewVm, ReadinessView, ReasonView, VmDetails, VmLogs, VmView, VmsBody, WatchBody,
};
pub use worker::{
    BridgeView, Drain, DrainBody, HostView, ImageBody, ImageView, ImagesBody, MemoryView, PrepareImage,
    PrepareStep, VmmView, WorkerHealth, WorkerInfo,
};
