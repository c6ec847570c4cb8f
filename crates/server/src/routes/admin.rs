//! The dashboard, and who may own workshops.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use clarateach_api::{
    AdminOverviewBody, AdminVmsBody, CreateUser, CreatedUserBody, RuntimesBody, UserView, UsersBody,
};
use clarateach_ids::UserId;
use clarateach_store::UserRecord;
use jiff::Timestamp;

use super::extract::{Admin, JsonBody, Known, PathOf};
use super::reply::Failure;
use super::workshops::{BodyRefused, Refused};
use crate::app::App;
use crate::app::access::token_hash;
use crate::app::seal::random_text;
use crate::app::workshops::check_name;

/// The runtimes that a workshop may ask for, and how much room they have.
#[utoipa::path(get, path = "/api/runtimes", tag = "workshops", responses((status = 200, body = RuntimesBody), Refused))]
pub(super) async fn runtimes(State(app): State<Arc<App>>, _: Known) -> Result<Json<RuntimesBody>, Failure> {
    Ok(Json(RuntimesBody { runtimes: app.runtime_views().await }))
}

/// The dashboard.
#[utoipa::path(get, path = "/api/admin/overview", tag = "admin", responses(
    (status = 200, body = AdminOverviewBody), Refused,
))]
pub(super) async fn overview(
    State(app): State<Arc<App>>,
    _: Admin,
) -> Result<Json<AdminOverviewBody>, Failure> {
    Ok(Json(AdminOverviewBody { overview: app.overview().await? }))
}

/// Every environment of every runtime.
#[utoipa::path(get, path = "/api/admin/vms", tag = "admin", responses((status = 200, body = AdminVmsBody), Refused))]
pub(super) async fn vms(State(app): State<Arc<App>>, _: Admin) -> Result<Json<AdminVmsBody>, Failure> {
    Ok(Json(app.vms().await))
}

fn view(user: UserRecord) -> UserView {
    UserView { id: user.id, name: user.name, created_at: user.created_at }
}

/// Every instructor.
#[utoipa::path(get, path = "/api/admin/users", tag = "admin", responses((status = 200, body = UsersBody), Refused))]
pub(super) async fn users(State(app): State<Arc<App>>, _: Admin) -> Result<Json<UsersBody>, Failure> {
    Ok(Json(UsersBody { users: app.store.users().await?.into_iter().map(view).collect() }))
}

/// A new instructor. The token in the answer is shown only once.
#[utoipa::path(post, path = "/api/admin/users", tag = "admin", request_body = CreateUser, responses(
    (status = 201, body = CreatedUserBody), Refused, BodyRefused,
))]
pub(super) async fn create_user(
    State(app): State<Arc<App>>,
    _: Admin,
    JsonBody(wish): JsonBody<CreateUser>,
) -> Result<impl IntoResponse, Failure> {
    let name = check_name("name", &wish.name, 100)?;
    let user = UserRecord { id: UserId::random(), name, created_at: Timestamp::now() };
    let token = format!("ct_{}", random_text());
    app.store.create_user(user.clone(), token_hash(&token)).await?;
    Ok((StatusCode::CREATED, Json(CreatedUserBody { user: view(user), token })))
}

/// Remove an instructor who owns no workshops. Their token and logins are void at once.
#[utoipa::path(delete, path = "/api/admin/users/{id}", tag = "admin", params(("id" = String, Path)), responses(
    (status = 204), Refused,
))]
pub(super) async fn delete_user(
    State(app): State<Arc<App>>,
    _: Admin,
    PathOf(id): PathOf<UserId>,
) -> Result<StatusCode, Failure> {
    app.store.delete_user(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
