//! Who may call: whoever shows the agent's token.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use clarateach_api::agent::AgentErrorCode;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::reply::Failure;
use crate::app::App;

/// Whether `shown` is `wanted`. Takes as long whatever is shown, its length included: digests are compared.
fn is_same(wanted: &SecretString, shown: &str) -> bool {
    Sha256::digest(wanted.expose_secret()).ct_eq(&Sha256::digest(shown)).into()
}

/// The one bearer token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (all.next()?, all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Whether the caller shows the agent's token.
pub(super) fn is_operator(app: &App, headers: &HeaderMap) -> bool {
    bearer(headers).is_some_and(|shown| is_same(&app.token, shown))
}

/// Notes a failure; true when the address has had too many.
pub(super) fn failed(app: &App, request: &Peer) -> bool {
    metrics::counter!("clarateach_agent_refused_tokens_total").increment(1);
    app.throttle.failed(request.0)
}

/// The address that a request comes from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(IpAddr);

impl Peer {
    pub(super) fn of(request: &Request) -> Self {
        let address =
            request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(peer)| peer.ip());
        Self(address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)).to_canonical())
    }
}

/// Lets nobody past without the token; `/metrics` also takes the metrics token.
pub(super) async fn required(State(app): State<Arc<App>>, request: Request, next: Next) -> Response<Body> {
    let headers = request.headers();
    let scrapes = request.uri().path() == "/metrics"
        && app
            .config
            .access
            .metrics_token
            .as_ref()
            .is_some_and(|wanted| bearer(headers).is_some_and(|shown| is_same(wanted, shown)));
    // A right token is never shut out by somebody else's wrong ones.
    if scrapes || is_operator(&app, headers) {
        return next.run(request).await;
    }
    if failed(&app, &Peer::of(&request)) {
        let message = "Too many wrong tokens came from this address; wait a few seconds and try again.";
        return Failure::new(AgentErrorCode::TooManyAttempts, message).into_response();
    }
    let message = if bearer(headers).is_none() {
        "Show the agent's token: Authorization: Bearer TOKEN."
    } else {
        "This is not the agent's token."
    };
    Failure::new(AgentErrorCode::Unauthorized, message).into_response()
}
