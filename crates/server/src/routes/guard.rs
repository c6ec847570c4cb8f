//! What stands before every route: the log line, previews on their own hosts, and the checks of Host and Origin.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use axum::middleware::Next;
use axum::response::IntoResponse;
use clarateach_api::ErrorCode;
use clarateach_ids::SessionId;
use ipnet::IpNet;
use tracing::Instrument;

use super::reply::Failure;
use crate::app::App;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The address a request comes from, as far as trusted proxies tell.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The URL under which the caller reached the server, without a trailing slash.
#[derive(Debug, Clone)]
pub(super) struct Base(pub String);

/// One log line and one measurement a request, with an id that the answer carries too. The path is logged as its
/// template: codes in it stay out of the log.
pub(super) fn observed(router: Router) -> Router {
    router.layer(axum::middleware::from_fn(async |mut request: Request, next: Next| {
        let id = SessionId::random().to_string();
        if let Ok(value) = HeaderValue::from_str(&id) {
            request.headers_mut().insert(REQUEST_ID, value);
        }
        let method = request.method().clone();
        let span = tracing::info_span!("request", id);
        let began = Instant::now();
        let mut response = next.run(request).instrument(span.clone()).await;
        let seconds = began.elapsed().as_secs_f64();
        let path = response.extensions().get::<Template>().map_or("-", |Template(path)| path).to_owned();
        let status = response.status().as_u16();
        span.in_scope(|| tracing::debug!(%method, path, status, ms = seconds * 1e3, "answered"));
        metrics::histogram!("clarateach_http_seconds", "path" => path, "status" => status.to_string())
            .record(seconds);
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }))
}

/// The route's template, on its way out to the log.
#[derive(Debug, Clone)]
struct Template(String);

fn host_of(request: &Request) -> Option<String> {
    // HTTP/2 and absolute-form requests carry the host in the URI.
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    Some(authority.or(header)?.to_ascii_lowercase())
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// The client's address: the peer's, or what a trusted proxy says in X-Forwarded-For, read from the right.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(&address));
    if !is_trusted(peer) {
        return peer;
    }
    let forwarded: Vec<IpAddr> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map_while(|part| part.trim().parse().ok())
        .collect();
    forwarded.iter().rev().copied().find(|address| !is_trusted(*address)).unwrap_or(peer)
}

/// Whether this server answers to `host`. Without logins, a foreign name that points here is a rebinding attack.
fn host_is_ours(app: &App, host: &str) -> bool {
    let name = without_port(host);
    let listen = &app.config.listen;
    if listen.public_url.as_ref().is_some_and(|url| url.authority == host) {
        return true;
    }
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    if app.login_required() {
        return listen.public_url.is_none() || literal.is_ok() || name == "localhost";
    }
    name == "localhost" || literal.is_ok_and(|address| address.is_loopback())
}

/// Checks Host on every request, and Origin on everything that changes something; notes peer and base for handlers.
pub(super) async fn host_and_origin(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let template = request.extensions().get::<MatchedPath>().map_or("page", MatchedPath::as_str).to_owned();
    let mut response = match admit(&app, &mut request) {
        Ok(()) => next.run(request).await,
        Err(failure) => failure.into_response(),
    };
    response.extensions_mut().insert(Template(template));
    response
}

fn admit(app: &App, request: &mut Request) -> Result<(), Failure> {
    let host = host_of(request).ok_or_else(|| Failure::new(ErrorCode::BadRequest, "Send a Host header."))?;
    // A platform's probes come under whatever name or address it likes, and learn nothing from the answer.
    let probe = app.login_required()
        && matches!(request.uri().path(), "/health" | "/api/health" | "/api/ready")
        && request.method() == Method::GET;
    if !probe && !host_is_ours(app, &host) {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            "This server does not answer to this Host; use its own address, or set PUBLIC_URL.",
        ));
    }
    let base = match &app.config.listen.public_url {
        Some(url) => url.to_string(),
        None => format!("http://{host}"),
    };
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let gateway = request.uri().path().starts_with("/proxy/");
    if changes && !gateway && is_cross_site(request.headers(), &base, &host) {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            "This call may only come from the server's own pages.",
        ));
    }
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|ConnectInfo(address)| address.ip());
    if let Some(peer) = peer {
        let address =
            client_address(peer.to_canonical(), request.headers(), &app.config.listen.trusted_proxies);
        request.extensions_mut().insert(Peer(address));
    }
    request.extensions_mut().insert(Base(base));
    Ok(())
}

/// Whether a browser says that another site's page sends this. Without the headers it is no browser.
fn is_cross_site(headers: &HeaderMap, base: &str, host: &str) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    match text("origin") {
        Some(origin) => {
            let origin = origin.to_ascii_lowercase();
            let same_host = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
            origin != base && !same_host
        }
        None => text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn forwarded_addresses_count_only_from_trusted_proxies() {
        let [proxy, other, client] = [[10, 0, 0, 1], [10, 0, 0, 2], [192, 0, 2, 7]].map(IpAddr::from);
        let trusted = |text: &str| [text.parse::<IpNet>().unwrap()];
        let lied = headers(&[("x-forwarded-for", "203.0.113.9, 192.0.2.7")]);
        assert_eq!(client_address(other, &lied, &trusted("10.0.0.1/32")), other);
        assert_eq!(client_address(proxy, &lied, &trusted("10.0.0.1/32")), client);
        assert_eq!(client_address(proxy, &lied, &trusted("10.0.0.0/24")), client);
        assert_eq!(client_address(proxy, &headers(&[]), &trusted("10.0.0.1/32")), proxy);
        assert_eq!(
            client_address(proxy, &headers(&[("x-forwarded-for", "nonsense")]), &trusted("10.0.0.1/32")),
            proxy
        );
    }

    #[test]
    fn pages_of_other_sites_are_told_apart() {
        let cross = |pairs| is_cross_site(&headers(pairs), "http://localhost:8080", "localhost:8080");
        assert!(!cross(&[]));
        assert!(!cross(&[("origin", "http://localhost:8080")]));
        assert!(cross(&[("origin", "http://evil.example")]));
        assert!(cross(&[("origin", "http://abc.localhost:8080")]));
        assert!(cross(&[("origin", "http://localhost:3000")]));
        assert!(cross(&[("origin", "null")]));
        assert!(cross(&[("sec-fetch-site", "cross-site")]));
        assert!(cross(&[("sec-fetch-site", "same-site")]));
    }
}
