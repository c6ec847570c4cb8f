//! Answers: errors as the API's body, and headers that keep secrets out of caches.

use std::any::Any;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use clarateach_api::{ErrorBody, ErrorCode};

use crate::app::error::AppError;

/// An [`AppError`] on its way out. The one place where errors become HTTP, and where they are logged.
#[derive(Debug)]
pub struct Failure(pub AppError);

impl Failure {
    /// With a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(AppError::new(code, message))
    }
}

impl<E: Into<AppError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let Self(error) = self;
        if let Some(source) = &error.source {
            let causes = std::iter::successors(source.source(), |e| e.source())
                .fold(source.to_string(), |all, cause| format!("{all}: {cause}"));
            if error.code == ErrorCode::Internal {
                tracing::error!(cause = causes, "a call failed");
            } else {
                tracing::warn!(code = ?error.code, cause = causes, "a call could not be carried out");
            }
        }
        let status = StatusCode::from_u16(error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(ErrorBody::new(error.code, error.message))).into_response();
        let headers = response.headers_mut();
        match status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            _ => {}
        }
        response
    }
}

/// A handler panicked: the caller gets a 500, the process goes on.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("something that is not text");
    Failure(AppError::internal(std::io::Error::other(format!("a handler panicked: {what}")))).into_response()
}

/// Answers of the API may carry codes and tokens: no cache keeps them, no `Referer` tells them, no other site's page
/// frames or embeds them.
pub(super) async fn no_store(request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let nothing = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'");
    headers.insert(header::CONTENT_SECURITY_POLICY, nothing);
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}
