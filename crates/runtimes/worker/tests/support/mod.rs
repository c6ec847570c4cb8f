//! A real agent over seats that are not real, on a port of its own.

#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod raw;

use std::sync::Arc;

use clarateach_agent::config::Config;
use clarateach_agent::host::BareHost;
use clarateach_agent::state::State;
use clarateach_agent::{Running, listen, start};
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime, World};
use clarateach_runtime_worker::{WorkerAddress, WorkerClient};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub(crate) const TOKEN: &str = "agent-token-0123456789";

pub(crate) struct Agent {
    pub(crate) world: Arc<World>,
    pub(crate) running: Running,
    _dir: TempDir,
}

impl Agent {
    pub(crate) async fn new(config: SimulatedConfig) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::within(config, dir, &[]).await
    }

    pub(crate) async fn over_tls(config: SimulatedConfig, certificate: &str, key: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (certificate_file, key_file) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        std::fs::write(&certificate_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        let setting = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let settings = [("TLS_CERT", setting(certificate_file)), ("TLS_KEY", setting(key_file))];
        Self::within(config, dir, &settings).await
    }

    async fn within(config: SimulatedConfig, dir: TempDir, more: &[(&str, String)]) -> Self {
        let world = World::new(config);
        let running = run(&dir, &world, more).await;
        Self { world, running, _dir: dir }
    }

    pub(crate) fn address(&self) -> String {
        self.running.address.to_string()
    }

    pub(crate) fn client(&self) -> WorkerClient {
        client(&self.address())
    }
}

async fn run(dir: &TempDir, world: &Arc<World>, more: &[(&str, String)]) -> Running {
    let settings = [("PORT", "0"), ("BIND_ADDR", "127.0.0.1"), ("AGENT_TOKEN", TOKEN)];
    let setting = |name: &str| {
        let usual = settings.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        more.iter().find(|(n, _)| *n == name).map(|(_, v)| v.clone()).or(usual)
    };
    let config = Config::read(setting).unwrap();
    let host = Arc::new(BareHost::new(Arc::new(SimulatedRuntime::on(world.clone()))));
    let listener = listen(&config).await.unwrap();
    let state = State::open(dir.path()).unwrap();
    start(config, TOKEN.to_owned().into(), listener, state, host).await.unwrap()
}

pub(crate) fn client(address: &str) -> WorkerClient {
    client_with(address, TOKEN)
}

pub(crate) fn client_with(address: &str, token: &str) -> WorkerClient {
    let (address, token) = (address.to_owned(), token.to_owned().into());
    WorkerClient::new(WorkerAddress { address, token, tls: None }).unwrap()
}

/// Somebody who shows a certificate and has another key.
pub(crate) async fn stolen(certificate: &str, key: &[u8]) -> String {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::try_from(key.to_vec()).unwrap();
    let signer = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], signer));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    address
}
