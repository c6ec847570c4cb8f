//! What a request is refused with.

use std::borrow::Cow;

use axum::response::{IntoResponse, Response};
use clarateach_seatproto::{ErrorBody, ErrorDetail};
use http::{HeaderValue, StatusCode, header};

/// A refusal: HTTP status, a code for programs and a sentence for people. Answered as
/// `{"error":{"code":"…","message":"…"}}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: Cow<'static, str>,
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $code:literal;)+) => {
        impl Refusal {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self { status: StatusCode::$status, code: $code, message: message.into() }
            })+
        }
    };
}

refusals! {
    /// 400: the request can't be understood.
    bad_request = BAD_REQUEST, "BAD_REQUEST";
    /// 401: no token, or one that is not (or no longer) good.
    unauthorized = UNAUTHORIZED, "UNAUTHORIZED";
    /// 403: a foreign origin, or another seat's token.
    forbidden = FORBIDDEN, "FORBIDDEN";
    /// 404: no such thing.
    not_found = NOT_FOUND, "NOT_FOUND";
    /// 405: not with this method.
    method_not_allowed = METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED";
    /// 410: the session or its workshop is over; the message says why.
    ended = GONE, "ENDED";
    /// 413: the body is too large.
    too_large = PAYLOAD_TOO_LARGE, "TOO_LARGE";
    /// 422: a field of the body is wrong.
    invalid_field = UNPROCESSABLE_ENTITY, "INVALID_FIELD";
    /// 429: more streams than a session may have.
    too_many_streams = TOO_MANY_REQUESTS, "TOO_MANY_STREAMS";
    /// 431: the headers are too large.
    headers_too_large = REQUEST_HEADER_FIELDS_TOO_LARGE, "HEADERS_TOO_LARGE";
    /// 502: the seat's environment does not answer.
    seat_unreachable = BAD_GATEWAY, "SEAT_UNREACHABLE";
    /// 503: what is needed to decide does not answer now.
    unavailable = SERVICE_UNAVAILABLE, "RUNTIME_UNAVAILABLE";
}

impl Refusal {
    /// The HTTP status.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        self.code
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let detail = ErrorDetail { code: self.code.to_owned(), message: self.message.into_owned() };
        let mut response = (self.status, axum::Json(ErrorBody { error: detail })).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
