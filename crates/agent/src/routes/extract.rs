//! Requests → checked values. Refusals are the API's errors.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use clarateach_api::agent::AgentErrorCode;
use clarateach_ids::SeatKey;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::reply::Failure;

/// A body that takes longer is not waited for.
const BODY_WITHIN: Duration = Duration::from_secs(15);

/// A JSON body of type `T`.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split(';').next())
            .is_some_and(|mime| mime.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            return Err(Failure::new(
                AgentErrorCode::UnsupportedMediaType,
                "Send the body as JSON, with Content-Type: application/json.",
            ));
        }
        let bytes = tokio::time::timeout(BODY_WITHIN, Bytes::from_request(request, state))
            .await
            .map_err(|_| Failure::invalid("The body did not arrive in time."))?
            .map_err(|rejection| unreadable(&rejection))?;
        parse(&bytes).map(Self)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Failure> {
    // First whether it is JSON at all: a body that breaks off is told so, not that a field is missing.
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes)
        .map_err(|error| Failure::invalid(format!("The body is not JSON: {error}")))?;
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(Failure::invalid("The body must be a JSON object: {…}."));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { format!("{path}: ") };
        // Where in the text it stands helps nobody: the field is named.
        let problem = error.into_inner().to_string();
        let problem = problem.split(" at line ").next().unwrap_or_default();
        Failure::invalid(format!("{field}{problem}"))
    })
}

fn unreadable(rejection: &BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let message = "The body is too large; this call takes at most 256 KiB.";
        Failure::new(AgentErrorCode::TooLarge, message)
    } else {
        Failure::invalid("The body could not be read to its end.")
    }
}

/// The seat that a path names.
#[derive(Debug)]
pub(super) struct Seat(pub(super) SeatKey);

#[derive(Deserialize)]
struct SeatPath {
    workshop: String,
    seat: String,
}

impl<S: Send + Sync> FromRequestParts<S> for Seat {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let Path(path) = Path::<SeatPath>::from_request_parts(parts, state)
            .await
            .map_err(|_| Failure::invalid("The path is not UTF-8."))?;
        let workshop =
            path.workshop.parse().map_err(|error| Failure::invalid(format!("workshop: {error}")))?;
        let seat = path.seat.parse().map_err(|error| Failure::invalid(format!("seat: {error}")))?;
        Ok(Self(SeatKey { workshop, seat }))
    }
}

/// A parsed query string.
#[derive(Debug)]
pub(super) struct QueryOf<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| {
            let problem = rejection.body_text();
            let problem = problem.strip_prefix("Failed to deserialize query string: ").unwrap_or(&problem);
            Failure::invalid(format!("query: {problem}"))
        })
    }
}
