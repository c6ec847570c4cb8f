//! Where a seat is: asked of whoever runs the gateway.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::Runtime;
use clarateach_seatproto::token::SeatClaims;
use secrecy::SecretString;

use crate::Refusal;

/// Knows where seats are now. Asked on every request, so it must answer from memory.
#[async_trait]
pub trait SeatDirectory: Send + Sync + 'static {
    /// The way to the seat that `claims` are for. The claims' signature, audience and expiry have been checked, or, for
    /// a preview, had been when it was made: `exp` may have passed while the session's lease goes on.
    ///
    /// # Errors
    /// [`Refusal::ended`] with the reason when the session is over, [`Refusal::not_found`] when there is no such seat,
    /// [`Refusal::seat_unreachable`] when it has nothing running. A route with another generation than the claims' is
    /// refused by the gateway.
    async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal>;
}

/// The way to a seat.
#[derive(Clone)]
pub struct SeatRoute {
    /// The runtime that dials it.
    pub runtime: Arc<dyn Runtime>,
    /// The seat.
    pub key: SeatKey,
    /// The make of it that is running.
    pub generation: Generation,
    /// What its workspace asks of every caller.
    pub secret: SecretString,
}

impl fmt::Debug for SeatRoute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SeatRoute")
            .field("key", &self.key)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
