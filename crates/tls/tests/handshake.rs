//! Each kind of trust against servers of every kind, in a handshake without a network.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

use std::sync::Arc;

use clarateach_tls::{CertificatesError, Pinned, Trust, authorities_in, client_config};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConnection, Connection, Error, ServerConfig, ServerConnection};

const HERE: &str = "db.example";

/// A certificate, and the key that its server signs with.
struct Server {
    certificate: CertificateDer<'static>,
    pem: String,
    key: KeyPair,
}

fn params(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
    let (key, mut params) = (KeyPair::generate().unwrap(), CertificateParams::default());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

fn server(params: &CertificateParams, issuer: Option<&Issuer<'static, KeyPair>>) -> Server {
    let key = KeyPair::generate().unwrap();
    let certificate = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    let certificate = certificate.unwrap();
    Server { pem: certificate.pem(), certificate: certificate.der().clone(), key }
}

/// What a client that dials [`HERE`] and trusts so says of the server.
fn meets(trust: Trust, server: &Server) -> Result<(), Error> {
    let key = PrivateKeyDer::try_from(server.key.serialize_der()).unwrap();
    let signer = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![server.certificate.clone()], signer));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let name = ServerName::try_from(HERE).unwrap();
    let mut client =
        Connection::from(ClientConnection::new(Arc::new(client_config(trust).unwrap()), name).unwrap());
    let mut server = Connection::from(ServerConnection::new(Arc::new(config)).unwrap());
    while client.is_handshaking() {
        tell(&mut client, &mut server)?;
        tell(&mut server, &mut client)?;
    }
    Ok(())
}

fn tell(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut said = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut said).unwrap();
    }
    let mut said = said.as_slice();
    while !said.is_empty() {
        to.read_tls(&mut said).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn refused(trust: Trust, server: &Server, words: &str) {
    let error = meets(trust, server).unwrap_err().to_string();
    assert!(error.contains(words), "not because of {words}: {error}");
}

fn pinned(pem: &str) -> Trust {
    Trust::Pinned(Pinned::from_pem(pem.as_bytes()).unwrap())
}

#[test]
fn each_trust_believes_its_own_and_nobody_else() {
    let ((known, known_pem), (unknown, _)) = (authority("known"), authority("unknown"));
    let ours = server(&params(HERE), Some(&known));
    let elsewhere = server(&params("other.example"), Some(&known));
    let theirs = server(&params(HERE), Some(&unknown));
    let roots = authorities_in(known_pem.as_bytes()).unwrap();

    let strict = Trust::Authorities(roots.clone());
    meets(strict.clone(), &ours).unwrap();
    refused(strict.clone(), &elsewhere, "not valid for");
    refused(strict, &theirs, "UnknownIssuer");

    let lax = Trust::AuthoritiesForAnyName(roots);
    meets(lax.clone(), &ours).unwrap();
    meets(lax.clone(), &elsewhere).unwrap();
    refused(lax, &theirs, "UnknownIssuer");

    let pin = pinned(&ours.pem);
    meets(pin.clone(), &ours).unwrap();
    refused(pin.clone(), &elsewhere, "UnknownIssuer");
    refused(pin, &theirs, "UnknownIssuer");

    // An authority among the pinned ones speaks for what it has issued.
    let both = pinned(&format!("{}{known_pem}", theirs.pem));
    meets(both.clone(), &ours).unwrap();
    meets(both.clone(), &theirs).unwrap();
    refused(both, &elsewhere, "not valid for");

    for server in [&ours, &elsewhere, &theirs] {
        meets(Trust::Anyone, server).unwrap();
        refused(Trust::Nobody, server, "UnknownIssuer");
    }
}

#[test]
fn a_pinned_certificate_is_for_its_host_and_its_time() {
    let other_host = server(&params("other.example"), None);
    refused(pinned(&other_host.pem), &other_host, "not valid for");

    let mut old = params(HERE);
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let old = server(&old, None);
    refused(pinned(&old.pem), &old, "expired");

    let mut early = params(HERE);
    (early.not_before, early.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let early = server(&early, None);
    refused(pinned(&early.pem), &early, "not valid yet");
}

#[test]
fn whoever_shows_a_certificate_has_to_have_its_key() {
    let (issuer, authority) = authority("ours");
    let own = server(&params(HERE), Some(&issuer));
    let thief = Server {
        certificate: own.certificate.clone(),
        pem: String::new(),
        key: KeyPair::generate().unwrap(),
    };
    let roots = authorities_in(authority.as_bytes()).unwrap();
    let trusts = [
        Trust::Anyone,
        Trust::Authorities(roots.clone()),
        Trust::AuthoritiesForAnyName(roots),
        pinned(&own.pem),
    ];
    for trust in trusts {
        refused(trust, &thief, "ignature");
    }
}

#[test]
fn a_text_without_usable_certificates_is_refused() {
    for text in ["", "hello", &KeyPair::generate().unwrap().serialize_pem()] {
        let (pinned, roots) = (Pinned::from_pem(text.as_bytes()), authorities_in(text.as_bytes()));
        assert!(matches!(pinned, Err(CertificatesError::None)), "{text:?}: {pinned:?}");
        assert!(matches!(roots, Err(CertificatesError::None)), "{text:?}: {roots:?}");
    }
    let broken = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    assert!(matches!(Pinned::from_pem(broken.as_bytes()), Err(CertificatesError::Pem(_))));
    let empty = "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n";
    assert!(matches!(Pinned::from_pem(empty.as_bytes()), Err(CertificatesError::Certificate(_))));
    assert!(matches!(authorities_in(empty.as_bytes()), Err(CertificatesError::Certificate(_))));
}
