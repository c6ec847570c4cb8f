//! How a worker is reached.

use http::HeaderValue;
use http::uri::Authority;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret, SecretString};

/// How a worker is reached.
#[derive(Debug, Clone)]
pub struct WorkerAddress {
    /// `HOST:PORT`; an IPv6 address in brackets.
    pub address: String,
    /// What its agent asks of callers.
    pub token: SecretString,
    /// How its agent proves who it is, over TLS; none: plain HTTP.
    pub tls: Option<Tls>,
}

/// How an agent proves who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tls {
    /// By a certificate of a public authority, for the address's host.
    PublicRoots,
    /// PEM: certificates of authorities, one of which must have issued the agent's certificate; or the agent's own,
    /// and then no other is accepted. Either is for the address's host, by name or by IP address.
    Pinned(String),
}

/// Why there can be no client for an address. Never repeats the token.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("{address:?} is not the address of a worker; it takes HOST:PORT, such as 10.0.0.5:9090")]
    Address {
        /// What was given.
        address: String,
    },
    /// The token can't be shown.
    #[error("worker {address}: the token takes 1 to 512 printable ASCII characters without spaces")]
    Token {
        /// Whose.
        address: String,
    },
    /// The certificates to pin are none.
    #[error("worker {address}: the certificate to pin can't be used: {problem}")]
    Certificate {
        /// Whose.
        address: String,
        /// What is wrong with it.
        problem: String,
    },
    /// TLS can't be had on this host.
    #[error("worker {address}: TLS can't be set up: {problem}")]
    Setup {
        /// Whose.
        address: String,
        /// Why.
        problem: String,
    },
}

/// An address that has been checked.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) authority: Authority,
    pub(crate) port: u16,
}

impl Target {
    pub(crate) fn parse(text: &str) -> Result<Self, ClientError> {
        let refuse = || ClientError::Address { address: text.to_owned() };
        let authority: Authority = text.parse().map_err(|_| refuse())?;
        let port = authority.port_u16().filter(|port| *port > 0).ok_or_else(refuse)?;
        if authority.host().is_empty() || text.contains('@') {
            return Err(refuse());
        }
        Ok(Self { authority, port })
    }

    /// Without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn name(&self) -> Result<ServerName<'static>, ClientError> {
        let refuse = |_| ClientError::Address { address: self.authority.to_string() };
        ServerName::try_from(self.host().to_owned()).map_err(refuse)
    }
}

/// What goes into the `Authorization` header.
pub(crate) fn bearer(address: &WorkerAddress) -> Result<HeaderValue, ClientError> {
    let token = address.token.expose_secret();
    let fits = (1..=512).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    let value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| fits);
    let mut value = value.ok_or_else(|| ClientError::Token { address: address.address.clone() })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_and_port() {
        for (text, host, port) in [
            ("10.0.0.5:9090", "10.0.0.5", 9090),
            ("[::1]:1", "::1", 1),
            ("worker-1.example:443", "worker-1.example", 443),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.host(), target.port), (host, port));
            target.name().unwrap();
        }
        for text in [
            "",
            "worker",
            "worker:",
            "worker:0",
            "worker:65536",
            ":9090",
            "http://worker:9090",
            "a@b:1",
            "a b:1",
            "a:1/x",
        ] {
            assert!(matches!(Target::parse(text), Err(ClientError::Address { .. })), "{text:?}");
        }
    }

    #[test]
    fn a_token_that_can_t_be_shown_is_refused_and_not_repeated() {
        let address =
            |token: &str| WorkerAddress { address: "w:1".to_owned(), token: token.into(), tls: None };
        assert!(bearer(&address("0123456789abcdef")).is_ok_and(|value| value.is_sensitive()));
        for token in ["", "two words", "żółć", "line\nbreak", &"x".repeat(513)] {
            let error = bearer(&address(token)).unwrap_err().to_string();
            assert!(token.is_empty() || !error.contains(token), "{error}");
        }
        assert!(!format!("{:?}", address("hush-hush")).contains("hush-hush"));
    }
}
