//! The runtime of a worker: an HTTP client of its agent (docs/agent-api.md).
//!
//! [`Worker`] is what a control plane needs of a worker beyond [`SharedRuntime`].

mod address;
mod calls;
mod client;
mod connect;
mod dial;
mod prepare;
mod refusal;
mod trust;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use clarateach_api::agent::{DrainBody, Revocations, SeatKeys, SessionAtSeat, WorkerInfo};
use clarateach_runtime::{RuntimeError, SharedRuntime};
use jiff::SignedDuration;

pub use address::{ClientError, Tls, WorkerAddress};
pub use client::WorkerClient;
pub use refusal::{incompatible, is_incompatible, is_token_refused, token_refused};

/// What a control plane needs of a worker.
#[async_trait]
pub trait Worker: SharedRuntime {
    /// What the worker is and has now, and how its clock stands to ours.
    ///
    /// # Errors
    /// [`RuntimeError::Unavailable`]; [`is_token_refused`] and [`is_incompatible`] tell the two kinds apart that time
    /// does not mend.
    async fn info(&self) -> Result<Sighting, RuntimeError>;

    /// Has the worker accept the seat tokens of these public keys, instead of those before.
    ///
    /// # Errors
    /// As [`Worker::info`]; [`RuntimeError::InvalidSpec`] for a key that is none.
    async fn set_keys(&self, keys: &SeatKeys) -> Result<(), RuntimeError>;

    /// Has the worker end sessions.
    ///
    /// # Errors
    /// As [`Worker::info`].
    async fn revoke(&self, sessions: &Revocations) -> Result<(), RuntimeError>;

    /// Learners who have used their seat at the worker itself lately.
    ///
    /// # Errors
    /// As [`Worker::info`]; [`is_incompatible`] also for an older agent, which can't say.
    async fn sessions(&self) -> Result<Vec<SessionAtSeat>, RuntimeError>;

    /// Has the worker refuse new seats from now on, or no longer.
    ///
    /// # Errors
    /// As [`Worker::info`].
    async fn drain(&self, draining: bool) -> Result<DrainBody, RuntimeError>;
}

/// A worker as it was seen a moment ago.
#[derive(Debug, Clone)]
pub struct Sighting {
    /// What it says of itself.
    pub info: WorkerInfo,
    /// Whether it drains because this installation told it to.
    pub drained_by_us: bool,
    /// The worker's clock minus ours, to a second; none when it does not say what time it is.
    pub clock_skew: Option<SignedDuration>,
    /// From the question to the answer.
    pub round_trip: Duration,
}
