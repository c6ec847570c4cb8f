//! Workers: who they are and how they are; add, drain, forget.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use clarateach_api::{AddWorker, AdminWorkersBody, DrainWorker, WorkerBody};

use super::extract::{Admin, JsonBody, PathOf, QueryOf};
use super::reply::Failure;
use super::workshops::{BodyRefused, Refused};
use crate::app::App;
use crate::app::error::AppError;
use crate::config::WorkerAgent;

/// Every worker: none on a single machine.
#[utoipa::path(get, path = "/api/admin/workers", tag = "admin", responses(
    (status = 200, body = AdminWorkersBody), Refused,
))]
pub(super) async fn list(State(app): State<Arc<App>>, _: Admin) -> Result<Json<AdminWorkersBody>, Failure> {
    let fleet = app.config.scaling.as_ref().map(|settings| app.scaling.view(settings));
    Ok(Json(AdminWorkersBody { workers: app.fleet.views(), fleet }))
}

/// A further worker, used as soon as it answers; or a new token and settings for the one with this address. A forgotten
/// one may be added again: what it still has is removed.
#[utoipa::path(post, path = "/api/admin/workers", tag = "admin", request_body = AddWorker, responses(
    (status = 200, body = WorkerBody, description = "it was there, and has these settings now"),
    (status = 201, body = WorkerBody), Refused, BodyRefused,
))]
pub(super) async fn add(
    State(app): State<Arc<App>>,
    _: Admin,
    JsonBody(wish): JsonBody<AddWorker>,
) -> Result<impl IntoResponse, Failure> {
    let agent = WorkerAgent {
        address: wish.address.trim().to_owned(),
        token: wish.token.into(),
        public_url: wish.public_url,
        labels: wish.labels,
        capacity: wish.capacity,
        tls: wish.tls_ca,
    };
    let agent = agent.checked().map_err(|wrong| AppError::field(wrong.field, wrong.problem))?;
    let (is_new, worker) = app.fleet.add(agent).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(WorkerBody { worker })))
}

/// Whether a worker takes new seats. From one that is drained free seats are moved elsewhere; held ones stay.
#[utoipa::path(post, path = "/api/admin/workers/{id}/drain", tag = "admin", params(("id" = String, Path)),
    request_body = DrainWorker, responses((status = 200, body = WorkerBody), Refused, BodyRefused))]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    _: Admin,
    PathOf(id): PathOf<String>,
    JsonBody(wish): JsonBody<DrainWorker>,
) -> Result<Json<WorkerBody>, Failure> {
    Ok(Json(WorkerBody { worker: app.fleet.drain(&id, wish.draining).await? }))
}

/// How a worker is forgotten.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Forget {
    #[serde(default)]
    force: bool,
}

/// Give a worker up, with all that it has. Held seats on it can be reset then. `CONFLICT` while it answers and has seats,
/// unless forced: then they are removed.
#[utoipa::path(delete, path = "/api/admin/workers/{id}", tag = "admin",
    params(("id" = String, Path), ("force" = Option<bool>, Query, description = "also while it answers and has seats")),
    responses((status = 204), Refused))]
pub(super) async fn forget(
    State(app): State<Arc<App>>,
    _: Admin,
    PathOf(id): PathOf<String>,
    QueryOf(query): QueryOf<Forget>,
) -> Result<StatusCode, Failure> {
    app.fleet.forget(&id, query.force).await?;
    Ok(StatusCode::NO_CONTENT)
}
