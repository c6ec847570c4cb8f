//! Workshops and their seats, for those who own them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use clarateach_api::{
    CreateWorkshop, ErrorBody, ExtendWorkshop, LockWorkshop, SeatToken, SeatsBody, WorkshopBody,
    WorkshopsBody,
};
use clarateach_ids::{SeatKey, SeatNumber, SessionId, WorkshopId};
use clarateach_lifecycle::Wanted;
use clarateach_store::{StoreError, WorkshopCounts, WorkshopRecord};
use jiff::Timestamp;
use utoipa::IntoResponses;

use super::extract::{JsonBody, Known, PathOf};
use super::guard::Base;
use super::reply::Failure;
use crate::app::App;
use crate::app::access::Caller;
use crate::app::error::AppError;

/// What any call on workshops may be refused with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum Refused {
    /// BAD_REQUEST
    #[response(status = 400)]
    BadRequest(#[to_schema] ErrorBody),
    /// UNAUTHORIZED
    #[response(status = 401)]
    Unauthorized(#[to_schema] ErrorBody),
    /// FORBIDDEN
    #[response(status = 403)]
    Forbidden(#[to_schema] ErrorBody),
    /// NOT_FOUND
    #[response(status = 404)]
    NotFound(#[to_schema] ErrorBody),
    /// CONFLICT
    #[response(status = 409)]
    Conflict(#[to_schema] ErrorBody),
    /// TOO_MANY_ATTEMPTS
    #[response(status = 429)]
    TooManyAttempts(#[to_schema] ErrorBody),
    /// STORE_UNAVAILABLE, RUNTIME_UNAVAILABLE
    #[response(status = 503)]
    Unavailable(#[to_schema] ErrorBody),
}

/// What a call with a body may be refused with besides.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(super) enum BodyRefused {
    /// TOO_LARGE
    #[response(status = 413)]
    TooLarge(#[to_schema] ErrorBody),
    /// UNSUPPORTED_MEDIA_TYPE
    #[response(status = 415)]
    UnsupportedMediaType(#[to_schema] ErrorBody),
    /// INVALID_FIELD, IMAGE_NOT_FOUND, NO_RUNTIME
    #[response(status = 422)]
    InvalidField(#[to_schema] ErrorBody),
}

async fn body(app: &App, base: &str, workshop: WorkshopRecord) -> Result<Json<WorkshopBody>, Failure> {
    let counts = app.store.workshop_counts(&workshop.id).await?;
    Ok(Json(WorkshopBody { workshop: app.workshop_view(base, workshop, counts).await }))
}

/// The caller's workshops; all of them for admins.
#[utoipa::path(get, path = "/api/workshops", tag = "workshops", responses(
    (status = 200, body = WorkshopsBody), Refused,
))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
) -> Result<Json<WorkshopsBody>, Failure> {
    let owner = caller.user_id()?;
    let owner = (caller != Caller::Admin).then_some(&owner);
    let mut workshops = Vec::new();
    for (workshop, counts) in app.store.workshops(owner).await? {
        workshops.push(app.workshop_view(&base, workshop, counts).await);
    }
    Ok(Json(WorkshopsBody { workshops }))
}

/// Create a workshop. Answers at once; its seats are made meanwhile.
#[utoipa::path(post, path = "/api/workshops", tag = "workshops", request_body = CreateWorkshop, responses(
    (status = 201, body = WorkshopBody), Refused, BodyRefused,
))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    JsonBody(wish): JsonBody<CreateWorkshop>,
) -> Result<impl IntoResponse, Failure> {
    let workshop = app.create_workshop(&caller, wish, Timestamp::now()).await?;
    Ok((StatusCode::CREATED, body(&app, &base, workshop).await?))
}

/// One workshop.
#[utoipa::path(get, path = "/api/workshops/{id}", tag = "workshops", params(("id" = String, Path)), responses(
    (status = 200, body = WorkshopBody), Refused,
))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
) -> Result<Json<WorkshopBody>, Failure> {
    let workshop = app.workshop_of(&caller, &id).await?;
    body(&app, &base, workshop).await
}

async fn want(
    app: &App,
    caller: &Caller,
    base: &str,
    id: &WorkshopId,
    wanted: Wanted,
) -> Result<impl IntoResponse + use<>, Failure> {
    let workshop = app.set_wanted(caller, id, wanted, Timestamp::now()).await?;
    let counts = match app.store.workshop_counts(&workshop.id).await {
        // It had nothing to remove and is gone already.
        Err(StoreError::NotFound { .. }) => WorkshopCounts::default(),
        counts => counts?,
    };
    let workshop = app.workshop_view(base, workshop, counts).await;
    Ok((StatusCode::ACCEPTED, Json(WorkshopBody { workshop })))
}

/// Delete a workshop with everything in it. It is 404 only when nothing of it is left.
#[utoipa::path(delete, path = "/api/workshops/{id}", tag = "workshops", params(("id" = String, Path)), responses(
    (status = 202, body = WorkshopBody), Refused,
))]
pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
) -> Result<impl IntoResponse, Failure> {
    want(&app, &caller, &base, &id, Wanted::Deleted).await
}

