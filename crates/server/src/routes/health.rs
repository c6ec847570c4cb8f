//! Liveness, readiness and measurements.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use clarateach_api::{ErrorBody, Health, Readiness, ReadinessPart};
use secrecy::ExposeSecret;
use subtle::ConstantTimeEq;

use super::reply::Failure;
use crate::app::App;
use crate::app::access::Caller;
use crate::telemetry;

fn ok() -> Json<Health> {
    Json(Health { status: "ok".to_owned() })
}

/// The process is alive.
#[utoipa::path(get, path = "/health", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn root_health() -> Json<Health> {
    ok()
}

/// The process is alive.
#[utoipa::path(get, path = "/api/health", tag = "health", responses((status = 200, body = Health)))]
pub(super) async fn health() -> Json<Health> {
    ok()
}

/// Whether the store and a runtime can be used; how many workers take seats.
#[utoipa::path(get, path = "/api/ready", tag = "health", responses(
    (status = 200, body = Readiness),
    (status = 503, body = Readiness, description = "something can't be used now"),
))]
pub(super) async fn ready(State(app): State<Arc<App>>) -> impl IntoResponse {
    let mut parts = vec![match app.store.check().await {
        Ok(()) => ReadinessPart { part: "store".to_owned(), ok: true, message: None },
        Err(error) => ReadinessPart { part: "store".to_owned(), ok: false, message: Some(error.to_string()) },
    }];
    for runtime in &app.runtimes.all() {
        let problem = runtime.capacity().await.err().map(|error| error.to_string());
        parts.push(ReadinessPart {
            part: runtime.kind().as_str().to_owned(),
            ok: problem.is_none(),
            message: problem,
        });
    }
    let store = parts[0].ok;
    let some_runtime = parts[1..].iter().any(|part| part.ok);
    if app.fleet.has_workers() {
        let (workers, usable) = app.fleet.count();
        let message = (usable < workers).then(|| format!("{usable} of {workers} take seats"));
        parts.push(ReadinessPart { part: "workers".to_owned(), ok: usable > 0, message });
    }
    let ready = store && some_runtime;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let word = if ready { "ready" } else { "degraded" };
    (status, Json(Readiness { status: word.to_owned(), parts }))
}

/// Measurements for Prometheus, for admins and whoever holds the scrape token.
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub(super) async fn metrics(
    State(app): State<Arc<App>>,
    parts: axum::http::request::Parts,
) -> Result<impl IntoResponse, Failure> {
    let scrape = match (&app.config.access.scrape_token, super::extract::bearer(&parts)) {
        (Some(wanted), Some(given)) => bool::from(wanted.expose_secret().as_bytes().ct_eq(given.as_bytes())),
        _ => false,
    };
    if !scrape {
        let mut parts = parts;
        let caller =
            <Caller as axum::extract::FromRequestParts<Arc<App>>>::from_request_parts(&mut parts, &app)
                .await?;
        caller.require_admin()?;
    }
    telemetry::gauges(&app).await;
    Ok(([("content-type", "text/plain; version=0.0.4")], telemetry::render()))
}
