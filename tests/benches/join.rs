//! Joins over HTTP on SQLite: how many a second, and how long each takes.
//!
//! `cargo bench -p clarateach-tests --bench join` builds the release server and prints both tables: a storm of joins
//! over kept connections, and 500 learners who arrive within five seconds. `SERVER_BIN` measures another binary.
//! The load comes from this process, on the same cores as the server.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clarateach_tests::{Server, ServerOptions, all_ready};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SEATS: usize = 500;
const WORKSHOPS: usize = 9;

/// One kept HTTP/1.1 connection.
struct Connection {
    stream: TcpStream,
    port: u16,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
        stream.set_nodelay(true).expect("no delay");
        Self { stream, port, buffer: vec![0; 16 * 1024] }
    }

    /// Posts a join; gives status and time taken.
    async fn join(&mut self, code: &str, client: usize) -> (u16, Duration) {
        let body = format!(
            "{{\"code\":\"{code}\",\"name\":\"Learner {client}\",\"client_id\":\"bench-client-{client:08}\"}}"
        );
        let request = format!(
            "POST /api/join HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            body.len()
        );
        let began = Instant::now();
        self.stream.write_all(request.as_bytes()).await.expect("sent");
        let mut filled = 0;
        loop {
            let read = self.stream.read(&mut self.buffer[filled..]).await.expect("an answer");
            assert!(read > 0, "the server closed");
            filled += read;
            if let Some(length) = whole(&self.buffer[..filled]) {
                assert_eq!(length, filled);
                let status = std::str::from_utf8(&self.buffer[9..12]).ok().and_then(|s| s.parse().ok());
                return (status.expect("a status"), began.elapsed());
            }
        }
    }
}

/// Length of a whole answer, once it is there.
fn whole(answer: &[u8]) -> Option<usize> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&answer[..head]).ok()?.to_ascii_lowercase();
    let length: usize =
        text.lines().find_map(|line| line.strip_prefix("content-length: "))?.trim().parse().ok()?;
    (answer.len() >= head + length).then_some(head + length)
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    sorted[(sorted.len() - 1) * percent / 100].as_secs_f64() * 1e3
}

fn row(name: &str, count: usize, wall: Duration, mut times: Vec<Duration>) {
    times.sort_unstable();
    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    let rate = count as f64 / wall.as_secs_f64();
    println!(
        "{name:<44} {rate:>9.0}/s   p50 {:>7.2} ms   p99 {:>7.2} ms   max {:>7.2} ms",
        percentile(&times, 50),
        percentile(&times, 99),
        percentile(&times, 100)
    );
}

async fn workshops(server: &Server, count: usize) -> Vec<String> {
    let mut codes = Vec::new();
    let mut ids = Vec::new();
    for n in 0..count {
        let (id, code) = server
            .create(json!({"name": format!("bench {n}"), "seats": SEATS, "runtime": "simulated"}))
            .await;
        codes.push(code);
        ids.push(id);
    }
    for id in ids {
        all_ready(server, &id).await;
    }
    codes
}

async fn storm(server: &Server, codes: &[String], connections: usize, name: &str) {
    let next = Arc::new(AtomicUsize::new(0));
    let total = codes.len() * SEATS;
    let codes = Arc::new(codes.to_vec());
    let began = Instant::now();
    let tasks: Vec<_> = (0..connections)
        .map(|_| {
            let (next, codes, port) = (Arc::clone(&next), Arc::clone(&codes), server.port());
            tokio::spawn(async move {
                let mut connection = Connection::open(port).await;
                let mut times = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return times;
                    }
                    let (status, time) = connection.join(&codes[n % codes.len()], n).await;
                    assert_eq!(status, 200, "learner {n}");
                    times.push(time);
                }
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client"));
    }
    row(name, total, began.elapsed(), times);
}

/// 500 learners, each with a connection of their own, evenly over five seconds.
async fn class(server: &Server, code: &str) {
    let began = Instant::now();
    let tasks: Vec<_> = (0..SEATS)
        .map(|n| {
            let (code, port) = (code.to_owned(), server.port());
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(10) * u32::try_from(n).unwrap_or(0)).await;
                let arrived = Instant::now();
                let (status, _) = Connection::open(port).await.join(&code, 1_000_000 + n).await;
                assert_eq!(status, 200);
                arrived.elapsed()
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.push(task.await.expect("a learner"));
    }
    row("500 learners within 5 s, warm seats", SEATS, began.elapsed(), times);
}

fn release_server() -> String {
    if let Ok(path) = std::env::var("SERVER_BIN") {
        return path;
    }
    // Named by package too: benches run in the directory of theirs.
    let build = ["build", "--release", "--package", "clarateach-server", "--bin", "server"];
    let built = Command::new("cargo").args(build).status().expect("cargo");
    assert!(built.success());
    let target = std::env::var("CARGO_TARGET_DIR")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../target").into());
    format!("{target}/release/server")
}

fn main() {
    let binary = release_server();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut options = ServerOptions::simulated().env("RUST_LOG", "warn");
        options.binary = Some(binary.into());
        let server = Server::start(options).await;
        let codes = workshops(&server, WORKSHOPS * 2 + 1).await;
        println!("joins over HTTP, SQLite with every commit on disk, load on the same cores");
        storm(&server, &codes[..WORKSHOPS], 64, "newcomers, 64 connections").await;
        storm(&server, &codes[..WORKSHOPS], 64, "the same again (returning), 64 connections").await;
        storm(&server, &codes[WORKSHOPS..WORKSHOPS * 2], 16, "newcomers, 16 connections").await;
        class(&server, &codes[WORKSHOPS * 2]).await;
    });
}
