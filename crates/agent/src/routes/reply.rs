//! Answers: errors as the API's body, and headers that keep secrets out of caches.

use std::any::Any;

use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use clarateach_api::agent::{AgentErrorBody, AgentErrorCode};
use utoipa::IntoResponses;

use crate::error::AgentError;

/// An [`AgentError`] on its way out. The one place where errors become HTTP, and where they are logged.
#[derive(Debug)]
pub(super) struct Failure(pub(super) AgentError);

impl Failure {
    pub(super) fn new(code: AgentErrorCode, message: impl Into<String>) -> Self {
        Self(AgentError::new(code, message))
    }

    /// Something of the request can't be understood.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(AgentErrorCode::InvalidRequest, message)
    }
}

impl<E: Into<AgentError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let Self(AgentError { body, source }) = self;
        let code = body.error.code;
        if let Some(source) = &source {
            let causes = std::iter::successors(source.source(), |e| e.source())
                .fold(source.to_string(), |all, cause| format!("{all}: {cause}"));
            tracing::error!(?code, cause = causes, "a call failed");
        } else if code.status() >= 500 {
            tracing::warn!(?code, message = body.error.message, "a call could not be carried out");
        }
        let status = StatusCode::from_u16(code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        match code {
            AgentErrorCode::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            AgentErrorCode::TooManyAttempts | AgentErrorCode::Unavailable => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
            }
            AgentErrorCode::UpgradeRequired => {
                headers.insert(header::UPGRADE, HeaderValue::from_static("tcp"));
            }
            _ => {}
        }
        response
    }
}

/// A code as it travels.
pub(super) fn code_text(code: AgentErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

/// A handler panicked: the caller gets a 500, the process goes on.
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response<Body> {
    let what = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("something that is not text");
    let error = std::io::Error::other(format!("a handler panicked: {what}"));
    Failure(AgentError::internal(error)).into_response()
}

/// Answers of the API are for programs: no cache keeps them, no page frames or embeds them.
pub(super) async fn no_store(request: Request, next: Next) -> Response<Body> {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// What any call may be refused with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum Refused {
    /// `invalid_request`
    #[response(status = 400)]
    Invalid(#[to_schema] AgentErrorBody),
    /// `unauthorized`
    #[response(status = 401)]
    Unauthorized(#[to_schema] AgentErrorBody),
    /// `too_many_attempts`
    #[response(status = 429)]
    TooManyAttempts(#[to_schema] AgentErrorBody),
    /// `internal`, `vm_failed`, `vmm_exited`, `vmm_refused`, `network_refused`
    #[response(status = 500)]
    Failed(#[to_schema] AgentErrorBody),
    /// `unavailable`, `at_capacity`, `draining`, `kernel_not_found`, `kernel_unusable`, `vmm_unusable`,
    /// `host_unsuitable`, `network_conflict`
    #[response(status = 503)]
    Unavailable(#[to_schema] AgentErrorBody),
}

/// What a call about one VM may be refused with besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum VmRefused {
    /// `vm_not_found`
    #[response(status = 404)]
    NotFound(#[to_schema] AgentErrorBody),
    /// `vm_exists`, `stale_generation`
    #[response(status = 409)]
    Conflict(#[to_schema] AgentErrorBody),
}

/// What a call with a body may be refused with besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum BodyRefused {
    /// `too_large`
    #[response(status = 413)]
    TooLarge(#[to_schema] AgentErrorBody),
    /// `unsupported_media_type`
    #[response(status = 415)]
    UnsupportedMediaType(#[to_schema] AgentErrorBody),
}

/// What a call that makes something may be refused with besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum MakeRefused {
    /// `image_not_found`, `rootfs_unusable`
    #[response(status = 422)]
    ImageNotFound(#[to_schema] AgentErrorBody),
    /// `vmm_silent`
    #[response(status = 504)]
    Silent(#[to_schema] AgentErrorBody),
    /// `no_space`
    #[response(status = 507)]
    NoSpace(#[to_schema] AgentErrorBody),
}
