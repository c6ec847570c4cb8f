//! What a gateway is told at start.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;

/// What a gateway is told at start. It reads no environment itself.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Origins of the web UI: whoever else sends an `Origin` is refused. The first one is the canonical one.
    pub public_origins: Vec<WebOrigin>,
    /// Also accept an `Origin` whose host and port equal the request's `Host`: for an installation that was not told
    /// its public URL. Harmless to seats, whose cookies belong to one host and whose tokens a foreign page hasn't got.
    pub same_host_origin: bool,
    /// Where previews live; without it they are served under the seat's endpoint, sandboxed.
    pub previews: Option<PreviewDomain>,
    /// Whether cookies are `Secure`: true when browsers reach the gateway by https.
    pub secure_cookies: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of what one session, seat or request may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Requests and upgraded streams that one session may have open on its workspace at a time.
    pub streams_per_session: usize,
    /// The same for all previews of a session together; pages load many files at once.
    pub preview_streams_per_session: usize,
    /// Ports that a session may have a preview of.
    pub previews_per_session: usize,
    /// Names and values of a request's headers together, in bytes.
    pub header_bytes: usize,
    /// How long streams live on after their lease, so that a late refresh loses nothing.
    pub lease_grace: Duration,
    /// How long a dial and the handshake after it may take.
    pub dial_timeout: Duration,
    /// Idle connections kept per seat and port.
    pub idle_connections: usize,
    /// How long an ending WebSocket gets for its last frame and the client's goodbye.
    pub goodbye: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams_per_session: 64,
            preview_streams_per_session: 256,
            previews_per_session: 32,
            header_bytes: 32 * 1024,
            lease_grace: Duration::from_secs(5),
            dial_timeout: Duration::from_secs(5),
            idle_connections: 16,
            goodbye: Duration::from_secs(3),
        }
    }
}

/// `http` or `https`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain; for loopback.
    Http,
    /// TLS, ended by something in front of us.
    Https,
}

impl Scheme {
    /// The name as it stands in a URL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// The domain beneath which every preview has an origin of its own: `{id}.{domain}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewDomain {
    /// Like `preview.example.org`, or `localhost` for a single machine: browsers resolve `*.localhost` by themselves.
    pub domain: String,
    /// How browsers reach it.
    pub scheme: Scheme,
    /// The port that browsers use; the scheme's own when missing.
    pub port: Option<u16>,
}

impl PreviewDomain {
    /// The origin of the preview `id`.
    #[must_use]
    pub fn origin(&self, id: &str) -> WebOrigin {
        let domain = self.domain.trim_matches('.').to_ascii_lowercase();
        WebOrigin::new(self.scheme, &format!("{id}.{domain}"), self.port)
    }
}

/// An origin (RFC 6454) as a browser writes it: scheme, host in lower case, port unless it is the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WebOrigin {
    text: String,
    scheme: Scheme,
}

/// Why a string is not an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an origin: http:// or https:// with a host and perhaps a port, nothing behind")]
pub struct ParseOriginError;

impl WebOrigin {
    fn new(scheme: Scheme, host: &str, port: Option<u16>) -> Self {
        let host = host.to_ascii_lowercase();
        let text = match port.filter(|port| *port != scheme.default_port()) {
            Some(port) => format!("{}://{host}:{port}", scheme.as_str()),
            None => format!("{}://{host}", scheme.as_str()),
        };
        Self { text, scheme }
    }

    /// The origin as it stands in an `Origin` header.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its scheme.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Host, and port unless it is the scheme's own: as it stands in a `Host` header.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.text[self.scheme.as_str().len() + 3..]
    }

    /// The host without the port.
    #[must_use]
    pub fn host(&self) -> &str {
        without_port(self.authority())
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for WebOrigin {
    type Err = ParseOriginError;
    fn from_str(text: &str) -> Result<Self, ParseOriginError> {
        let uri: Uri = text.parse().map_err(|_| ParseOriginError)?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(ParseOriginError),
        };
        let authority = uri.authority().ok_or(ParseOriginError)?;
        let bare = matches!(uri.path(), "" | "/") && uri.query().is_none();
        if !bare || authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(ParseOriginError);
        }
        Ok(Self::new(scheme, authority.host(), authority.port_u16()))
    }
}

/// `host` of `host:port`, brackets of an IPv6 address kept.
pub(crate) fn without_port(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(colon) if !authority[colon..].contains(']') => &authority[..colon],
        _ => authority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_have_one_spelling() {
        let same = |a: &str, b: &str| assert_eq!(a.parse::<WebOrigin>().unwrap().as_str(), b);
        same("https://Example.ORG:443/", "https://example.org");
        same("http://localhost:8080", "http://localhost:8080");
        same("http://[::1]:8080", "http://[::1]:8080");
        for bad in ["null", "", "example.org", "ftp://a", "http://a/b", "http://u@a", "http://a?x", "http://"]
        {
            assert!(bad.parse::<WebOrigin>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_origin_knows_its_host() {
        let origin: WebOrigin = "http://[::1]:8080".parse().unwrap();
        assert_eq!((origin.authority(), origin.host()), ("[::1]:8080", "[::1]"));
        let origin: WebOrigin = "https://a.example".parse().unwrap();
        assert_eq!((origin.authority(), origin.host()), ("a.example", "a.example"));
    }

    #[test]
    fn a_preview_s_origin_is_beneath_the_domain() {
        let domain =
            PreviewDomain { domain: ".Preview.Example.".into(), scheme: Scheme::Http, port: Some(8080) };
        assert_eq!(domain.origin("pabc").as_str(), "http://pabc.preview.example:8080");
    }
}
