//! A preview without an origin of its own: `{endpoint}/preview/{id}/…` on the main origin, in a sandbox.
//!
//! `CSP: sandbox` without `allow-same-origin` gives the page an opaque origin: it reads no cookie and no storage, and
//! what it requests carries none. So the capability in the path is all that such a request can show, and answers may be
//! read from any origin by whoever knows it.

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use clarateach_ids::SeatKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};

use super::{page, point_at_app, seat_port, turn_location};
use crate::exchange::Upgrade;
use crate::gateway::{Gateway, endpoint_path, outgoing};
use crate::lease::Carries;
use crate::{Refusal, headers};

const SANDBOX: &str = "sandbox allow-scripts allow-forms";

/// Serves `rest`, what follows `/preview/`.
pub(crate) async fn serve(
    gateway: &Gateway,
    key: &SeatKey,
    rest: &str,
    request: Request,
) -> Result<Response, Refusal> {
    let mut response = match answer(gateway, key, rest, request).await {
        Ok(response) => response,
        Err(refusal) => page::refusal(&refusal),
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        confine(response.headers_mut());
    }
    Ok(response)
}

async fn answer(
    gateway: &Gateway,
    key: &SeatKey,
    rest: &str,
    mut request: Request,
) -> Result<Response, Refusal> {
    let closed = || Refusal::not_found("this preview is closed; open it from the workshop's page");
    if gateway.config.previews.is_some() {
        return Err(closed());
    }
    let (id, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let preview = gateway
        .previews
        .get(id)
        .filter(|preview| preview.lives() && preview.claims.seat_key() == *key)
        .ok_or_else(closed)?;
    let prefix = format!("{}/preview/{}", endpoint_path(key), preview.id);
    if path.is_empty() {
        // Relative links need the slash.
        let location = [(header::LOCATION, format!("{prefix}/"))];
        return Ok((StatusCode::PERMANENT_REDIRECT, location).into_response());
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::method_not_allowed("this method is not for previews"));
    }
    if request.headers().contains_key("service-worker") {
        return Err(Refusal::forbidden("a sandboxed preview has no service worker"));
    }
    if request.method() == Method::OPTIONS
        && let Some(asked) = request.headers().get(header::ACCESS_CONTROL_REQUEST_METHOD)
    {
        return Ok(preflight(asked, request.headers()));
    }
    let upgrade = Upgrade::take(&mut request, false)?;
    let route = gateway.locate(&preview.claims).await?;
    let stream = gateway.leases.open(&preview.lease, Carries::Preview, route.generation)?;
    let (mut parts, body) = request.into_parts();
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    parts.uri = format!("{path}{query}")
        .parse::<http::uri::PathAndQuery>()
        .map(Uri::from)
        .map_err(|_| Refusal::bad_request("the path can't be understood"))?;
    headers::for_app(&mut parts.headers, "", false);
    point_at_app(&mut parts.headers, preview.port, None);
    let is_upgrade = upgrade.is_some();
    if let Some(upgrade) = &upgrade {
        upgrade.ask(&mut parts.headers);
    }
    let request = outgoing(parts, if is_upgrade { Body::empty() } else { body });
    let mut response =
        gateway.carrier.exchange(&route, seat_port(&preview), request, upgrade, stream).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        headers::from_app(response.headers_mut());
        response.headers_mut().remove(header::WWW_AUTHENTICATE);
        turn_location(response.headers_mut(), preview.port, &prefix);
    }
    Ok(response)
}

/// Lets a page of opaque origin, which is foreign to everything, send what it asks for to its own server.
fn preflight(method: &HeaderValue, asked: &HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method.clone());
    if let Some(names) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
    }
    response
}

fn confine(headers: &mut HeaderMap) {
    headers.append(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(SANDBOX));
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
