//! Rotates the signing keys and tells the gateway which to accept.

use std::sync::Arc;

use clarateach_seatproto::token::Verifier;
use jiff::Timestamp;

use crate::app::App;
use crate::app::signer::seat_keys;

/// One look at rotation.
pub(super) async fn rotate(app: Arc<App>) {
    match app.signer.rotate(&*app.store, &app.sealer, &app.leases, Timestamp::now()).await {
        Ok(keys) => {
            app.gateway.set_verifier(Verifier::new(app.installation.clone(), &keys));
            app.fleet.set_keys(seat_keys(&app.installation, &keys));
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn std::error::Error, "signing keys were not rotated")
        }
    }
}
