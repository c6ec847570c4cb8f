//! Whom to believe that it is the worker.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::BasicConstraints;

use crate::address::{ClientError, Tls};

/// The TLS settings of a client; for one that speaks plain HTTP, some that trust nobody.
pub(crate) fn client_config(address: &str, tls: Option<&Tls>) -> Result<ClientConfig, ClientError> {
    let setup = |error: &dyn std::fmt::Display| ClientError::Setup {
        address: address.to_owned(),
        problem: error.to_string(),
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match tls {
        None => Arc::new(Pinned { exact: Vec::new(), issued: None, provider: Arc::clone(&provider) }),
        Some(Tls::PublicRoots) => {
            let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider));
            Arc::new(verifier.map_err(|error| setup(&error))?)
        }
        Some(Tls::Pinned(pem)) => {
            let pinned = Pinned::from_pem(pem, Arc::clone(&provider));
            let refuse = |problem| ClientError::Certificate { address: address.to_owned(), problem };
            Arc::new(pinned.map_err(refuse)?)
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| setup(&error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(config)
}

/// Accepts the pinned certificates themselves, and what pinned authorities have issued.
#[derive(Debug)]
struct Pinned {
    exact: Vec<CertificateDer<'static>>,
    /// None when no authority is pinned.
    issued: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn from_pem(pem: &str, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
        let exact = parsed.map_err(|error| format!("it is not PEM: {error}"))?;
        if exact.is_empty() {
            return Err(
                "there is no certificate in it; it takes PEM (-----BEGIN CERTIFICATE-----)".to_owned()
            );
        }
        let mut roots = RootCertStore::empty();
        for certificate in &exact {
            if is_authority(certificate)? {
                roots.add(certificate.clone()).map_err(|error| error.to_string())?;
            }
        }
        let issued = if roots.is_empty() {
            None
        } else {
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(builder.build().map_err(|error| error.to_string())?)
        };
        Ok(Self { exact, issued, provider })
    }

    /// As a chain is checked, but that nobody need have issued it: the pin vouches for the key.
    fn verify_exact(
        &self,
        certificate: &CertificateDer<'_>,
        name: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), Error> {
        rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
        let parsed =
            parse(certificate).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
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
}

fn parse(certificate: &CertificateDer<'_>) -> Result<Certificate, String> {
    Certificate::from_der(certificate).map_err(|error| format!("it is no X.509 certificate: {error}"))
}

/// RFC 5280 §4.2.1.9: without the extension it is none.
fn is_authority(certificate: &CertificateDer<'_>) -> Result<bool, String> {
    let parsed = parse(certificate)?;
    let constraints = parsed.tbs_certificate.get::<BasicConstraints>().map_err(|error| error.to_string())?;
    Ok(constraints.is_some_and(|(_, constraints)| constraints.ca))
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.exact.iter().any(|pinned| pinned == end_entity) {
            self.verify_exact(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        match &self.issued {
            Some(issued) => {
                issued.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
