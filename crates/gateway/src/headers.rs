//! What of a request's and an answer's headers passes.
//!
//! A seat is run by its learner, so nothing that it answers is believed: from a workspace only what is listed passes,
//! from a previewed app everything but what could act outside its origin.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::Refusal;

/// Refuses headers that are too large together, in bytes of names and values.
pub(crate) fn check_size(headers: &HeaderMap, limit: usize) -> Result<(), Refusal> {
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > limit {
        return Err(Refusal::headers_too_large(format!(
            "the request's headers have {bytes} bytes; {limit} is the most"
        )));
    }
    Ok(())
}

/// Drops what belongs to one connection only (RFC 9110 §7.6.1), and what `Connection` names.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in [
        header::CONNECTION,
        HeaderName::from_static("keep-alive"),
        HeaderName::from_static("proxy-connection"),
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        HeaderName::from_static("http2-settings"),
        // The server in front of us has said "continue" by the time we read the body.
        header::EXPECT,
    ] {
        headers.remove(name);
    }
}

fn retain(headers: &mut HeaderMap, keep: impl Fn(&str) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| !keep(name.as_str())).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// What only a gateway or a proxy may say.
fn is_proxy_s(name: &str) -> bool {
    name.starts_with("x-clarateach-")
        || name.starts_with("x-forwarded-")
        || name.starts_with("proxy-")
        || matches!(name, "forwarded" | "via" | "x-real-ip" | "x-original-url" | "x-rewrite-url")
}

/// Makes a client's headers fit for a workspace: no credentials, nothing of the page they come from.
pub(crate) fn for_workspace(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    retain(headers, |name| {
        !is_proxy_s(name)
            && !matches!(name, "authorization" | "cookie" | "origin" | "referer" | "host")
            && !name.starts_with("sec-websocket-protocol")
    });
    headers.insert(header::HOST, HeaderValue::from_static("seat"));
}

/// Makes a client's headers fit for a previewed app, which is told that it lives on `localhost:{port}`.
pub(crate) fn for_app(headers: &mut HeaderMap, own_cookie: &str, keep_credentials: bool) {
    strip_hop_by_hop(headers);
    let cookies = kept_cookies(headers, own_cookie);
    retain(headers, |name| {
        !is_proxy_s(name)
            && !matches!(name, "cookie" | "host")
            && (keep_credentials || !matches!(name, "authorization" | "referer"))
    });
    if let Some(cookies) = cookies.filter(|_| keep_credentials) {
        headers.insert(header::COOKIE, cookies);
    }
}

fn kept_cookies(headers: &HeaderMap, own_cookie: &str) -> Option<HeaderValue> {
    let all = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let kept: Vec<&str> = all
        .flat_map(|value| value.split(';'))
        .map(str::trim)
        .filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default().trim();
            !pair.is_empty() && name != own_cookie && name != crate::credentials::SEAT_COOKIE
        })
        .collect();
    if kept.is_empty() { None } else { HeaderValue::from_str(&kept.join("; ")).ok() }
}

/// Makes a workspace's answer safe on the main origin.
pub(crate) fn from_workspace(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    retain(headers, |name| {
        matches!(
            name,
            "accept-ranges"
                | "allow"
                | "content-disposition"
                | "content-encoding"
                | "content-language"
                | "content-length"
                | "content-range"
                | "content-type"
                | "date"
                | "etag"
                | "last-modified"
                | "retry-after"
                | "vary"
        )
    });
    let cache = if headers.contains_key(header::ETAG) { "private, no-cache" } else { "no-store" };
    for (name, value) in [
        (header::CACHE_CONTROL, cache),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "sandbox; default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let is_stream = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
    if is_stream {
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    }
}

/// Drops from an app's answer what could act outside its origin, or steer a proxy in front of us.
pub(crate) fn from_app(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    retain(headers, |name| {
        !is_proxy_s(name)
            && !name.starts_with("access-control-")
            && !name.starts_with("x-accel-")
            && !name.starts_with("public-key-pins")
            && !matches!(
                name,
                "set-cookie"
                    | "set-cookie2"
                    | "service-worker-allowed"
                    | "strict-transport-security"
                    | "clear-site-data"
                    | "alt-svc"
                    | "expect-ct"
                    | "nel"
                    | "report-to"
                    | "reporting-endpoints"
                    | "content-security-policy-report-only"
                    | "cross-origin-opener-policy-report-only"
                    | "cross-origin-embedder-policy-report-only"
                    | "origin-agent-cluster"
                    | "x-frame-options"
                    | "x-sendfile"
                    | "x-lighttpd-send-file"
                    | "x-reproxy-url"
            )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse::<HeaderValue>().unwrap()))
            .collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn a_client_s_credentials_and_claims_do_not_reach_the_workspace() {
        let mut headers = map(&[
            ("host", "workshop.example"),
            ("cookie", "clarateach_seat=x"),
            ("authorization", "Bearer x"),
            ("x-clarateach-secret", "guess"),
            ("x-forwarded-for", "127.0.0.1"),
            ("connection", "keep-alive, range"),
            ("range", "bytes=0-1"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ]);
        for_workspace(&mut headers);
        assert_eq!(names(&headers), ["accept", "host"]);
        assert_eq!(headers[header::HOST], "seat");
    }

    #[test]
    fn an_app_gets_its_own_cookies_and_not_ours() {
        let mut headers = map(&[("cookie", "a=1; mine=secret;clarateach_seat=t"), ("cookie", "b=2")]);
        for_app(&mut headers, "mine", true);
        assert_eq!(headers[header::COOKIE], "a=1; b=2");
        for_app(&mut headers, "mine", false);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_workspace_can_say_nothing_that_acts_on_the_main_origin() {
        let mut headers = map(&[
            ("set-cookie", "clarateach_admin=evil"),
            ("access-control-allow-origin", "*"),
            ("clear-site-data", "\"*\""),
            ("location", "/api/logout"),
            ("www-authenticate", "Basic"),
            ("x-accel-redirect", "/etc/passwd"),
            ("content-security-policy", "default-src *"),
            ("content-type", "text/html"),
            ("etag", "\"1\""),
        ]);
        from_workspace(&mut headers);
        assert_eq!(
            names(&headers),
            [
                "cache-control",
                "content-security-policy",
                "content-type",
                "cross-origin-resource-policy",
                "etag",
                "referrer-policy",
                "x-content-type-options"
            ]
        );
        assert!(headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("sandbox"));
        assert_eq!(headers[header::CACHE_CONTROL], "private, no-cache");
    }
}
