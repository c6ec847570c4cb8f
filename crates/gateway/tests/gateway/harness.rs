//! A gateway with one workshop of two seats, a workspace in each, and a client.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt;
use bytes::Bytes;
use clarateach_gateway::{
    Gateway, GatewayConfig, Limits, Refusal, SeatDirectory, SeatRoute, previews_first, tune_stream,
};
use clarateach_ids::{Generation, InstallationId, KeyId, SeatKey, SeatNumber, SessionId};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort,
};
use clarateach_seatproto::token::{PublicKey, Role, SeatClaims, Verifier};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

pub(crate) const SECRET: &str = "seat-secret-0123456789";
pub(crate) const ORIGIN: &str = "http://workshop.example";

/// Waits for `condition`, at most ten seconds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within ten seconds");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Where a dial leads.
#[derive(Clone)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    /// Gives the far end of a pipe of this many bytes to a task.
    Pipe(usize, Arc<dyn Fn(tokio::io::DuplexStream) + Send + Sync>),
}

/// A runtime that only dials.
#[derive(Default)]
pub(crate) struct FakeRuntime {
    pub(crate) targets: Mutex<HashMap<(u32, SeatPort), Target>>,
    pub(crate) dials: AtomicUsize,
}

impl FakeRuntime {
    pub(crate) fn set(&self, seat: u32, port: SeatPort, target: Target) {
        self.targets.lock().unwrap().insert((seat, port), target);
    }

    pub(crate) fn unset(&self, seat: u32, port: SeatPort) {
        self.targets.lock().unwrap().remove(&(seat, port));
    }
}

fn not_here<T>() -> Result<T, RuntimeError> {
    Err(RuntimeError::Unavailable { message: "this runtime only dials".into() })
}

#[async_trait]
impl Runtime for FakeRuntime {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Simulated
    }
    async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    async fn resolve(&self, _: &ImageRef) -> Result<ImageRef, RuntimeError> {
        not_here()
    }
    async fn prepare(&self, _: &ImageRef, _: ProgressFn) -> Result<(), RuntimeError> {
        not_here()
    }
    async fn apply(&self, _: DesiredSeat) -> Result<(), RuntimeError> {
        not_here()
    }
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        not_here()
    }
    async fn watch(&self, since: Revision) -> Revision {
        since
    }
    async fn remove(&self, _: &SeatKey, _: Generation) -> Result<(), RuntimeError> {
        not_here()
    }
    async fn logs(&self, _: &SeatKey) -> Result<String, RuntimeError> {
        not_here()
    }
    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        not_here()
    }
    async fn dial(&self, key: &SeatKey, port: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        let target = self.targets.lock().unwrap().get(&(key.seat.get(), port)).cloned();
        let unreachable =
            |message: &str| RuntimeError::Unreachable { key: key.clone(), message: message.to_owned() };
        match target {
            None => Err(unreachable("nothing listens")),
            Some(Target::Tcp(address)) => {
                let stream = TcpStream::connect(address).await.map_err(|_| unreachable("refused"))?;
                stream.set_nodelay(true).unwrap();
                Ok(Box::new(stream))
            }
            Some(Target::Pipe(size, serve)) => {
                let (near, far) = tokio::io::duplex(size);
                serve(far);
                Ok(Box::new(near))
            }
        }
    }
}

/// Knows the seats of the one workshop; generations and refusals can be set.
pub(crate) struct FakeDirectory {
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) generation: Mutex<Generation>,
    pub(crate) refusal: Mutex<Option<Refusal>>,
}

#[async_trait]
impl SeatDirectory for FakeDirectory {
    async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal> {
        if let Some(refusal) = &*self.refusal.lock().unwrap() {
            return Err(refusal.clone());
        }
        if claims.workshop.as_str() != "w1" || claims.seat.get() > 2 {
            return Err(Refusal::not_found("there is no such seat"));
        }
        Ok(SeatRoute {
            runtime: self.runtime.clone(),
            key: claims.seat_key(),
            generation: *self.generation.lock().unwrap(),
            secret: SECRET.to_owned().into(),
        })
    }
}

/// Signs tokens.
pub(crate) struct Signer {
    key: jsonwebtoken::EncodingKey,
    id: KeyId,
    pub(crate) public: PublicKey,
}

impl Signer {
    pub(crate) fn new(seed: u8) -> Self {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        let id: KeyId = format!("key{seed}").parse().unwrap();
        Self {
            public: PublicKey { id: id.clone(), bytes: key.verifying_key().to_bytes() },
            key: jsonwebtoken::EncodingKey::from_ed_der(key.to_pkcs8_der().unwrap().as_bytes()),
            id,
        }
    }

