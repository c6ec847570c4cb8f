//! What answers in a simulated seat: enough of the workspace's protocol for gateways and joins.
//!
//! Health; files kept in memory; a terminal that echoes; a tunnel to ports that echo (port 1 has nobody listening).
//! Every other call is answered with what arrived, so that a test sees what a gateway passes on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use clarateach_runtime::tunnel::SECRET_HEADER;
use clarateach_seatproto::files::{Content, Encoding, Entry, Kind, Listing, Write, Written};
use clarateach_seatproto::terminal::{ClientFrame, ServerFrame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::io::DuplexStream;

/// Files of one seat, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Disk(Arc<Mutex<BTreeMap<String, Write>>>);

impl Disk {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Write>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(stream: DuplexStream, secret: SecretString, disk: Disk) {
    let app = router(secret, disk);
    // A connection that breaks is the caller's affair.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(app))
        .await;
}

fn router(secret: SecretString, disk: Disk) -> Router {
    let check = middleware::from_fn(move |request: Request, next: Next| {
        let secret = secret.clone();
        async move {
            let shown = request.headers().get(SECRET_HEADER).map(HeaderValue::as_bytes);
            if shown == Some(secret.expose_secret().as_bytes()) {
                next.run(request).await
            } else {
                refusal(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "the seat's secret is missing or wrong")
            }
        }
    });
    Router::new()
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/terminal", get(|upgrade: WebSocketUpgrade| async { upgrade.on_upgrade(echo_terminal) }))
        .route("/tunnel/{port}", get(tunnel))
        .route("/files", get(list))
        .route("/files/{*path}", get(read).put(write).delete(delete))
        .fallback(mirror)
        .with_state(disk)
        .layer(check)
}

fn refusal(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({"error": {"code": code, "message": message}}))).into_response()
}

async fn mirror(request: Request) -> Response {
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str() != SECRET_HEADER)
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let method = request.method().to_string();
    let uri = request.uri().to_string();
    Json(json!({"method": method, "uri": uri, "headers": headers})).into_response()
}

async fn echo_terminal(mut socket: WebSocket) {
    let mut seq = 0;
    let hello = ServerFrame::Hello {
        id: 1,
        seq,
        epoch: "simulated".to_owned(),
        cols: 80,
        rows: 24,
        writer: true,
        n: None,
    };
    if send(&mut socket, &hello).await.is_err() {
        return;
    }
    while let Some(Ok(message)) = socket.recv().await {
        let Message::Text(text) = message else { continue };
        let answers = match serde_json::from_str(&text) {
            Ok(ClientFrame::Input { data, n }) => {
                seq += data.len() as u64;
                let output = ServerFrame::Output { data, seq, snapshot: false };
                [Some(output), n.map(|n| ServerFrame::Ack { n })]
            }
            Ok(ClientFrame::Resize { .. }) => [None, None],
            Err(error) => {
                let code = "MALFORMED_FRAME".to_owned();
                [Some(ServerFrame::Error { code, message: error.to_string() }), None]
            }
        };
        for answer in answers.into_iter().flatten() {
            if send(&mut socket, &answer).await.is_err() {
                return;
            }
        }
    }
}

async fn send(socket: &mut WebSocket, frame: &ServerFrame) -> Result<(), axum::Error> {
    let text = serde_json::to_string(frame).map_err(axum::Error::new)?;
    socket.send(Message::Text(text.into())).await
}

async fn tunnel(Path(port): Path<u16>, headers: HeaderMap, request: Request) -> Response {
    if port <= 1 {
        return refusal(StatusCode::BAD_GATEWAY, "NOT_LISTENING", "nobody listens on that port");
    }
    if headers.get(header::UPGRADE).map(HeaderValue::as_bytes) != Some(b"tcp") {
        return refusal(StatusCode::UPGRADE_REQUIRED, "UPGRADE_REQUIRED", "a tunnel takes Upgrade: tcp");
    }
    let upgrade = hyper::upgrade::on(request);
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgraded));
            // Until the caller hangs up.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
        }
    });
    let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, "tcp")];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

async fn list(State(disk): State<Disk>) -> Json<Listing> {
    let disk = disk.lock();
    let entry = |(path, file): (&String, &Write)| Entry {
        name: path.clone(),
        kind: Kind::File,
        size: file.content.len() as u64,
        mtime: 0,
        mode: 0o644,
    };
    Json(Listing { path: String::new(), entries: disk.iter().map(entry).collect(), truncated: false })
}

async fn read(State(disk): State<Disk>, Path(path): Path<String>) -> Response {
    let Some(file) = disk.lock().get(&path).cloned() else {
        return refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such file");
    };
    let size = file.content.len() as u64;
    let encoding: Encoding = file.encoding;
    let etag = format!("\"{size}\"");
    let content = file.content;
    Json(Content { path, content, encoding, size, mtime: 0, mode: 0o644, etag }).into_response()
}

async fn write(State(disk): State<Disk>, Path(path): Path<String>, Json(file): Json<Write>) -> Json<Written> {
    let size = file.content.len() as u64;
    disk.lock().insert(path.clone(), file);
    Json(Written { path, size, mtime: 0, mode: 0o644, etag: format!("\"{size}\"") })
}

async fn delete(State(disk): State<Disk>, Path(path): Path<String>) -> Response {
    match disk.lock().remove(&path) {
        Some(_) => StatusCode::NO_CONTENT.into_response(),
        None => refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "there is no such file"),
    }
}
