//! `/proxy/{workshop}/{seat}/…`: into a VM, for learners with a seat token and operators with the agent's.
//!
//! Tokens come by `Authorization` or by WebSocket subprotocol, never by cookie: the pages that come here are another
//! origin's, listed in `CORS_ORIGINS`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use clarateach_api::agent::AgentErrorCode;
use clarateach_gateway::{Refusal, WebOrigin};
use clarateach_ids::{InstallationId, SeatKey, SessionId};
use clarateach_seatproto::token::{Role, SeatClaims};
use jiff::Timestamp;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::auth;
use super::reply::Failure;
use crate::app::App;

/// How long an operator's stream may stay open, in seconds.
const OPERATOR_SECONDS: i64 = 12 * 3600;
/// How long browsers remember what they may send.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// What is nested at `/proxy/{workshop}/{seat}`.
pub(super) fn router(app: &Arc<App>) -> Router {
    app.gateway
        .router()
        .layer(axum::middleware::from_fn_with_state(Arc::clone(app), admit))
        .layer(cors(&app.config.listen.cors_origins))
}

/// The listed origins' pages may call with a token of their own; nobody's cookies are ever asked for.
fn cors(origins: &[WebOrigin]) -> CorsLayer {
    let origins: Vec<HeaderValue> =
        origins.iter().filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok()).collect();
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::PATCH])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::RANGE,
        ])
        .expose_headers([
            header::ACCEPT_RANGES,
            header::CONTENT_DISPOSITION,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::ETAG,
            header::LAST_MODIFIED,
        ])
        .max_age(PREFLIGHT)
}

async fn admit(
    State(app): State<Arc<App>>,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    request.headers_mut().remove(header::COOKIE);
    if request.uri().path() == "/auth" {
        return Refusal::not_found("a worker takes no cookies; show the token by Authorization: Bearer")
            .into_response();
    }
    let peer = auth::Peer::of(&request);
    if auth::is_operator(&app, request.headers()) {
        return as_operator(&app, &params, request).await;
    }
    let response = next.run(request).await;
    if response.status() == StatusCode::UNAUTHORIZED && auth::failed(&app, &peer) {
        let message = "Too many wrong tokens came from this address; wait a few seconds and try again.";
        return Failure::new(AgentErrorCode::TooManyAttempts, message).into_response();
    }
    response
}

/// An operator looks into the seat that is there now, as an instructor does.
async fn as_operator(app: &App, params: &RawPathParams, request: Request) -> Response<Body> {
    let Some(claims) = operator_claims(app, params) else {
        return Refusal::not_found("there is no such seat here").into_response();
    };
    app.gateway.serve_trusted(claims, request).await
}

fn operator_claims(app: &App, params: &RawPathParams) -> Option<SeatClaims> {
    let find = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let key = SeatKey { workshop: find("workshop")?.parse().ok()?, seat: find("seat")?.parse().ok()? };
    let (generation, _) = app.host.secret(&key)?;
    let now = Timestamp::now().as_second();
    let id = format!("operator-{}", app.worker_id);
    Some(SeatClaims {
        aud: InstallationId::random(),
        workshop: key.workshop,
        seat: key.seat,
        generation,
        session: id.get(..id.len().min(63))?.parse::<SessionId>().ok()?,
        role: Role::Instructor,
        iat: now,
        exp: now + OPERATOR_SECONDS,
    })
}