    pub(crate) fn sign(&self, claims: &SeatClaims) -> String {
        let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        header.kid = Some(self.id.to_string());
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

pub(crate) fn audience() -> InstallationId {
    "i1".parse().unwrap()
}

pub(crate) fn session(name: &str) -> SessionId {
    name.parse().unwrap()
}

/// Claims of session `s1` on seat 1, good for five minutes.
pub(crate) fn claims() -> SeatClaims {
    let now = jiff::Timestamp::now().as_second();
    SeatClaims {
        aud: audience(),
        workshop: "w1".parse().unwrap(),
        seat: SeatNumber::new(1).unwrap(),
        generation: Generation(1),
        session: session("s1"),
        role: Role::Learner,
        iat: now,
        exp: now + 300,
    }
}

/// The whole arrangement.
pub(crate) struct World {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) runtime: Arc<FakeRuntime>,
    pub(crate) directory: Arc<FakeDirectory>,
    pub(crate) signer: Signer,
    pub(crate) address: SocketAddr,
}

pub(crate) fn config() -> GatewayConfig {
    GatewayConfig {
        public_origins: vec![ORIGIN.parse().unwrap()],
        same_host_origin: false,
        previews: None,
        secure_cookies: false,
        limits: Limits {
            lease_grace: Duration::from_millis(200),
            goodbye: Duration::from_millis(500),
            dial_timeout: Duration::from_secs(2),
            ..Limits::default()
        },
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with(config()).await
    }

    pub(crate) async fn with(config: GatewayConfig) -> Self {
        let runtime = Arc::new(FakeRuntime::default());
        runtime.set(1, SeatPort::Workspace, Target::Tcp(serve(workspace(1)).await));
        runtime.set(2, SeatPort::Workspace, Target::Tcp(serve(workspace(2)).await));
        let directory = Arc::new(FakeDirectory {
            runtime: runtime.clone(),
            generation: Mutex::new(Generation(1)),
            refusal: Mutex::default(),
        });
        let signer = Signer::new(1);
        let verifier = Verifier::new(audience(), std::slice::from_ref(&signer.public));
        let gateway = Gateway::new(config, directory.clone(), verifier);
        let router = Router::new()
            .route("/api/workshops", get(async || "the instructor's workshops"))
            .nest_service("/proxy/{workshop}/{seat}", gateway.router())
            .fallback(async || (StatusCode::NOT_FOUND, "main"))
            .layer(axum::middleware::from_fn_with_state(gateway.clone(), previews_first));
        let address = serve(router).await;
        Self { gateway, runtime, directory, signer, address }
    }

    pub(crate) fn token(&self) -> String {
        self.signer.sign(&claims())
    }

    pub(crate) fn bearer(&self) -> String {
        format!("Bearer {}", self.token())
    }

    /// A request on a connection of its own.
    pub(crate) async fn send(&self, request: http::Request<Body>) -> http::Response<hyper::body::Incoming> {
        Client::connect(self.address).await.send(request).await
    }

    /// A GET with the learner's token.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        let request = request(Method::GET, path).header("authorization", self.bearer());
        Answer::of(self.send(request.body(Body::empty()).unwrap()).await).await
    }

    pub(crate) async fn answer(&self, request: http::request::Builder, body: impl Into<Body>) -> Answer {
        Answer::of(self.send(request.body(body.into()).unwrap()).await).await
    }
}

/// A keep-alive connection.
pub(crate) struct Client(hyper::client::conn::http1::SendRequest<Body>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self(sender)
    }

    pub(crate) async fn send(
        &mut self,
        request: http::Request<Body>,
    ) -> http::Response<hyper::body::Incoming> {
        self.0.ready().await.unwrap();
        self.0.send_request(request).await.unwrap()
    }
}

pub(crate) fn request(method: Method, path: &str) -> http::request::Builder {
    http::Request::builder().method(method).uri(path).header("host", "workshop.example")
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: http::Response<hyper::body::Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Status and code of a refusal.
    pub(crate) fn refusal(&self) -> (u16, String) {
        let code = self.json()["error"]["code"].as_str().unwrap().to_owned();
        assert!(!self.json()["error"]["message"].as_str().unwrap().is_empty());
        (self.status.as_u16(), code)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// Serves `router` on loopback, sockets tuned as the server's are.
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let listener = listener.tap_io(|stream| tune_stream(stream).unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Answers each connection's first bytes with `answer`, byte for byte, and keeps the connection as long as `hold`.
pub(crate) async fn serve_raw(answer: &'static [u8], hold: bool) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut buffer = [0; 8192];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer).await;
                while hold && stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            });
        }
    });
    address
}

