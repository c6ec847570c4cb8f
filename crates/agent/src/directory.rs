//! Where the gateway finds seats: among this host's VMs.

use std::sync::Arc;

use async_trait::async_trait;
use clarateach_gateway::{Refusal, SeatDirectory, SeatRoute};
use clarateach_seatproto::token::SeatClaims;

use crate::host::Host;

/// The gateway's view of the host.
pub struct Directory {
    host: Arc<dyn Host>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Directory")
    }
}

impl Directory {
    /// Over the host's VMs.
    #[must_use]
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }
}

#[async_trait]
impl SeatDirectory for Directory {
    async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal> {
        let key = claims.seat_key();
        let (generation, secret) =
            self.host.secret(&key).ok_or_else(|| Refusal::not_found("There is no such seat here."))?;
        Ok(SeatRoute { runtime: self.host.runtime(), key, generation, secret })
    }
}
