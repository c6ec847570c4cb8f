//! Logging in and out.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use clarateach_api::{ErrorBody, ErrorCode, LoginRequest, WhoAmI};
use clarateach_ids::UserId;
use jiff::Timestamp;

use super::extract::{JsonBody, LOGIN_COOKIE};
use super::guard::{Base, Peer};
use super::reply::Failure;
use crate::app::App;
use crate::app::access::{Caller, LOGIN_FOR};

fn who(app: &App, caller: Caller) -> Result<WhoAmI, Failure> {
    let login_required = app.login_required();
    match caller {
        Caller::Admin => {
            Ok(WhoAmI { user_id: UserId::admin(), name: "admin".to_owned(), admin: true, login_required })
        }
        Caller::User(user) => Ok(WhoAmI { user_id: user.id, name: user.name, admin: false, login_required }),
        Caller::Anonymous => Err(Failure::new(ErrorCode::Unauthorized, "Log in first: POST /api/login.")),
    }
}

fn cookie(base: &str, value: &str, seconds: i64) -> String {
    let secure = if base.starts_with("https://") { "; Secure" } else { "" };
    format!("{LOGIN_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}")
}

/// Trade an admin or user token for a login cookie.
#[utoipa::path(post, path = "/api/login", tag = "login", request_body = LoginRequest, responses(
    (status = 200, body = WhoAmI, description = "sets the cookie clarateach_login"),
    (status = 400, body = ErrorBody),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 413, body = ErrorBody),
    (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody),
    (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub(super) async fn login(
    State(app): State<Arc<App>>,
    Peer(address): Peer,
    Base(base): Base,
    JsonBody(request): JsonBody<LoginRequest>,
) -> Result<impl IntoResponse, Failure> {
    app.throttle.admit(address)?;
    match app.log_in(&request.token, Timestamp::now()).await {
        Ok((caller, value)) => {
            let set = cookie(&base, &value, LOGIN_FOR.as_secs());
            Ok(([(header::SET_COOKIE, set)], Json(who(&app, caller)?)))
        }
        Err(error) => {
            if error.code == ErrorCode::Unauthorized {
                app.throttle.failed(address);
            }
            Err(Failure(error))
        }
    }
}

/// Drop the login cookie.
#[utoipa::path(post, path = "/api/logout", tag = "login", responses(
    (status = 204, description = "the cookie is gone"),
    (status = 403, body = ErrorBody),
))]
pub(super) async fn logout(Base(base): Base) -> impl IntoResponse {
    (StatusCode::NO_CONTENT, [(header::SET_COOKIE, cookie(&base, "", 0))])
}

/// Who the caller is.
#[utoipa::path(get, path = "/api/me", tag = "login", responses(
    (status = 200, body = WhoAmI),
    (status = 401, body = ErrorBody),
    (status = 403, body = ErrorBody),
    (status = 429, body = ErrorBody),
    (status = 503, body = ErrorBody),
))]
pub(super) async fn me(State(app): State<Arc<App>>, caller: Caller) -> Result<Json<WhoAmI>, Failure> {
    Ok(Json(who(&app, caller)?))
}
