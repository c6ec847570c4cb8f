//! What a control plane pushes about seat tokens.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use clarateach_api::agent::{Revocations, SeatKeys};

use super::extract::JsonBody;
use super::reply::{BodyRefused, Failure, Refused};
use crate::app::App;

/// Accept the seat tokens of these public keys, instead of those before; remembered over restarts.
#[utoipa::path(put, path = "/keys", tag = "keys", request_body = SeatKeys, responses(
    (status = 204), Refused, BodyRefused,
))]
pub(super) async fn keys(
    State(app): State<Arc<App>>,
    JsonBody(keys): JsonBody<SeatKeys>,
) -> Result<StatusCode, Failure> {
    app.set_keys(&keys)?;
    Ok(StatusCode::NO_CONTENT)
}

/// End sessions: their streams are closed with the reason, and the tokens they have now are refused.
#[utoipa::path(post, path = "/revocations", tag = "keys", request_body = Revocations, responses(
    (status = 204), Refused, BodyRefused,
))]
pub(super) async fn revocations(
    State(app): State<Arc<App>>,
    JsonBody(wish): JsonBody<Revocations>,
) -> Result<StatusCode, Failure> {
    app.revoke(&wish)?;
    Ok(StatusCode::NO_CONTENT)
}
