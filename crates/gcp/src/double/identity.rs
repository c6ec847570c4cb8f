//! Access tokens: an OAuth token endpoint and the metadata server's.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Shared;

/// Seconds that a token is good for.
const GOOD_FOR: u64 = 3600;

fn issue(shared: &Shared) -> Option<serde_json::Value> {
    let mut world = shared.world();
    if !world.gives_tokens {
        return None;
    }
    let token = format!("ya29.double-{}", world.number());
    world.tokens.insert(token.clone());
    Some(json!({"access_token": token, "expires_in": GOOD_FOR, "token_type": "Bearer"}))
}

/// Whether a bearer token lets in: one that was issued, or one that a trusted service account signed for itself (a JWT; its signature
/// is not checked here). Source: Google's AIP-4111, self-signed JWTs.
pub(super) fn is_good(shared: &Shared, token: &str) -> bool {
    let world = shared.world();
    if world.tokens.contains(token) {
        return true;
    }
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Value = claims.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default();
    let trusted = claims["iss"].as_str().is_some_and(|issuer| world.service_accounts.contains(issuer));
    let scoped = claims["scope"].as_str().is_some_and(|scope| scope.contains("auth/compute"));
    trusted && scoped && claims["exp"].as_i64().is_some_and(|end| end > jiff::Timestamp::now().as_second())
}

/// `POST /token`. Source of the refusal: RFC 6749, 5.2, in Google's words.
pub(super) async fn token(State(shared): State<Arc<Shared>>) -> Response {
    match issue(&shared) {
        Some(token) => Json(token).into_response(),
        None => {
            let body =
                json!({"error": "invalid_grant", "error_description": "Token has been expired or revoked."});
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// `GET /computeMetadata/v1/instance/service-accounts/default/token`.
pub(super) async fn metadata_token(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if headers.get("metadata-flavor").is_none_or(|flavor| flavor != "Google") {
        return StatusCode::FORBIDDEN.into_response();
    }
    match issue(&shared) {
        Some(token) => ([("metadata-flavor", "Google")], Json(token)).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