/// A stand-in for the workspace of a seat. Every request needs the secret; `/seen` tells what arrived.
pub(crate) fn workspace(seat: u32) -> Router {
    Router::new()
        .route("/who", get(async move || seat.to_string()))
        .route("/seen", any(seen))
        .route("/seen/{*path}", any(seen))
        .route("/files", get(async || axum::Json(serde_json::json!({"path": "", "entries": []}))))
        .route("/upload", any(upload))
        .route("/raw/digits", get(digits))
        .route("/endless", get(endless))
        .route("/events", get(events))
        .route("/terminal", get(terminal))
        .route(
            "/status/{code}",
            any(async |axum::extract::Path(code): axum::extract::Path<u16>| {
                StatusCode::from_u16(code).unwrap()
            }),
        )
        .layer(axum::middleware::from_fn(async |request: Request, next: axum::middleware::Next| {
            let shown = request.headers().get_all("x-clarateach-secret").iter().collect::<Vec<_>>();
            if shown == [SECRET] { next.run(request).await } else { StatusCode::UNAUTHORIZED.into_response() }
        }))
}

async fn seen(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let headers: Vec<_> = parts
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("?").to_owned()))
        .collect();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    axum::Json(serde_json::json!({
        "method": parts.method.as_str(),
        "target": parts.uri.to_string(),
        "headers": headers,
        "body": String::from_utf8_lossy(&body),
    }))
    .into_response()
}

async fn upload(body: Body) -> String {
    let mut body = body.into_data_stream();
    let mut count = 0;
    while let Some(Ok(bytes)) = futures_util::StreamExt::next(&mut body).await {
        count += bytes.len();
    }
    count.to_string()
}

async fn digits(headers: HeaderMap) -> Response {
    let all = b"0123456789";
    let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    match wanted.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        Some((from, to)) => {
            let (from, to): (usize, usize) = (from.parse().unwrap(), to.parse().unwrap());
            let range = format!("bytes {from}-{to}/10");
            (StatusCode::PARTIAL_CONTENT, [("content-range", range)], all[from..=to].to_vec()).into_response()
        }
        None => ([("etag", "\"digits\"")], all.to_vec()).into_response(),
    }
}

async fn endless() -> Body {
    Body::from_stream(futures_util::stream::repeat_with(|| {
        Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 1024]))
    }))
}

async fn events() -> Response {
    let first = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"data: hello\n\n"))]);
    let events = futures_util::StreamExt::chain(first, futures_util::stream::pending());
    ([("content-type", "text/event-stream")], Body::from_stream(events)).into_response()
}

/// Echoes; `flood` makes it send without end, `big` one frame of a mebibyte, `die` breaks off, `bye` closes with 1000.
async fn terminal(upgrade: WebSocketUpgrade, headers: HeaderMap) -> Response {
    let offered =
        headers.get("sec-websocket-protocol").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    upgrade.protocols(["clarateach.terminal.v1"]).on_upgrade(move |socket| talk(socket, offered))
}

async fn talk(mut socket: WebSocket, offered: String) {
    while let Some(Ok(message)) = socket.recv().await {
        let answer = match message {
            Message::Text(text) if text == "flood" => loop {
                if socket.send(Message::Binary(vec![7; 4096].into())).await.is_err() {
                    return;
                }
            },
            Message::Text(text) if text == "offered" => {
                socket.send(Message::Text(offered.clone().into())).await
            }
            Message::Text(text) if text == "big" => {
                socket.send(Message::Binary(vec![1; 1 << 20].into())).await
            }
            Message::Text(text) if text == "die" => return,
            Message::Text(text) if text == "bye" => {
                let frame = axum::extract::ws::CloseFrame { code: 1000, reason: "exit".into() };
                socket.send(Message::Close(Some(frame))).await
            }
            Message::Text(_) | Message::Binary(_) => socket.send(message).await,
            _ => Ok(()),
        };
        if answer.is_err() {
            return;
        }
    }
}

/// A WebSocket of a client.
pub(crate) type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

impl World {
    /// Opens a WebSocket; the refusal's status otherwise.
    pub(crate) async fn open(&self, path: &str, extra: &[(&str, &str)]) -> Result<(Socket, HeaderMap), u16> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        open_on(stream, path, extra).await
    }

    pub(crate) async fn terminal(&self) -> Socket {
        self.open("/proxy/w1/1/terminal", &[("authorization", &self.bearer())]).await.unwrap().0
    }
}

pub(crate) async fn open_on(
    stream: TcpStream,
    path: &str,
    extra: &[(&str, &str)],
) -> Result<(Socket, HeaderMap), u16> {
    let mut request = request(Method::GET, &format!("ws://workshop.example{path}"))
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(())
        .unwrap();
    for (name, value) in extra {
        request
            .headers_mut()
            .insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
    }
    match tokio_tungstenite::client_async(request, stream).await {
        Ok((socket, response)) => Ok((socket, response.headers().clone())),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}
