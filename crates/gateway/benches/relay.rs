//! What the gateway costs a terminal and a small request: `cargo bench -p clarateach-gateway`.
//!
//! One process, one runtime with two threads: a trivial WebSocket echo stands in for the workspace; clients talk to it
//! directly and through the gateway, in turns, so that both see the same machine. Prints round trip p50 and p99 with
//! 1, 10 and 30 clients at ten keys a second each and flat out, flood MB/s with every byte counted, and requests/s.
//! `QUICK=1` makes it short.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use axum::Router;
use axum::extract::ws::{Message as Ws, WebSocketUpgrade};
use axum::routing::get;
use axum::serve::ListenerExt;
use clarateach_gateway::{Gateway, GatewayConfig, Limits, Refusal, SeatDirectory, SeatRoute, tune_stream};
use clarateach_ids::{Generation, KeyId, SeatKey, SeatNumber};
use clarateach_runtime::{
    BoxedSeatStream, Capacity, DesiredSeat, Environment, ImageRef, ProgressFn, Revision, Runtime,
    RuntimeError, RuntimeKind, SeatPort,
};
use clarateach_seatproto::token::{PublicKey, Role, SeatClaims, Verifier};
use ed25519_dalek::pkcs8::EncodePrivateKey;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

struct Dialer(SocketAddr);

fn no<T>() -> Result<T, RuntimeError> {
    Err(RuntimeError::Unavailable { message: "only dials".into() })
}

#[async_trait]
impl Runtime for Dialer {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Simulated
    }
    async fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    async fn resolve(&self, _: &ImageRef) -> Result<ImageRef, RuntimeError> {
        no()
    }
    async fn prepare(&self, _: &ImageRef, _: ProgressFn) -> Result<(), RuntimeError> {
        no()
    }
    async fn apply(&self, _: DesiredSeat) -> Result<(), RuntimeError> {
        no()
    }
    async fn observe(&self) -> Result<Vec<Environment>, RuntimeError> {
        no()
    }
    async fn watch(&self, since: Revision) -> Revision {
        since
    }
    async fn remove(&self, _: &SeatKey, _: Generation) -> Result<(), RuntimeError> {
        no()
    }
    async fn logs(&self, _: &SeatKey) -> Result<String, RuntimeError> {
        no()
    }
    async fn capacity(&self) -> Result<Capacity, RuntimeError> {
        no()
    }
    async fn dial(&self, _: &SeatKey, _: SeatPort) -> Result<BoxedSeatStream, RuntimeError> {
        let stream = TcpStream::connect(self.0).await.expect("the echo listens");
        stream.set_nodelay(true).expect("nodelay");
        Ok(Box::new(stream))
    }
}

struct OneSeat(Arc<Dialer>);

#[async_trait]
impl SeatDirectory for OneSeat {
    async fn locate(&self, claims: &SeatClaims) -> Result<SeatRoute, Refusal> {
        let secret = "secret".to_owned().into();
        Ok(SeatRoute {
            runtime: self.0.clone(),
            key: claims.seat_key(),
            generation: claims.generation,
            secret,
        })
    }
}

const FLOOD_FRAME: usize = 16 * 1024;

/// Echoes; a text frame asks for that many bytes of flood.
fn echo() -> Router {
    let talk = async |upgrade: WebSocketUpgrade| {
        upgrade.on_upgrade(async |mut socket| {
            while let Some(Ok(message)) = socket.recv().await {
                let sent = match &message {
                    Ws::Text(count) => {
                        let chunk = bytes::Bytes::from(vec![b'y'; FLOOD_FRAME]);
                        let mut left = count.parse::<usize>().unwrap_or_default();
                        let mut sent = Ok(());
                        while left > 0 && sent.is_ok() {
                            let size = left.min(FLOOD_FRAME);
                            sent = socket.send(Ws::Binary(chunk.slice(..size))).await;
                            left -= size;
                        }
                        sent
                    }
                    _ => socket.send(message).await,
                };
                if sent.is_err() {
                    return;
                }
            }
        })
    };
    let list = serde_json::json!({"path": "", "entries": (0..200).map(|n| serde_json::json!({
        "name": format!("file{n}.txt"), "type": "file", "size": n, "mtime": 0, "mode": 420
    })).collect::<Vec<_>>()})
    .to_string();
    Router::new().route("/terminal", get(talk)).route("/files", get(async move || list.clone()))
}

