//! Whom a client believes to be its worker.

#![allow(clippy::unwrap_used, reason = "a test fails with a panic")]

mod support;

use std::sync::Arc;

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::conformance::until_ready;
use clarateach_runtime::{DesiredSeat, Egress, ImageRef, Runtime, RuntimeError, SeatPort};
use clarateach_runtime_simulated::SimulatedConfig;
use clarateach_runtime_worker::{Tls, Worker, WorkerAddress, WorkerClient};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use support::{Agent, TOKEN};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const HERE: &[&str] = &["127.0.0.1", "localhost"];

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key, in PEM.
struct Own {
    certificate: String,
    key: String,
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

impl Authority {
    fn new() -> Self {
        let (key, mut params) = (KeyPair::generate().unwrap(), params(&[]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    fn issue(&self, params: &CertificateParams) -> Own {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Own { certificate, key: key.serialize_pem() }
    }
}

fn self_signed(params: &CertificateParams) -> Own {
    let key = KeyPair::generate().unwrap();
    Own { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

async fn agent(own: &Own) -> Agent {
    let (config, certificate, key) = (SimulatedConfig::default(), own.certificate.clone(), own.key.clone());
    Agent::over_tls(config, &certificate, &key).await
}

fn client(address: &str, tls: Tls) -> WorkerClient {
    let (address, token) = (address.to_owned(), TOKEN.to_owned().into());
    WorkerClient::new(WorkerAddress { address, token, tls: Some(tls) }).unwrap()
}

fn pinning(agent: &Agent, pem: &str) -> WorkerClient {
    client(&agent.address(), Tls::Pinned(pem.to_owned()))
}

/// Neither a call nor a tunnel gets through, and the reason holds these words.
async fn distrusts(client: &WorkerClient, words: &str) {
    let key = SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() };
    let called = client.info().await.map(drop).unwrap_err();
    let dialled = client.dial(&key, SeatPort::Workspace).await.map(drop).unwrap_err();
    for error in [called, dialled] {
        assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "not because of {words}: {error}");
    }
}

#[tokio::test]
async fn the_pinned_authority_s_worker_is_believed_and_nobody_else() {
    let (authority, other) = (Authority::new(), Authority::new());
    let agent = agent(&authority.issue(&params(HERE))).await;
    pinning(&agent, &authority.pem).info().await.unwrap();
    // Several may be pinned, as when one authority follows another.
    pinning(&agent, &format!("{}{}", other.pem, authority.pem)).info().await.unwrap();
    distrusts(&pinning(&agent, &other.pem), "invalid peer certificate").await;
    distrusts(&client(&agent.address(), Tls::PublicRoots), "UnknownIssuer").await;
    // By name as by address.
    let by_name = format!("localhost:{}", agent.running.address.port());
    client(&by_name, Tls::Pinned(authority.pem.clone())).info().await.unwrap();
}

#[tokio::test]
async fn a_certificate_for_another_name_or_time_is_not_believed() {
    let authority = Authority::new();
    let elsewhere = agent(&authority.issue(&params(&["10.9.8.7", "worker-9.example"]))).await;
    distrusts(&pinning(&elsewhere, &authority.pem), "not valid for").await;

    let mut old = params(HERE);
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let expired = agent(&authority.issue(&old)).await;
    distrusts(&pinning(&expired, &authority.pem), "expired").await;

    let mut early = params(HERE);
    (early.not_before, early.not_after) = (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    let early = agent(&authority.issue(&early)).await;
    distrusts(&pinning(&early, &authority.pem), "not valid yet").await;
}

#[tokio::test]
async fn a_pinned_certificate_is_the_only_one_believed() {
    let authority = Authority::new();
    let (own, twin) = (authority.issue(&params(HERE)), authority.issue(&params(HERE)));
    let (agent, impostor) = (agent(&own).await, agent(&twin).await);
    pinning(&agent, &own.certificate).info().await.unwrap();
    distrusts(&pinning(&impostor, &own.certificate), "UnknownIssuer").await;
    // With the authority beside it, that's who decides.
    pinning(&impostor, &format!("{}{}", own.certificate, authority.pem)).info().await.unwrap();
}

#[tokio::test]
async fn self_signed_certificates_can_be_pinned_whether_or_not_they_call_themselves_an_authority() {
    // As `openssl req -x509` makes them.
    let mut proud = params(HERE);
    proud.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for params in [params(HERE), proud] {
        let (own, other) = (self_signed(&params), self_signed(&params));
        let agent = agent(&own).await;
        pinning(&agent, &own.certificate).info().await.unwrap();
        distrusts(&pinning(&agent, &other.certificate), "invalid peer certificate").await;
    }
    // What is pinned must still be for that host and this time.
    let mut old = params(HERE);
    (old.not_before, old.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    let (old, elsewhere) = (self_signed(&old), self_signed(&params(&["worker-9.example"])));
    distrusts(&pinning(&agent(&old).await, &old.certificate), "expired").await;
    distrusts(&pinning(&agent(&elsewhere).await, &elsewhere.certificate), "not valid for").await;
}

/// A copy of the certificate without its key proves nothing.
#[tokio::test]
async fn the_certificate_alone_is_not_enough() {
    let own = self_signed(&params(HERE));
    let certificate = own.certificate.clone();
    let thief = KeyPair::generate().unwrap();
    let address = support::stolen(&certificate, &thief.serialize_der()).await;
    distrusts(&client(&address, Tls::Pinned(certificate)), "ignature").await;
}

#[tokio::test]
async fn tls_and_plain_http_do_not_meet() {
    let own = self_signed(&params(HERE));
    let (secure, plain) = (agent(&own).await, Agent::new(SimulatedConfig::default()).await);
    let error = support::client(&secure.address()).info().await.map(drop).unwrap_err();
    assert!(matches!(error, RuntimeError::Unavailable { .. }), "{error:?}");
    distrusts(&pinning(&plain, &own.certificate), "worker 127.0.0.1").await;
}

#[tokio::test]
async fn seats_are_made_and_dialled_through_tls() {
    let own = self_signed(&params(HERE));
    let agent = agent(&own).await;
    let client = pinning(&agent, &own.certificate);
    let key = SeatKey { workshop: "w".parse().unwrap(), seat: "1".parse().unwrap() };
    let seat = DesiredSeat {
        key: key.clone(),
        generation: Generation(1),
        image: ImageRef("anything".to_owned()),
        vcpus: 1,
        memory_mb: 256,
        disk_mb: 1024,
        env: std::collections::BTreeMap::new(),
        secret: "0123456789abcdef".to_owned().into(),
        egress: Egress::Internet,
        not_after: None,
    };
    client.prepare(&seat.image, Arc::new(|_| {})).await.unwrap();
    client.apply(seat).await.unwrap();
    until_ready(&client, &key, 1).await;
    let stream = client.dial(&key, SeatPort::App(3000)).await.unwrap();
    let sent: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let (mut from, mut to) = tokio::io::split(stream);
    let write = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let (_, read) = tokio::join!(write, from.read_to_end(&mut heard));
    read.unwrap();
    assert!(heard == sent, "{} of {} bytes came back", heard.len(), sent.len());
    client.remove(&key, Generation(1)).await.unwrap();
    assert_eq!(agent.world.count(), 0);
}
