//! Accepts connections and serves them until told to stop.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// A client that doesn't finish its headers in this time is cut off.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// How long requests under way may take after the stop.
const FINISH_WITHIN: Duration = Duration::from_secs(10);
/// After a failed accept (out of file descriptors, say), breathe.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long a bind waits for an address that is in use: a process that was killed while it started another one leaves its
/// listener to that one until it has become what it is to be.
const FREE_WITHIN: Duration = Duration::from_secs(2);
const BIND_PAUSE: Duration = Duration::from_millis(20);

/// Listens on `address`; waits for a moment when it is in use.
///
/// # Errors
/// Whatever the system says, after that moment.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let deadline = Instant::now() + FREE_WITHIN;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(BIND_PAUSE).await;
            }
            result => return result,
        }
    }
}

/// Serves `router` on `listener` until `stop`, then lets requests under way finish.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    accept(listener, router, None, stop).await;
}

/// As [`serve`], over TLS.
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    config: Arc<ServerConfig>,
    stop: CancellationToken,
) {
    accept(listener, router, Some(TlsAcceptor::from(config)), stop).await;
}

async fn accept(listener: TcpListener, router: Router, tls: Option<TlsAcceptor>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, tls, stop) = (router.clone(), tls.clone(), stop.clone());
                connections.spawn(async move {
                    if let Err(error) = crate::tune::tune_stream(&stream) {
                        tracing::debug!(%error, "the connection could not be tuned");
                    }
                    match tls {
                        None => connection(stream, peer, router, stop).await,
                        Some(tls) => match shake_hands(&tls, stream, &stop).await {
                            Ok(stream) => connection(stream, peer, router, stop).await,
                            Err(error) => tracing::debug!(%error, %peer, "a TLS handshake failed"),
                        },
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(FINISH_WITHIN, connections.wait()).await.is_err() {
        tracing::warn!("some requests did not finish in time and were cut off");
    }
}

async fn shake_hands(
    tls: &TlsAcceptor,
    stream: TcpStream,
    stop: &CancellationToken,
) -> io::Result<TlsStream<TcpStream>> {
    tokio::select! {
        shaken = tokio::time::timeout(HEADERS_WITHIN, tls.accept(stream)) => {
            shaken.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
        }
        () = stop.cancelled() => Err(io::Error::other("the server stops")),
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(Request::from(request.map(axum::body::Body::new)))
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A broken connection is its client's affair; the request's own log line has what matters.
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
