//! Requests → checked values: who calls, under which URL, with which body. Refusals are the API's errors.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::header;
use axum::http::request::Parts;
use clarateach_api::ErrorCode;
use serde::de::DeserializeOwned;

use super::guard::{Base, Peer};
use super::reply::Failure;
use crate::app::App;
use crate::app::access::Caller;

/// Name of the login cookie.
pub(super) const LOGIN_COOKIE: &str = "clarateach_login";

/// A JSON body of type `T`.
#[derive(Debug)]
pub(super) struct JsonBody<T>(pub T);

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
                ErrorCode::UnsupportedMediaType,
                "Send the body as JSON, with Content-Type: application/json.",
            ));
        }
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| too_large(&rejection))?;
        if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte == b'[') {
            return Err(Failure::new(ErrorCode::InvalidField, "The body must be a JSON object: {…}."));
        }
        if let Err(error) = std::str::from_utf8(&bytes) {
            let at = error.valid_up_to();
            return Err(Failure::new(
                ErrorCode::MalformedJson,
                format!("The body is not UTF-8 after byte {at}."),
            ));
        }
        // First whether it is JSON at all: a body that breaks off is told so, not that a field is missing.
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(|error| {
            Failure::new(ErrorCode::MalformedJson, format!("The body is not JSON: {error}"))
        })?;
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().to_string();
            let field = if path == "." { String::new() } else { format!("{path}: ") };
            // Where in the text it stands helps nobody: the field is named.
            let problem = error.into_inner().to_string();
            let problem = problem.split(" at line ").next().unwrap_or_default();
            Failure::new(ErrorCode::InvalidField, format!("{field}{}", in_plain_words(problem)))
        })?;
        Ok(Self(value))
    }
}

/// What serde says of a value of the wrong kind, for people who don't know its types.
fn in_plain_words(problem: &str) -> String {
    let told = problem.strip_prefix("invalid type: ").or_else(|| problem.strip_prefix("invalid value: "));
    let Some((given, expected)) = told.and_then(|told| told.rsplit_once(", expected ")) else {
        return problem.to_owned();
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" if given.starts_with("integer `-") => {
            "a whole number, 0 or more"
        }
        "u8" | "u16" | "u32" | "u64" | "usize" if given.starts_with("integer ") => "a smaller number",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a map" => "an object",
        "a sequence" => "an array",
        name if name.starts_with("struct ") => "a JSON object: {…}",
        other => other,
    };
    let given = match given {
        "sequence" => "an array",
        "map" => "an object",
        other => ["integer ", "floating point ", "boolean "]
            .iter()
            .find_map(|kind| other.strip_prefix(kind))
            .unwrap_or(other),
    };
    format!("must be {expected}; it is {given}")
}

fn too_large(rejection: &BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        Failure::new(ErrorCode::TooLarge, "The body is too large; this call takes at most 256 KiB.")
    } else {
        Failure::new(ErrorCode::BadRequest, "The body could not be read to its end.")
    }
}

/// A parsed path; what does not parse is not there.
#[derive(Debug)]
pub(super) struct PathOf<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for PathOf<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        Path::<T>::from_request_parts(parts, state).await.map(|Path(value)| Self(value)).map_err(|_| {
            Failure::new(ErrorCode::NotFound, "There is nothing at this path; check the id and the seat.")
        })
    }
}

/// The values of every cookie of the name.
fn cookies<'a>(parts: &'a Parts, name: &'static str) -> impl Iterator<Item = &'a str> {
    parts
        .headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(move |(key, value)| (key == name).then_some(value))
}

/// The bearer token of a request.
pub(super) fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

impl FromRequestParts<Arc<App>> for Caller {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        if !app.login_required() {
            return Ok(Self::Admin);
        }
        if let Some(token) = bearer(parts) {
            let caller = app.caller_by_token(token).await?;
            // A right token is never shut out by somebody else's wrong ones.
            if let (Self::Anonymous, Some(Peer(address))) = (&caller, parts.extensions.get::<Peer>().copied())
            {
                app.throttle.failed(address);
                app.throttle.admit(address)?;
            }
            return Ok(caller);
        }
        // A page on a sibling domain can plant a cookie of the name beside ours; any good one will do.
        for value in cookies(parts, LOGIN_COOKIE).take(8) {
            let caller = app.caller_by_cookie(value, jiff::Timestamp::now()).await?;
            if caller != Self::Anonymous {
                return Ok(caller);
            }
        }
        Ok(Self::Anonymous)
    }
}

/// What comes after the `?`, as `T`.
#[derive(Debug)]
pub(super) struct QueryOf<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        let axum::extract::Query(value) = query.map_err(|rejection| {
            Failure::new(ErrorCode::BadRequest, format!("The query can't be used: {}", rejection.body_text()))
        })?;
        Ok(Self(value))
    }
}

/// A caller we know: comes before the body, so that nobody else learns what a call would take.
#[derive(Debug)]
pub(super) struct Known(pub(super) Caller);

impl FromRequestParts<Arc<App>> for Known {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.user_id()?;
        Ok(Self(caller))
    }
}

/// A caller who is an admin.
#[derive(Debug)]
pub(super) struct Admin;

impl FromRequestParts<Arc<App>> for Admin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> Result<Self, Failure> {
        Caller::from_request_parts(parts, app).await?.require_admin()?;
        Ok(Self)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Peer {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts.extensions.get::<Self>().copied().ok_or_else(|| {
            Failure::new(ErrorCode::BadRequest, "The address that the request comes from is not known.")
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Base {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Failure::new(ErrorCode::BadRequest, "Send a Host header."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_speak_of_json_and_not_of_our_types() {
        for (said, told) in [
            ("invalid type: string \"3\", expected u32", "must be a whole number; it is string \"3\""),
            ("invalid value: integer `-1`, expected u32", "must be a whole number, 0 or more; it is `-1`"),
            (
                "invalid value: integer `4294967296`, expected u32",
                "must be a smaller number; it is `4294967296`",
            ),
            ("invalid type: floating point `1.5`, expected u32", "must be a whole number; it is `1.5`"),
            ("invalid type: sequence, expected a string", "must be a string; it is an array"),
            ("invalid type: null, expected struct CreateWorkshop", "must be a JSON object: {…}; it is null"),
            ("invalid type: integer `1`, expected a boolean", "must be true or false; it is `1`"),
            ("missing field `name`", "missing field `name`"),
        ] {
            assert_eq!(in_plain_words(said), told);
        }
    }
}
