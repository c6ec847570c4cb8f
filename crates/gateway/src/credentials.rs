//! Who is asking: the seat token in a request, where it came from, and whether the request's origin may use it there.
//!
//! A token comes by `Authorization: Bearer`, by the WebSocket subprotocol `bearer.<jwt>` or by the seat cookie, in that
//! order; never by the URL, which ends up in logs, histories and `Referer` headers.

use http::{HeaderMap, HeaderValue, Method, header};

use crate::config::GatewayConfig;
use crate::{Refusal, WebOrigin};

/// Name of the seat cookie.
pub(crate) const SEAT_COOKIE: &str = "clarateach_seat";

/// What a subprotocol that carries a token starts with.
const BEARER_PROTOCOL: &str = "bearer.";

/// Where a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// `Authorization`: no page can send it by accident.
    Authorization,
    /// `Sec-WebSocket-Protocol`: neither.
    Subprotocol,
    /// A cookie, which browsers send by themselves: the origin must prove that the page is ours.
    Cookie,
}

/// The tokens that a request shows: one, or as many as there are cookies of the name, since a page on a sibling domain
/// can plant more; any good one will do.
#[derive(Debug)]
pub(crate) struct Credentials<'a> {
    pub(crate) source: Source,
    pub(crate) tokens: Vec<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Finds them.
    pub(crate) fn of(headers: &'a HeaderMap) -> Result<Self, Refusal> {
        let none = || {
            Refusal::unauthorized(
                "show the seat token: Authorization: Bearer, the seat cookie, or subprotocol bearer.<token>",
            )
        };
        let one = |source, token| Ok(Self { source, tokens: vec![token] });
        let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
        if let Some(value) = authorizations.next() {
            if authorizations.next().is_some() {
                return Err(Refusal::unauthorized("there is more than one Authorization header"));
            }
            let value = value.to_str().unwrap_or_default();
            return match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                    one(Source::Authorization, token.trim())
                }
                _ => Err(none()),
            };
        }
        let mut offered = protocols(headers).filter_map(|offer| offer.strip_prefix(BEARER_PROTOCOL));
        if let Some(token) = offered.next() {
            if offered.next().is_some() {
                return Err(Refusal::unauthorized("there is more than one bearer subprotocol"));
            }
            return one(Source::Subprotocol, token);
        }
        let tokens: Vec<_> = cookies(headers, SEAT_COOKIE).take(8).collect();
        if tokens.is_empty() { Err(none()) } else { Ok(Self { source: Source::Cookie, tokens }) }
    }
}

/// The subprotocols a client offers, over all headers of the name.
pub(crate) fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|offer| !offer.is_empty())
}

/// The offers that are for the seat, and the one that carried the token.
pub(crate) fn split_protocols(headers: &HeaderMap) -> (Option<HeaderValue>, Option<HeaderValue>) {
    let (bearer, rest): (Vec<_>, Vec<_>) =
        protocols(headers).partition(|offer| offer.starts_with(BEARER_PROTOCOL));
    let value = |text: &str| HeaderValue::from_str(text).ok();
    let rest = if rest.is_empty() { None } else { value(&rest.join(", ")) };
    (rest, bearer.first().and_then(|bearer| value(bearer)))
}

/// The values of the cookies called `name`.
pub(crate) fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(move |pair| {
            let (found, value) = pair.split_once('=')?;
            (found.trim() == name).then(|| value.trim().trim_matches('"'))
        })
}

/// Refuses a request from a page that isn't ours.
///
/// An `Origin` that is sent must be one of ours, whatever the request. One that isn't sent is fine when the token came
/// by a header that pages can't send by accident; with a cookie it is needed on upgrades and on whatever changes state,
/// and a browser that says the request comes from another site or a sibling domain is believed.
pub(crate) fn check_origin(
    config: &GatewayConfig,
    method: &Method,
    headers: &HeaderMap,
    source: Source,
    is_upgrade: bool,
) -> Result<(), Refusal> {
    let foreign = || Refusal::forbidden("this request comes from a page of another origin");
    let mut origins = headers.get_all(header::ORIGIN).iter();
    match (origins.next(), origins.next()) {
        (Some(_), Some(_)) => return Err(foreign()),
        (Some(origin), None) => {
            let origin = origin.to_str().ok().and_then(|text| text.parse::<WebOrigin>().ok());
            let allowed = origin.is_some_and(|origin| is_ours(config, headers, &origin));
            return if allowed { Ok(()) } else { Err(foreign()) };
        }
        (None, _) => {}
    }
    if source != Source::Cookie {
        return Ok(());
    }
    if is_upgrade || !is_safe(method) {
        return Err(Refusal::forbidden("a request by cookie must carry the Origin of the workshop's page"));
    }
    match headers.get("sec-fetch-site").map(HeaderValue::as_bytes) {
        None | Some(b"same-origin" | b"none") => Ok(()),
        Some(_) => Err(foreign()),
    }
}

/// Whether the method promises to change nothing (RFC 9110 §9.2.1).
pub(crate) fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn is_ours(config: &GatewayConfig, headers: &HeaderMap, origin: &WebOrigin) -> bool {
    config.public_origins.contains(origin)
        || config.same_host_origin
            && headers
                .get(header::HOST)
                .and_then(|host| host.to_str().ok())
                .is_some_and(|host| host.eq_ignore_ascii_case(origin.authority()))
}
