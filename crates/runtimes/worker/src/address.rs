//! How a worker is reached.

use secrecy::SecretString;

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
