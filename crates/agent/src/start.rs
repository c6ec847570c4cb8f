//! Puts the parts together and takes them apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clarateach_gateway::{EndedWhy, Gateway, GatewayConfig, Limits, Scheme};
use clarateach_ids::InstallationId;
use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::config::{Config, GOOD_TOKEN, Listen};
use crate::directory::Directory;
use crate::error::AgentError;
use crate::host::Host;
use crate::state::{State, StateError};
use crate::tls::{Identity, TlsError};
use crate::{keys, preemption, routes, tls};

/// How long what was begun may take after the stop.
const FINISH_WITHIN: Duration = Duration::from_secs(20);

/// Why the agent did not start. Each says what and why in one line.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory can't be used.
    #[error("{0}")]
    State(#[from] StateError),
    /// The pushed keys can't be used.
    #[error("STATE_DIR: seat-keys.json: {0}")]
    Keys(AgentError),
    /// The address can't be listened on.
    #[error("PORT: can't listen on {address}: {source}; is another agent running there?")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate can't be shown.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// TLS can't be set up.
    #[error("TLS_CERT: {0}")]
    Cryptography(#[from] rustls::Error),
    /// This host can't serve VMs.
    #[error("{0}")]
    Host(String),
}

/// An agent that runs.
#[derive(Debug)]
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its parts, for tests.
    pub app: Arc<App>,
    serving: JoinHandle<()>,
    stop: CancellationToken,
}

impl Running {
    /// Stops listening, lets requests under way finish, lets go of the VMs, which go on running.
    pub async fn stop(self) {
        self.stop.cancel();
        self.app.closing.cancel();
        self.app.gateway.shutdown().await;
        let _ = self.serving.await;
        self.app.tasks.close();
        if tokio::time::timeout(FINISH_WITHIN, self.app.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not finish in time; the next start takes it up");
        }
        self.app.host.close().await;
    }
}

/// Takes the port, before anything on this host is touched: two agents never begin to look after one host. Whoever
/// connects waits until [`start`].
///
/// # Errors
/// [`StartError::Listen`].
pub async fn listen(config: &Config) -> Result<TcpListener, StartError> {
    let address = config.listen.address;
    clarateach_gateway::listen(address).await.map_err(|source| StartError::Listen { address, source })
}

/// Starts an agent for the VMs of `host` that lets in whoever shows `token`.
///
/// # Errors
/// See [`StartError`].
pub async fn start(
    config: Config,
    token: SecretString,
    listener: TcpListener,
    state: State,
    host: Arc<dyn Host>,
) -> Result<Running, StartError> {
    let worker_id = state.worker_id(config.worker_id.as_ref())?;
    let address = config.listen.address;
    let address = listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
    if token.expose_secret().len() < GOOD_TOKEN {
        tracing::warn!("the token is short enough to be guessed; make one with: openssl rand -hex 32");
    }
    let verifier = match state.keys()? {
        Some(pushed) => keys::verifier(&pushed).map_err(StartError::Keys)?,
        None => keys::nobody(InstallationId::random()),
    };
    let identity = config.listen.tls.as_ref().map(Identity::read).transpose()?;
    let served_over = identity.as_ref().map(Identity::server_config).transpose()?;
    let directory = Arc::new(Directory::new(Arc::clone(&host)));
    let gateway = Gateway::new(gateway_config(&config.listen), directory, verifier);
    for revoked in state.revoked(Timestamp::now().as_second())? {
        let session = revoked.session;
        gateway.end_session(&session.session_id, &EndedWhy::Other(session.reason));
    }
    let preempted = preemption::remembered(&state, config.metadata.as_deref()).await?;
    let app = App::new(host, gateway, state, token, worker_id, config, preempted);
    let stop = CancellationToken::new();
    let router = routes::router(Arc::clone(&app));
    let scheme = if served_over.is_some() { "https" } else { "http" };
    let serving = match served_over {
        None => tokio::spawn(clarateach_gateway::serve(listener, router, stop.clone())),
        Some(config) => tokio::spawn(clarateach_gateway::serve_tls(listener, router, config, stop.clone())),
    };
    if let Some(identity) = identity {
        let (_, until) = identity.validity();
        if until <= Timestamp::now() {
            tracing::error!(%until, "the certificate in TLS_CERT has expired: no caller accepts it");
        }
        // Listened for from here on: until then the signal would end the process.
        let hangup = signal(SignalKind::hangup()).ok();
        app.tasks.spawn(tls::follow(identity, hangup, app.closing.clone()));
    }
    tracing::info!(%address, worker = %app.worker_id, draining = app.is_draining(), "Agent runs on {scheme}://localhost:{}", address.port());
    Ok(Running { address, app, serving, stop })
}

fn gateway_config(listen: &Listen) -> GatewayConfig {
    let origins = listen.public_url.iter().chain(&listen.cors_origins).cloned();
    GatewayConfig {
        public_origins: origins.collect(),
        same_host_origin: false,
        previews: None,
        secure_cookies: listen.public_url.as_ref().is_some_and(|url| url.scheme() == Scheme::Https),
        limits: Limits::default(),
    }
}
