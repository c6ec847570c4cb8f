//! Whom a client believes over TLS: authorities of this system, authorities or certificates that it was given, or
//! whoever answers.
//!
//! Whatever is asked of the certificate, the other side always has to sign the handshake with its key.

mod authorities;
mod pinned;
mod verifier;

use std::sync::Arc;

use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{Error, RootCertStore};

pub use authorities::{CertificatesError, NoAuthorities, authorities_in, authorities_of_this_system};
pub use pinned::Pinned;

use verifier::{Asked, Verifier};

/// What a server's certificate has to be.
#[derive(Debug, Clone)]
pub enum Trust {
    /// No certificate will do: for a client that is not to speak TLS.
    Nobody,
    /// Any will do: nobody can read along, but whoever answers is believed.
    Anyone,
    /// Issued by one of these authorities, for the name that was dialled.
    Authorities(RootCertStore),
    /// Issued by one of these authorities, for whatever name.
    AuthoritiesForAnyName(RootCertStore),
    /// One of these, or issued by an authority among them, for the name that was dialled.
    Pinned(Pinned),
}

/// The TLS settings of a client that believes those.
///
/// # Errors
/// When there is no authority where one is asked for, or the cryptography can't be set up.
pub fn client_config(trust: Trust) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let asked = match trust {
        Trust::Nobody => Asked::Pinned { certificates: Vec::new(), issued: None },
        Trust::Anyone => Asked::Nothing,
        Trust::Authorities(roots) => Asked::Issued(issued_by(roots, &provider)?),
        Trust::AuthoritiesForAnyName(roots) => Asked::IssuedForAnyName(issued_by(roots, &provider)?),
        Trust::Pinned(Pinned { certificates, authorities }) => {
            let any = (!authorities.is_empty()).then_some(authorities);
            let issued = any.map(|authorities| issued_by(authorities, &provider)).transpose()?;
            Asked::Pinned { certificates, issued }
        }
    };
    let verifier = Verifier { asked, signatures: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(config)
}

fn issued_by(
    authorities: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, Error> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(provider))
        .build()
        .map_err(|error| Error::General(error.to_string()))
}
