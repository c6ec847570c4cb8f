//! Whom to believe that it is the worker.

use clarateach_tls::{Pinned, Trust, authorities_of_this_system};
use rustls::ClientConfig;

use crate::address::{ClientError, Tls};

/// The TLS settings of a client; for one that speaks plain HTTP, some that trust nobody.
pub(crate) fn client_config(address: &str, tls: Option<&Tls>) -> Result<ClientConfig, ClientError> {
    let setup = |problem| ClientError::Setup { address: address.to_owned(), problem };
    let refuse = |problem| ClientError::Certificate { address: address.to_owned(), problem };
    let trust = match tls {
        None => Trust::Nobody,
        Some(Tls::PublicRoots) => {
            Trust::Authorities(authorities_of_this_system().map_err(|error| setup(error.to_string()))?)
        }
        Some(Tls::Pinned(pem)) => {
            Trust::Pinned(Pinned::from_pem(pem.as_bytes()).map_err(|error| refuse(error.to_string()))?)
        }
    };
    clarateach_tls::client_config(trust).map_err(|error| setup(error.to_string()))
}
