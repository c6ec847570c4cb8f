//! Certificates that were handed over beforehand.

use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::BasicConstraints;

use crate::authorities::{self, CertificatesError};

/// Certificates of servers, of authorities, or both.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// All of them: an authority may show its own certificate too.
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    /// Those that may issue others.
    pub(crate) authorities: RootCertStore,
}

impl Pinned {
    /// All certificates of a PEM text.
    ///
    /// # Errors
    /// When there are none, or one of them can't be used.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificatesError> {
        let certificates = authorities::certificates(pem)?;
        let mut authorities = RootCertStore::empty();
        for certificate in &certificates {
            if is_authority(certificate)? {
                authorities::add(&mut authorities, certificate.clone())?;
            }
        }
        Ok(Self { certificates, authorities })
    }
}

/// RFC 5280 §4.2.1.9: without the extension it is none.
fn is_authority(certificate: &CertificateDer<'_>) -> Result<bool, CertificatesError> {
    let refuse = |error: x509_cert::der::Error| CertificatesError::Certificate(error.to_string());
    let parsed = Certificate::from_der(certificate).map_err(refuse)?;
    let constraints = parsed.tbs_certificate.get::<BasicConstraints>().map_err(refuse)?;
    Ok(constraints.is_some_and(|(_, constraints)| constraints.ca))
}

/// Looks at a pinned certificate as at any other, but that nobody need have issued it: the pin vouches for the key.
pub(crate) fn verify(
    certificate: &CertificateDer<'_>,
    name: &ServerName<'_>,
    now: UnixTime,
) -> Result<(), Error> {
    rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let parsed = Certificate::from_der(certificate)
        .map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let validity = parsed.tbs_certificate.validity;
    let not_before = UnixTime::since_unix_epoch(validity.not_before.to_unix_duration());
    let not_after = UnixTime::since_unix_epoch(validity.not_after.to_unix_duration());
    if now < not_before {
        return Err(CertificateError::NotValidYetContext { time: now, not_before }.into());
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext { time: now, not_after }.into());
    }
    Ok(())
}
