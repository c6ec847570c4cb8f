//! The agent over TLS: learners' direct way, and a certificate that is renewed while they work.

use std::path::Path;
use std::sync::Arc;

use clarateach_agent::StartError;
use clarateach_runtime_simulated::World;
use clarateach_testkit::wait_for;
use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{Agent, TOKEN, UI, answer, quick, run};
use crate::proxy::Signer;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes a certificate for loopback and its key; gives what callers will see of it.
    fn issue(&self, certificate: &Path, key: &Path) -> Vec<u8> {
        let pair = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
        let issued = params.signed_by(&pair, &self.issuer).unwrap();
        std::fs::write(key, pair.serialize_pem()).unwrap();
        std::fs::write(certificate, issued.pem()).unwrap();
        issued.der().to_vec()
    }

    fn config(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder =
            ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Arc::new(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

async fn connect(agent: &Agent, authority: &Authority) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(agent.running().address).await.unwrap();
    let connector = TlsConnector::from(authority.config());
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

type Terminal = WebSocketStream<TlsStream<TcpStream>>;

async fn echoes(terminal: &mut Terminal, text: &str) {
    terminal.send(Message::text(format!(r#"{{"type":"input","data":"{text}"}}"#))).await.unwrap();
    while let Some(message) = terminal.next().await {
        if message.unwrap().to_text().unwrap().contains(text) {
            return;
        }
    }
    panic!("the terminal ended");
}

#[tokio::test]
async fn a_learner_comes_directly_over_tls_and_stays_while_the_certificate_is_renewed() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    let authority = Authority::new();
    let first = authority.issue(&certificate, &key);
    let setting = |path: &Path| path.to_str().unwrap().to_owned();
    let settings = vec![("TLS_CERT", setting(&certificate)), ("TLS_KEY", setting(&key))];
    let mut agent = Agent::set(quick(), settings).await;
    let root = reqwest::Certificate::from_pem(authority.pem.as_bytes()).unwrap();
    agent.http = reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().unwrap();
    agent.over_tls = true;

    agent.vm("w", 1).await;
    let signer = Signer::new(1);
    signer.push(&agent).await;
    let token = signer.token(1, "s1");
    answer(agent.http.get(agent.url("/proxy/w/1/files")).bearer_auth(&token)).await.is(200);

    let tunnelled = connect(&agent, &authority).await;
    assert_eq!(shown(&tunnelled), first);
    let mut request =
        format!("wss://{}/proxy/w/1/terminal", agent.authority()).into_client_request().unwrap();
    let protocol = format!("bearer.{token}");
    request.headers_mut().insert("sec-websocket-protocol", protocol.parse().unwrap());
    request.headers_mut().insert("origin", UI.parse().unwrap());
    let (mut terminal, _) = tokio_tungstenite::client_async(request, tunnelled).await.unwrap();
    echoes(&mut terminal, "before").await;

    // Half a renewal is none, and harms nobody.
    std::fs::write(&key, "not a key").unwrap();
    hang_up();
    assert_eq!(shown(&connect(&agent, &authority).await), first);
    let second = authority.issue(&certificate, &key);
    assert_ne!(first, second);
    let renewed = async || (shown(&connect(&agent, &authority).await) == second).then_some(());
    wait_for("the renewed certificate without a signal", Duration::from_secs(10), renewed).await;
    let third = authority.issue(&certificate, &key);
    hang_up();
    let renewed = async || (shown(&connect(&agent, &authority).await) == third).then_some(());
    wait_for("the renewed certificate after a signal", Duration::from_secs(10), renewed).await;
    echoes(&mut terminal, "after").await;
}

fn hang_up() {
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::HUP).unwrap();
}

#[tokio::test]
async fn whoever_speaks_plain_http_to_it_sends_no_token_that_is_heard() {
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
    Authority::new().issue(&certificate, &key);
    let setting = |path: &Path| path.to_str().unwrap().to_owned();
    let agent =
        Agent::set(quick(), vec![("TLS_CERT", setting(&certificate)), ("TLS_KEY", setting(&key))]).await;
    let plain = agent.http.get(agent.url("/info")).bearer_auth(TOKEN).send().await;
    assert!(plain.is_err(), "{plain:?}");
}

#[tokio::test]
async fn files_that_don_t_go_together_are_refused_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let authority = Authority::new();
    authority.issue(&path("a.crt"), &path("a.key"));
    authority.issue(&path("b.crt"), &path("b.key"));
    std::fs::write(path("empty"), "").unwrap();
    for (certificate, key, named) in [
        ("a.crt", "b.key", "TLS_KEY"),
        ("none", "a.key", "TLS_CERT"),
        ("a.crt", "none", "TLS_KEY"),
        ("empty", "a.key", "TLS_CERT"),
        ("a.crt", "empty", "TLS_KEY"),
        ("a.key", "a.key", "TLS_CERT"),
    ] {
        let setting = |name: &str| path(name).to_str().unwrap().to_owned();
        let settings = [("TLS_CERT", setting(certificate)), ("TLS_KEY", setting(key))];
        let state = tempfile::tempdir().unwrap();
        let refused = run(&state, &World::new(quick()), &settings).await;
        let Err(StartError::Tls(error)) = refused else { panic!("{certificate} {key}: {refused:?}") };
        assert!(error.to_string().starts_with(named), "{certificate} {key}: {error}");
    }
}
