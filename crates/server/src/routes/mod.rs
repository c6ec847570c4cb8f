//! Every path of the server, on one page.

mod admin;
mod events;
mod extract;
mod guard;
mod health;
mod login;
mod reply;
mod sessions;
mod workers;
mod workshops;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::get;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::guard::Peer;
use self::reply::Failure;
use crate::app::App;
use crate::web;

/// No call takes more than this in its body; files go through the gateway, which streams.
const BODY_LIMIT: usize = 256 * 1024;

#[derive(OpenApi)]
#[openapi(info(
    title = "ClaraTeach",
    description = "Workshops, sessions and administration. What happens inside a seat is behind its `endpoint`, \
                   see docs/seat-api.md."
))]
struct Doc;

/// The documented API as a router and its OpenAPI description.
pub fn api(app: Arc<App>) -> (Router, utoipa::openapi::OpenApi) {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(health::root_health))
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(health::metrics))
        .routes(routes!(sessions::join))
        .routes(routes!(sessions::session))
        .routes(routes!(login::login))
        .routes(routes!(login::logout))
        .routes(routes!(login::me))
        .routes(routes!(workshops::list, workshops::create))
        .routes(routes!(workshops::show, workshops::delete))
        .routes(routes!(workshops::start))
        .routes(routes!(workshops::stop))
        .routes(routes!(workshops::extend))
        .routes(routes!(workshops::lock))
        .routes(routes!(workshops::seats))
        .routes(routes!(workshops::reset))
        .routes(routes!(workshops::evict))
        .routes(routes!(workshops::visit))
        .routes(routes!(workshops::logs))
        .routes(routes!(events::events))
        .routes(routes!(admin::runtimes))
        .routes(routes!(admin::overview))
        .routes(routes!(admin::vms))
        .routes(routes!(workers::list, workers::add))
        .routes(routes!(workers::forget))
        .routes(routes!(workers::drain))
        .routes(routes!(admin::users, admin::create_user))
        .routes(routes!(admin::delete_user))
        .with_state(app)
        .split_for_parts()
}

/// The whole server: API, gateway, previews and pages.
pub fn router(app: Arc<App>) -> Router {
    let (api, description) = api(Arc::clone(&app));
    let json = serde_json::to_string(&description).unwrap_or_default();
    let api = api
        .route(
            "/api/openapi.json",
            get(move || async move { ([("content-type", "application/json")], json) }),
        )
        .route("/api", axum::routing::any(unknown_call))
        .route("/api/", axum::routing::any(unknown_call))
        .route("/api/{*rest}", axum::routing::any(unknown_call))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn(reply::no_store));
    let inside = Router::new()
        .merge(api)
        .nest_service("/proxy/{workshop}/{seat}", app.gateway.router())
        .fallback(web::page)
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), guard::host_and_origin))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(reply::panicked));
    guard::observed(inside.layer(axum::middleware::from_fn_with_state(
        Arc::clone(&app.gateway),
        // Hosts of previews never reach the API, the pages or a seat's proxy: they are told apart before anything else.
        clarateach_gateway::previews_first,
    )))
}

async fn unknown_call() -> Failure {
    Failure::new(clarateach_api::ErrorCode::NotFound, "There is no such call; see /api/openapi.json.")
}

async fn wrong_method() -> (StatusCode, Failure) {
    let code = clarateach_api::ErrorCode::MethodNotAllowed;
    (
        StatusCode::METHOD_NOT_ALLOWED,
        Failure::new(code, "This path does not take this method; see /api/openapi.json."),
    )
}
