//! Answers in Google's shape.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// A refusal.
#[derive(Debug, Clone)]
pub(super) struct No {
    pub(super) status: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl No {
    pub(super) fn new(status: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }

    pub(super) fn not_found(resource: &str) -> Self {
        Self::new(404, "notFound", format!("The resource '{resource}' was not found"))
    }

    pub(super) fn exists(resource: &str) -> Self {
        Self::new(409, "alreadyExists", format!("The resource '{resource}' already exists"))
    }

    pub(super) fn not_ready(resource: &str) -> Self {
        Self::new(400, "resourceNotReady", format!("The resource '{resource}' is not ready"))
    }

    pub(super) fn in_use(disk: &str, by: &str) -> Self {
        let message = format!("The disk resource '{disk}' is already being used by '{by}'");
        Self::new(400, "resourceInUseByAnotherResource", message)
    }

    pub(super) fn invalid(field: &str, why: impl std::fmt::Display) -> Self {
        Self::new(400, "invalid", format!("Invalid value for field '{field}': {why}"))
    }

    pub(super) fn unauthorized() -> Self {
        let message = "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
                       authentication credential.";
        Self::new(401, "authError", message)
    }
}

impl IntoResponse for No {
    fn into_response(self) -> Response {
        let mut body = json!({"error": {
            "code": self.status,
            "message": self.message,
            "errors": [{"message": self.message, "domain": "global", "reason": self.reason}],
        }});
        if self.status == 401 {
            body["error"]["status"] = "UNAUTHENTICATED".into();
        }
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(body)).into_response();
        if self.status == 401 {
            let challenge = header::HeaderValue::from_static("Bearer realm=\"https://accounts.google.com/\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}