/// Make the seats.
#[utoipa::path(post, path = "/api/workshops/{id}/start", tag = "workshops", params(("id" = String, Path)), responses(
    (status = 202, body = WorkshopBody), Refused,
))]
pub(super) async fn start(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
) -> Result<impl IntoResponse, Failure> {
    want(&app, &caller, &base, &id, Wanted::Running).await
}

/// Remove the environments; the record and the sessions stay.
#[utoipa::path(post, path = "/api/workshops/{id}/stop", tag = "workshops", params(("id" = String, Path)), responses(
    (status = 202, body = WorkshopBody), Refused,
))]
pub(super) async fn stop(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
) -> Result<impl IntoResponse, Failure> {
    want(&app, &caller, &base, &id, Wanted::Stopped).await
}

/// Move the end.
#[utoipa::path(post, path = "/api/workshops/{id}/extend", tag = "workshops", params(("id" = String, Path)),
    request_body = ExtendWorkshop, responses((status = 200, body = WorkshopBody), Refused, BodyRefused))]
pub(super) async fn extend(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
    JsonBody(wish): JsonBody<ExtendWorkshop>,
) -> Result<Json<WorkshopBody>, Failure> {
    let workshop = app.extend_workshop(&caller, &id, wish, Timestamp::now()).await?;
    body(&app, &base, workshop).await
}

/// Keep newcomers out, or let them in.
#[utoipa::path(post, path = "/api/workshops/{id}/lock", tag = "workshops", params(("id" = String, Path)),
    request_body = LockWorkshop, responses((status = 200, body = WorkshopBody), Refused, BodyRefused))]
pub(super) async fn lock(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf(id): PathOf<WorkshopId>,
    JsonBody(wish): JsonBody<LockWorkshop>,
) -> Result<Json<WorkshopBody>, Failure> {
    app.workshop_of(&caller, &id).await?;
    let workshop = app.store.set_locked(&id, wish.locked, Timestamp::now()).await?;
    body(&app, &base, workshop).await
}

/// The state of each seat.
#[utoipa::path(get, path = "/api/workshops/{id}/seats", tag = "workshops", params(("id" = String, Path)), responses(
    (status = 200, body = SeatsBody), Refused,
))]
pub(super) async fn seats(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    PathOf(id): PathOf<WorkshopId>,
) -> Result<Json<SeatsBody>, Failure> {
    app.workshop_of(&caller, &id).await?;
    let (here, at_workers) = (app.gateway.connected(), app.fleet.learners());
    let connected = |session: &SessionId| here.contains_key(session) || at_workers.contains_key(session);
    let seats = app.store.seats(&id).await?;
    let seats = seats.into_iter().map(|(seat, holder)| App::seat_view(seat, holder, connected)).collect();
    Ok(Json(SeatsBody { seats }))
}

type SeatPath = (WorkshopId, SeatNumber);

/// Rebuild a seat from scratch. Whoever holds it keeps it, but not what was in it.
#[utoipa::path(post, path = "/api/workshops/{id}/seats/{seat}/reset", tag = "workshops",
    params(("id" = String, Path), ("seat" = u32, Path)),
    responses((status = 202, description = "being rebuilt"), Refused))]
pub(super) async fn reset(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    PathOf((id, seat)): PathOf<SeatPath>,
) -> Result<StatusCode, Failure> {
    app.reset_seat(&caller, &id, seat, Timestamp::now()).await?;
    Ok(StatusCode::ACCEPTED)
}

/// End the session that holds a seat; the seat is rebuilt for the next learner.
#[utoipa::path(post, path = "/api/workshops/{id}/seats/{seat}/evict", tag = "workshops",
    params(("id" = String, Path), ("seat" = u32, Path)),
    responses((status = 202, description = "the session is over"), Refused))]
pub(super) async fn evict(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    PathOf((id, seat)): PathOf<SeatPath>,
) -> Result<StatusCode, Failure> {
    app.evict(&caller, &id, seat, Timestamp::now()).await?;
    Ok(StatusCode::ACCEPTED)
}

/// A token to look into a seat and help. The visit is noted in the workshop's events.
#[utoipa::path(post, path = "/api/workshops/{id}/seats/{seat}/token", tag = "workshops",
    params(("id" = String, Path), ("seat" = u32, Path)),
    responses((status = 200, body = SeatToken), Refused))]
pub(super) async fn visit(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    Base(base): Base,
    PathOf((id, seat)): PathOf<SeatPath>,
) -> Result<Json<SeatToken>, Failure> {
    Ok(Json(app.visit(&base, &caller, &id, seat, Timestamp::now()).await?))
}

/// The tail of what a seat's environment printed, to see why it failed.
#[utoipa::path(get, path = "/api/workshops/{id}/seats/{seat}/logs", tag = "workshops",
    params(("id" = String, Path), ("seat" = u32, Path)),
    responses((status = 200, content_type = "text/plain", body = String), Refused))]
pub(super) async fn logs(
    State(app): State<Arc<App>>,
    Known(caller): Known,
    PathOf((id, seat)): PathOf<SeatPath>,
) -> Result<impl IntoResponse, Failure> {
    let workshop = app.workshop_of(&caller, &id).await?;
    let runtime = app.runtimes.named(&workshop.runtime).ok_or_else(AppError::no_workshop)?;
    let text = runtime.logs(&SeatKey { workshop: id, seat }).await?;
    Ok(([("content-type", "text/plain; charset=utf-8")], text))
}