async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let listener = listener.tap_io(|stream| tune_stream(stream).expect("tuned"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Where to connect, and with what.
#[derive(Clone)]
struct Way {
    name: &'static str,
    address: SocketAddr,
    prefix: &'static str,
    bearer: String,
}

type Socket = tokio_tungstenite::WebSocketStream<TcpStream>;

impl Way {
    async fn open(&self) -> Socket {
        let stream = TcpStream::connect(self.address).await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let url = format!("ws://{}{}/terminal", self.address, self.prefix);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("authorization", self.bearer.parse().expect("a header"));
        tokio_tungstenite::client_async(request, stream).await.expect("a handshake").0
    }

    /// Round trips of one key, in nanoseconds: `pause` between them, or flat out.
    async fn keys(&self, clients: usize, pause: Option<Duration>, during: Duration) -> Vec<u64> {
        let mut tasks = tokio::task::JoinSet::new();
        for client in 0..clients {
            let mut socket = self.open().await;
            let offset = pause.unwrap_or_default() * u32::try_from(client).expect("few") / 30;
            tasks.spawn(async move {
                let mut times = Vec::new();
                tokio::time::sleep(offset).await;
                let end = Instant::now() + during;
                while Instant::now() < end {
                    if let Some(pause) = pause {
                        tokio::time::sleep(pause).await;
                    }
                    let began = Instant::now();
                    socket.send(Message::binary(&b"k"[..])).await.expect("sent");
                    socket.next().await.expect("an echo").expect("a message");
                    times.push(u64::try_from(began.elapsed().as_nanos()).expect("short"));
                }
                times
            });
        }
        let mut all: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
        all.sort_unstable();
        all
    }

    /// MB/s of `total` bytes to each of `clients`, every byte counted.
    async fn flood(&self, clients: usize, total: usize) -> f64 {
        let mut sockets = Vec::new();
        for _ in 0..clients {
            sockets.push(self.open().await);
        }
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for mut socket in sockets {
            tasks.spawn(async move {
                socket.send(Message::text(total.to_string())).await.expect("sent");
                let mut seen = 0;
                while seen < total {
                    seen += socket.next().await.expect("more").expect("a message").len();
                }
                assert_eq!(seen, total);
            });
        }
        tasks.join_all().await;
        (clients * total) as f64 / 1e6 / began.elapsed().as_secs_f64()
    }

    /// Listings per second and their p99 in microseconds, over `connections`.
    async fn requests(&self, connections: usize, during: Duration) -> (f64, u64) {
        let began = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(self.address).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            let handshake =
                hyper::client::conn::http1::handshake::<_, Empty<bytes::Bytes>>(TokioIo::new(stream));
            let (mut sender, connection) = handshake.await.expect("a handshake");
            tokio::spawn(connection);
            let way = self.clone();
            tasks.spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < during {
                    let request = http::Request::get(format!("{}/files", way.prefix))
                        .header("host", "x")
                        .header("authorization", &way.bearer)
                        .body(Empty::new())
                        .expect("a request");
                    let sent = Instant::now();
                    sender.ready().await.expect("ready");
                    let response = sender.send_request(request).await.expect("an answer");
                    assert_eq!(response.status(), 200);
                    response.into_body().collect().await.expect("a body");
                    times.push(u64::try_from(sent.elapsed().as_micros()).expect("short"));
                }
                times
            });
        }
        let mut all: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
        all.sort_unstable();
        (all.len() as f64 / began.elapsed().as_secs_f64(), all[all.len() * 99 / 100])
    }
}

fn milliseconds(sorted: &[u64], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100] as f64 / 1e6
}

fn bearer(key: &ed25519_dalek::SigningKey, id: &KeyId) -> String {
    let now = jiff::Timestamp::now().as_second();
    let claims = SeatClaims {
        aud: "i1".parse().expect("an id"),
        workshop: "w1".parse().expect("an id"),
        seat: SeatNumber::new(1).expect("a seat"),
        generation: Generation(1),
        session: "s1".parse().expect("an id"),
        role: Role::Learner,
        iat: now,
        exp: now + 3600,
    };
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = Some(id.to_string());
    let der = key.to_pkcs8_der().expect("a key");
    let token =
        jsonwebtoken::encode(&header, &claims, &jsonwebtoken::EncodingKey::from_ed_der(der.as_bytes()));
    format!("Bearer {}", token.expect("a token"))
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
async fn run() {
    let seconds = Duration::from_secs(if std::env::var_os("QUICK").is_some() { 1 } else { 5 });
    let upstream = serve(echo()).await;
    let key = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let id: KeyId = "k1".parse().expect("an id");
    let public = PublicKey { id: id.clone(), bytes: key.verifying_key().to_bytes() };
    let config = GatewayConfig {
        public_origins: Vec::new(),
        same_host_origin: false,
        previews: None,
        secure_cookies: false,
        limits: Limits { streams_per_session: 1000, ..Limits::default() },
    };
    let directory = Arc::new(OneSeat(Arc::new(Dialer(upstream))));
    let gateway = Gateway::new(config, directory, Verifier::new("i1".parse().expect("an id"), &[public]));
    let front = serve(Router::new().nest_service("/proxy/{workshop}/{seat}", gateway.router())).await;
    let bearer = bearer(&key, &id);
    let direct = Way { name: "direct", address: upstream, prefix: "", bearer: bearer.clone() };
    let through = Way { name: "gateway", address: front, prefix: "/proxy/w1/1", bearer };
    let ways = [direct, through];

    println!("{:<28} {:>8} {:>10} {:>10}", "echo of one key, ms", "clients", "p50", "p99");
    for clients in [1, 10, 30] {
        for (load, pause) in [("10 keys/s", Some(Duration::from_millis(100))), ("flat out", None)] {
            for way in &ways {
                let times = way.keys(clients, pause, seconds).await;
                let (p50, p99) = (milliseconds(&times, 50), milliseconds(&times, 99));
                println!("{:<28} {clients:>8} {p50:>10.3} {p99:>10.3}", format!("{} {load}", way.name));
            }
        }
    }
    println!("{:<28} {:>8} {:>10}", "flood", "clients", "MB/s");
    for clients in [1, 10, 30] {
        let mut rates: HashMap<&str, Vec<f64>> = HashMap::new();
        for _ in 0..3 {
            for way in &ways {
                rates.entry(way.name).or_default().push(way.flood(clients, (600 << 20) / clients).await);
            }
        }
        for way in &ways {
            let rates = rates.get_mut(way.name).expect("measured");
            rates.sort_by(f64::total_cmp);
            println!("{:<28} {clients:>8} {:>10.0}", way.name, rates[1]);
        }
    }
    println!("{:<28} {:>8} {:>10} {:>10}", "list 200 files", "clients", "1/s", "p99 ms");
    for clients in [1, 16] {
        for way in &ways {
            let (rate, p99) = way.requests(clients, seconds).await;
            println!("{:<28} {clients:>8} {rate:>10.0} {:>10.2}", way.name, p99 as f64 / 1e3);
        }
    }
}

fn main() {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(run());
}
