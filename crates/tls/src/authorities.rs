//! Where certificates come from: PEM, or this system.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

/// Why a text gives no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// Not of that form.
    #[error("it is not PEM: {0}")]
    Pem(pem::Error),
    /// PEM, and none in it.
    #[error("there is no certificate in it; it takes PEM (-----BEGIN CERTIFICATE-----)")]
    None,
    /// One that is none, or can't be used.
    #[error("a certificate in it can't be used: {0}")]
    Certificate(String),
}

/// This system knows no certificate authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this system knows no certificate authorities; install ca-certificates")]
pub struct NoAuthorities;

/// The certificate authorities of this system, such as Debian keeps in `/etc/ssl/certs`; `SSL_CERT_FILE` and
/// `SSL_CERT_DIR` are heeded.
///
/// # Errors
/// When there are none. One that can't be parsed is left out.
pub fn authorities_of_this_system() -> Result<RootCertStore, NoAuthorities> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(NoAuthorities) } else { Ok(roots) }
}

/// The certificates in a PEM text, each an authority, whatever it says of itself.
///
/// # Errors
/// When there are none, or one of them can't be used.
pub fn authorities_in(pem: &[u8]) -> Result<RootCertStore, CertificatesError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        add(&mut roots, certificate)?;
    }
    Ok(roots)
}

pub(crate) fn add(
    roots: &mut RootCertStore,
    certificate: CertificateDer<'static>,
) -> Result<(), CertificatesError> {
    roots.add(certificate).map_err(|error| CertificatesError::Certificate(error.to_string()))
}

/// At least one.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificatesError> {
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(CertificatesError::Pem)?;
    if found.is_empty() { Err(CertificatesError::None) } else { Ok(found) }
}
