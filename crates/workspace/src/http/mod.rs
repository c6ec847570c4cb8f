//! The HTTP side: connections, bodies, refusals.

mod body;
mod refusal;
mod request_body;
mod stream;

pub(crate) use body::{Body, BodySender};
pub(crate) use refusal::Refusal;
pub(crate) use request_body::RequestBody;
pub(crate) use stream::{Listener, Stream};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};

/// A request as handlers get it.
pub(crate) type Request = http::Request<RequestBody>;
/// What every handler answers.
pub(crate) type Answer = Result<Response<Body>, Refusal>;

/// A JSON answer from a value.
pub(crate) fn json<T: serde::Serialize>(status: StatusCode, value: &T) -> Answer {
    let bytes = serde_json::to_vec(value).map_err(|e| Refusal::internal(&e))?;
    Ok(json_bytes(status, bytes.into()))
}

/// A JSON answer from bytes that are JSON.
pub(crate) fn json_bytes(status: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::full(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An answer without content.
pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// Reads a JSON body of at most `limit` bytes; an empty body reads as `{}`.
pub(crate) async fn read_json<T: serde::de::DeserializeOwned>(
    body: RequestBody,
    limit: usize,
) -> Result<T, Refusal> {
    let bytes = Limited::new(body, limit).collect().await.map_err(|e| body_refusal(&*e, limit))?.to_bytes();
    let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(bytes).map_err(|e| {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "INVALID_BODY",
            format!("the body is not what this call takes: {e}"),
        )
    })
}

fn body_refusal(error: &(dyn std::error::Error + 'static), limit: usize) -> Refusal {
    if error.is::<http_body_util::LengthLimitError>() {
        Refusal::too_large(limit as u64)
    } else {
        Refusal::new(StatusCode::BAD_REQUEST, "INVALID_BODY", "the body ended early")
    }
}

/// The value of a query parameter, percent-decoded.
pub(crate) fn query(uri: &http::Uri, name: &str) -> Result<Option<String>, Refusal> {
    let Some(raw) = uri.query().unwrap_or_default().split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    }) else {
        return Ok(None);
    };
    let spaced = raw.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8().map_err(|_| {
        Refusal::new(StatusCode::BAD_REQUEST, "INVALID_PATH", format!("the parameter {name} is not UTF-8"))
    })?;
    Ok(Some(decoded.into_owned()))
}
