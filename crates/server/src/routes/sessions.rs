//! Joining and coming back.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use clarateach_api::{ErrorBody, ErrorCode, JoinRequest, Joined, SessionView, WaitingInLine};
use jiff::Timestamp;

use super::extract::{JsonBody, PathOf};
use super::guard::{Base, Peer};
use super::reply::Failure;
use crate::app::App;
use crate::app::error::AppError;
use crate::app::sessions::JoinAnswer;

/// Guessed codes count against the address; a full or locked workshop does not.
fn note_failure(app: &App, Peer(address): Peer, error: AppError) -> Failure {
    if matches!(error.code, ErrorCode::NotFound) {
        app.throttle.failed(address);
    }
    Failure(error)
}

/// Join a workshop with its code.
#[utoipa::path(post, path = "/api/join", tag = "sessions", request_body = JoinRequest, responses(
    (status = 200, body = Joined, description = "a seat"),
    (status = 202, body = WaitingInLine, description = "a place in line while seats are starting"),
    (status = 400, body = ErrorBody, description = "MALFORMED_JSON, BAD_REQUEST"),
    (status = 403, body = ErrorBody, description = "JOINING_LOCKED, FORBIDDEN"),
    (status = 404, body = ErrorBody, description = "NOT_FOUND"),
    (status = 409, body = ErrorBody, description = "NOT_RUNNING, NO_SEATS"),
    (status = 410, body = ErrorBody, description = "ENDED"),
    (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody, description = "INVALID_FIELD"),
    (status = 429, body = ErrorBody, description = "TOO_MANY_ATTEMPTS"),
    (status = 503, body = ErrorBody, description = "STORE_UNAVAILABLE"),
))]
pub(super) async fn join(
    State(app): State<Arc<App>>,
    peer: Peer,
    Base(base): Base,
    JsonBody(request): JsonBody<JoinRequest>,
) -> Result<Response, Failure> {
    app.throttle.admit(peer.0)?;
    match app.join(&base, request, Timestamp::now()).await {
        Ok(JoinAnswer::Seated(joined)) => Ok(Json(joined).into_response()),
        Ok(JoinAnswer::Waiting(waiting)) => Ok((StatusCode::ACCEPTED, Json(waiting)).into_response()),
        Err(error) => Err(note_failure(&app, peer, error)),
    }
}

/// How the session with this code is; gives a fresh seat token.
#[utoipa::path(get, path = "/api/session/{code}", tag = "sessions",
    params(("code" = String, Path, description = "the session code")),
    responses(
        (status = 200, body = SessionView),
        (status = 400, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 429, body = ErrorBody),
        (status = 503, body = ErrorBody),
    ))]
pub(super) async fn session(
    State(app): State<Arc<App>>,
    peer: Peer,
    Base(base): Base,
    PathOf(code): PathOf<String>,
) -> Result<Json<SessionView>, Failure> {
    // A right code is never shut out by somebody else's wrong ones: it is too long to be guessed.
    match app.session(&base, &code, Timestamp::now()).await {
        Ok(view) => Ok(Json(view)),
        Err(error) => {
            app.throttle.admit(peer.0)?;
            Err(note_failure(&app, peer, error))
        }
    }
}
