//! What is asked of a certificate, put to rustls.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

use crate::pinned;

/// As in [`crate::Trust`].
#[derive(Debug)]
pub(crate) enum Asked {
    Nothing,
    Issued(Arc<WebPkiServerVerifier>),
    IssuedForAnyName(Arc<WebPkiServerVerifier>),
    Pinned {
        certificates: Vec<CertificateDer<'static>>,
        /// None when no authority is pinned.
        issued: Option<Arc<WebPkiServerVerifier>>,
    },
}

#[derive(Debug)]
pub(crate) struct Verifier {
    pub(crate) asked: Asked,
    pub(crate) signatures: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let issued = |by: &WebPkiServerVerifier| {
            by.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match &self.asked {
            Asked::Nothing => Ok(ServerCertVerified::assertion()),
            Asked::Issued(by) => issued(by),
            Asked::IssuedForAnyName(by) => match issued(by) {
                // The name is what is looked at last.
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )) => Ok(ServerCertVerified::assertion()),
                otherwise => otherwise,
            },
            Asked::Pinned { certificates, .. } if certificates.iter().any(|known| known == end_entity) => {
                pinned::verify(end_entity, server_name, now)?;
                Ok(ServerCertVerified::assertion())
            }
            Asked::Pinned { issued: Some(by), .. } => issued(by),
            Asked::Pinned { issued: None, .. } => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.signatures)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.signatures)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signatures.supported_schemes()
    }
}
