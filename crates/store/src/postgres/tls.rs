//! TLS to the server, and what is believed of its certificate.

use std::path::{Path, PathBuf};

use clarateach_tls::{NoAuthorities, Trust, authorities_in, authorities_of_this_system, client_config};
use rustls::RootCertStore;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::url::{PostgresUrl, Verify};

/// Why TLS can't be prepared.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file of `sslrootcert`.
    #[error("can't read the certificates in {path}: {reason}", path = .path.display())]
    RootCertificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No authority is known, and one is needed.
    #[error("{0}, or give sslrootcert=FILE")]
    NoAuthorities(NoAuthorities),
    /// The library's.
    #[error("TLS can't be set up")]
    Setup(#[from] rustls::Error),
}

/// What connects by TLS, as the URL wants it.
pub(super) fn connector(url: &PostgresUrl) -> Result<MakeRustlsConnect, TlsError> {
    let authorities = || authorities(url.root_certificates.as_deref());
    let trust = match url.verify {
        Verify::Nothing => Trust::Anyone,
        Verify::Authority => Trust::AuthoritiesForAnyName(authorities()?),
        Verify::Full => Trust::Authorities(authorities()?),
    };
    Ok(MakeRustlsConnect::new(client_config(trust)?))
}

fn authorities(path: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let Some(path) = path else { return authorities_of_this_system().map_err(TlsError::NoAuthorities) };
    let wrong = |reason: String| TlsError::RootCertificates { path: path.to_owned(), reason };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    authorities_in(&pem).map_err(|error| wrong(error.to_string()))
}
