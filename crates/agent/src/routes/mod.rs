//! Every path of the agent, on one page.

mod auth;
mod extract;
mod images;
mod keys;
mod observe;
mod owner;
mod proxy;
mod reply;
mod tunnel;
mod vms;
mod wish;
mod worker;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use clarateach_api::agent::AgentErrorCode;
use clarateach_runtime::EnvironmentState;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::reply::Failure;
use crate::app::App;

/// No call takes more than this in its body; files go through `/proxy`, which streams.
const BODY_LIMIT: usize = 256 * 1024;

/// Path of the API's own description.
const DESCRIPTION: &str = "/openapi.json";

#[derive(OpenApi)]
#[openapi(info(
    title = "ClaraTeach agent",
    description = "One worker's microVMs. Every call but /health takes `Authorization: Bearer TOKEN`. What happens inside \
                   a VM is behind /proxy/{workshop}/{seat}, see docs/seat-api.md."
))]
struct Doc;

/// A state as it travels.
#[must_use]
pub const fn status(state: EnvironmentState) -> &'static str {
    match state {
        EnvironmentState::Starting => "starting",
        EnvironmentState::Ready => "ready",
        EnvironmentState::Unresponsive => "unresponsive",
        EnvironmentState::Stopped => "stopped",
        EnvironmentState::Failed => "failed",
        EnvironmentState::Removing => "removing",
    }
}

/// Open to anyone.
fn open() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Doc::openapi()).routes(routes!(worker::health))
}

/// For whoever shows the token.
fn closed() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(worker::info))
        .routes(routes!(worker::drain))
        .routes(routes!(worker::metrics))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::show, vms::put, vms::delete))
        .routes(routes!(vms::logs))
        .routes(routes!(tunnel::tunnel))
        .routes(routes!(vms::watch))
        .routes(routes!(images::list, images::prepare))
        .routes(routes!(images::resolve))
        .routes(routes!(keys::keys))
        .routes(routes!(keys::revocations))
        .routes(routes!(keys::sessions))
}

/// The API's own description.
#[must_use]
pub fn description() -> utoipa::openapi::OpenApi {
    let mut all = open().into_openapi();
    all.merge(closed().into_openapi());
    all
}

/// The whole agent: API and the way into VMs.
pub fn router(app: Arc<App>) -> Router {
    let json = serde_json::to_string(&description()).unwrap_or_default();
    let describe = get(move || async move { ([("content-type", "application/json")], json) });
    let (closed, _) = closed().split_for_parts();
    let closed = closed
        .route(DESCRIPTION, describe)
        .fallback(unknown_call)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), owner::checked))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), auth::required))
        .layer(axum::middleware::from_fn(reply::no_store));
    let (open, _) = open().split_for_parts();
    let inside = open
        .method_not_allowed_fallback(wrong_method)
        .merge(closed)
        .with_state(Arc::clone(&app))
        .nest_service("/proxy/{workshop}/{seat}", proxy::router(&app))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(reply::panicked));
    observe::observed(inside)
}

async fn unknown_call() -> Failure {
    Failure::new(AgentErrorCode::NotFound, "There is no such call; see /openapi.json.")
}

async fn wrong_method() -> Failure {
    let message = "This path does not take this method; see /openapi.json.";
    Failure::new(AgentErrorCode::MethodNotAllowed, message)
}
