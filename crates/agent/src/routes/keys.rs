//! What a control plane pushes about seat tokens, and who uses theirs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use clarateach_api::agent::{Revocations, SeatKeys, SessionAtSeat, SessionsBody};
use clarateach_ids::InstallationId;
use jiff::Timestamp;

use super::extract::JsonBody;
use super::reply::{BodyRefused, Failure, Refused};
use super::vms::others;
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

/// Learners who have used their seat by `/proxy` lately: those with a terminal open, or a token that was shown within the
/// last minutes.
#[utoipa::path(get, path = "/sessions", tag = "keys", responses((status = 200, body = SessionsBody), Refused))]
pub(super) async fn sessions(
    State(app): State<Arc<App>>,
    caller: Option<Extension<InstallationId>>,
) -> Result<Json<SessionsBody>, Failure> {
    let others = others(&app, caller.as_ref()).await?;
    let now = Timestamp::now().as_second();
    let present = app.gateway.connected().into_iter();
    let present = present.filter(|(_, presence)| !others.contains(&presence.seat.to_string()));
    let mut sessions: Vec<SessionAtSeat> = present
        .map(|(session_id, presence)| {
            let idle = now.saturating_sub(presence.last_seen.as_second());
            SessionAtSeat { session_id, idle_seconds: u64::try_from(idle).unwrap_or(0) }
        })
        .collect();
    sessions.sort_by(|a, b| a.session_id.as_str().cmp(b.session_id.as_str()));
    Ok(Json(SessionsBody { sessions }))
}
