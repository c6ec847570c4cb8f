//! A preview on an origin of its own: `{id}.{preview domain}`.
//!
//! One enters by posting a capability, which was given to the workshop's page, to `/.clarateach/enter`; that sets a
//! cookie which is good for this host only. Everything else goes to the learner's server.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::host::{Addressee, addressee};
use super::{BODY_BYTES, Preview, page, point_at_app, seat_port, turn_location};
use crate::credentials::{cookies, is_safe};
use crate::exchange::Upgrade;
use crate::gateway::{Gateway, outgoing};
use crate::lease::Carries;
use crate::{Refusal, WebOrigin, headers};

const ENTER: &str = "/.clarateach/enter";

/// Middleware that takes what is for a preview, by its host, before any other route can see it. To be the outermost
/// layer that depends on the path: `router.layer(axum::middleware::from_fn_with_state(gateway, previews_first))`.
pub async fn previews_first(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    match addressee(&gateway.config, request.uri(), request.headers()) {
        Ok(Addressee::Main) => next.run(request).await,
        Ok(Addressee::Preview(id)) => {
            serve(&gateway, &id, request).await.unwrap_or_else(|refusal| page::refusal(&refusal))
        }
        Err(refusal) => refusal.into_response(),
    }
}

async fn serve(gateway: &Gateway, id: &str, mut request: Request) -> Result<Response, Refusal> {
    headers::check_size(request.headers(), gateway.config.limits.header_bytes)?;
    let closed = || Refusal::forbidden("this preview is closed; open it from the workshop's page");
    let preview = gateway.previews.get(id).filter(|preview| preview.lives()).ok_or_else(closed)?;
    let Some(domain) = &gateway.config.previews else { return Err(closed()) };
    let own = domain.origin(&preview.id);
    if request.uri().path() == ENTER {
        return enter(gateway, &preview, request).await;
    }
    if !cookies(request.headers(), cookie_name(gateway)).take(8).any(|shown| preview.knows_cookie(shown)) {
        return Err(closed());
    }
    if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
        return Err(Refusal::method_not_allowed("this method is not for previews"));
    }
    let upgrade = Upgrade::take(&mut request, false)?;
    check_page(request.method(), request.headers(), &own, upgrade.is_some())?;
    let route = gateway.locate(&preview.claims).await?;
    let stream = gateway.leases.open(&preview.lease, Carries::Preview, route.generation)?;
    let (mut parts, body) = request.into_parts();
    headers::for_app(&mut parts.headers, cookie_name(gateway), true);
    point_at_app(&mut parts.headers, preview.port, Some(&own));
    let is_upgrade = upgrade.is_some();
    if let Some(upgrade) = &upgrade {
        upgrade.ask(&mut parts.headers);
    }
    let request = outgoing(parts, if is_upgrade { Body::empty() } else { body });
    let mut response =
        gateway.carrier.exchange(&route, seat_port(&preview), request, upgrade, stream).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        headers::from_app(response.headers_mut());
        turn_location(response.headers_mut(), preview.port, "");
        confine(gateway, response.headers_mut());
    }
    Ok(response)
}

async fn enter(gateway: &Gateway, preview: &Preview, request: Request) -> Result<Response, Refusal> {
    if request.method() != Method::POST {
        return Err(Refusal::method_not_allowed("open this preview from the workshop's page"));
    }
    let body = axum::body::to_bytes(request.into_body(), BODY_BYTES)
        .await
        .map_err(|_| Refusal::too_large("the form is too large, or broke off"))?;
    // Letters and digits only, so there is nothing to decode.
    let form = std::str::from_utf8(&body).unwrap_or_default();
    let shown = form.split('&').find_map(|field| field.strip_prefix("capability=")).unwrap_or_default();
    let value = preview.enter(shown).ok_or_else(|| {
        Refusal::forbidden("this way in was used already or is over a minute old; open the preview again")
    })?;
    let secure = if gateway.config.secure_cookies { "; Secure" } else { "" };
    let cookie = format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{secure}", cookie_name(gateway));
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::from_static("/"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(mut cookie) = HeaderValue::from_str(&cookie) {
        cookie.set_sensitive(true);
        headers.insert(header::SET_COOKIE, cookie);
    }
    confine(gateway, headers);
    Ok(response)
}

/// With https the name's prefix makes browsers refuse the cookie from sibling hosts (RFC 6265bis §4.1.3.2).
const fn cookie_name(gateway: &Gateway) -> &'static str {
    if gateway.config.secure_cookies { "__Host-clarateach_preview" } else { "clarateach_preview" }
}

/// Refuses what another page makes the browser send along with this preview's cookie: sibling previews are the same
/// site to a browser. Following a link to the preview is fine.
fn check_page(
    method: &Method,
    headers: &HeaderMap,
    own: &WebOrigin,
    is_upgrade: bool,
) -> Result<(), Refusal> {
    let says = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
    let foreign = || Refusal::forbidden("this request comes from another page");
    match says("sec-fetch-site") {
        Some(b"same-origin" | b"none") => return Ok(()),
        Some(_) if is_upgrade || !is_safe(method) || says("sec-fetch-mode") != Some(b"navigate") => {
            return Err(foreign());
        }
        _ => {}
    }
    match says("origin") {
        None => Ok(()),
        Some(origin) if origin == own.as_str().as_bytes() => Ok(()),
        Some(_) => Err(foreign()),
    }
}

/// Only the workshop's page may frame a preview, and the preview gets no hand on the page that opened it.
fn confine(gateway: &Gateway, headers: &mut HeaderMap) {
    let mut policy = "frame-ancestors 'self'".to_owned();
    for origin in &gateway.config.public_origins {
        policy.push(' ');
        policy.push_str(origin.as_str());
    }
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.append(header::CONTENT_SECURITY_POLICY, policy);
    }
    let same_origin = HeaderValue::from_static("same-origin");
    headers.insert(HeaderName::from_static("cross-origin-opener-policy"), same_origin.clone());
    headers.insert(HeaderName::from_static("cross-origin-resource-policy"), same_origin);
}
