//! Rotates the signing keys and tells the gateway which to accept.

use std::sync::Arc;

use clarateach_seatproto::token::Verifier;
use jiff::Timestamp;

use crate::app::App;

/// One look at rotation.
pub(super) async fn rotate(app: Arc<App>) {
    match app.signer.rotate(&*app.store, &app.sealer, Timestamp::now()).await {
        Ok(keys) => app.gateway.set_verifier(Verifier::new(app.installation.clone(), &keys)),
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "signing keys were not rotated")
        }
    }
}
