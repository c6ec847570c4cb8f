//! The terminal as a browser has it: a WebSocket with JSON or binary frames.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use clarateach_seatproto::terminal::{
    BINARY_OUTPUT, BINARY_PROTOCOL, BINARY_SNAPSHOT, ClientFrame, ServerFrame,
};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};

use crate::measure::{Flood, Latencies};

/// What the flood's file is called in the seat's workspace directory.
const FLOOD_FILE: &str = ".clarateach-flood";

type Failure = Box<dyn Error>;

/// Where the seat is reached and with which headers.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) base: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Target {
    /// The seat that a session's learner sits on, with a fresh token.
    pub(crate) async fn of_session(url: &str) -> Result<Target, Failure> {
        let (address, path) = split(url);
        let server = Target { address, base: String::new(), headers: Vec::new() };
        let session: serde_json::Value = serde_json::from_str(&server.call("GET", &path, "").await?)?;
        let text = |name: &str| session[name].as_str().ok_or(format!("the session has no {name}"));
        let (address, base) = split(text("endpoint")?);
        let bearer = ("authorization".to_owned(), format!("Bearer {}", text("token")?));
        Ok(Target { address, base, headers: vec![bearer] })
    }

    /// One HTTP exchange on a connection of its own; the body of the answer.
    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> Result<String, Failure> {
        let mut connection = crate::files::Connection::open(self).await?;
        let (status, answer) = connection.exchange(method, path, body).await?;
        if status >= 300 {
            return Err(format!("{method} {path}: {status} {answer}").into());
        }
        Ok(answer)
    }
}

/// Host and port, and path, of a URL.
fn split(url: &str) -> (String, String) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = if path.is_empty() { String::new() } else { format!("/{}", path.trim_end_matches('/')) };
    (address.to_owned(), path)
}

struct Terminal {
    id: u64,
    target: Target,
    socket: WebSocketStream<TcpStream>,
    seq: u64,
}

impl Terminal {
    /// Opens a terminal of its own and runs a command in it, which must print `marker` first.
    async fn run(target: &Target, binary: bool, command: &str, marker: &str) -> Result<Terminal, Failure> {
        let made: serde_json::Value = serde_json::from_str(&target.call("POST", "/terminals", "{}").await?)?;
        let id = made["terminal"]["id"].as_u64().ok_or("no id")?;
        let mut request =
            format!("ws://{}{}/terminal?id={id}", target.address, target.base).into_client_request()?;
        for (name, value) in &target.headers {
            request.headers_mut().insert(http::HeaderName::try_from(name)?, value.parse()?);
        }
        if binary {
            request.headers_mut().insert("sec-websocket-protocol", BINARY_PROTOCOL.parse()?);
        }
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        let mut terminal = Terminal { id, target: target.clone(), socket, seq: 0 };
        terminal.type_in(&format!("stty -echo; {command}\n")).await?;
        let mut seen = Vec::new();
        while !contains(&seen, marker.as_bytes()) {
            seen.extend(terminal.output().await?);
        }
        Ok(terminal)
    }

    async fn type_in(&mut self, text: &str) -> Result<(), Failure> {
        let frame = ClientFrame::Input { data: text.to_owned(), n: None };
        self.socket.send(Message::Text(serde_json::to_string(&frame)?.into())).await?;
        Ok(())
    }

    /// The next output.
    async fn output(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            match self.socket.next().await.ok_or("closed")?? {
                Message::Text(text) => match serde_json::from_str(&text)? {
                    ServerFrame::Output { data, seq, .. } => {
                        self.seq = seq;
                        return Ok(data.into_bytes());
                    }
                    ServerFrame::Exit { .. } => return Err("the shell exited".into()),
                    _ => {}
                },
                Message::Binary(bytes) => match bytes.first_chunk::<9>() {
                    Some([BINARY_OUTPUT | BINARY_SNAPSHOT, seq @ ..]) => {
                        self.seq = u64::from_be_bytes(*seq);
                        return Ok(bytes[9..].to_vec());
                    }
                    _ => return Err("strange binary frame".into()),
                },
                Message::Close(_) => return Err("closed".into()),
                _ => {}
            }
        }
    }

    async fn close(mut self) -> Result<(), Failure> {
        let _ = self.socket.close(None).await;
        self.target.call("DELETE", &format!("/terminals/{}", self.id), "").await?;
        Ok(())
    }
}

fn contains(text: &[u8], marker: &[u8]) -> bool {
    memchr::memmem::find(text, marker).is_some()
}

/// Keys typed into `cat`, each timed until it comes back.
pub(crate) async fn echo(
    target: &Target,
    sessions: usize,
    time: Duration,
    every: Option<Duration>,
) -> Result<Latencies, Failure> {
    let mut terminals = Vec::new();
    for _ in 0..sessions {
        terminals
            .push(Terminal::run(target, false, "stty raw; printf REA; printf DY; exec cat", "READY").await?);
    }
    let start = Instant::now();
    let typists = terminals.iter_mut().enumerate().map(|(n, terminal)| async move {
        let mut latencies = Latencies::default();
        // Staggered, as people are.
        let mut due = start + every.unwrap_or_default() * u32::try_from(n).unwrap_or(0) / sessions as u32;
        while start.elapsed() < time {
            if every.is_some() {
                tokio::time::sleep_until(due.into()).await;
            }
            let typed = Instant::now();
            terminal.type_in("k").await?;
            terminal.output().await?;
            latencies.add(typed.elapsed());
            due = typed + every.unwrap_or_default();
        }
        Ok::<_, Failure>(latencies)
    });
    let mut all = Latencies::default();
    for latencies in futures_util::future::try_join_all(typists).await? {
        all.merge(latencies);
    }
    for terminal in terminals {
        terminal.close().await?;
    }
    Ok(all)
}

/// Puts the flood's file into the seat, where terminals start.
pub(crate) async fn put(target: &Target, flood: &Flood) -> Result<(), Failure> {
    let mut connection = crate::files::Connection::open(target).await?;
    let (status, answer) = connection.send("PUT", &format!("/raw/{FLOOD_FILE}"), &flood.content).await?;
    if status >= 300 {
        return Err(format!("uploading the flood: {status} {answer}").into());
    }
    Ok(())
}

/// Removes it again.
pub(crate) async fn take_away(target: &Target) -> Result<(), Failure> {
    target.call("DELETE", &format!("/files/{FLOOD_FILE}"), "").await.map(drop)
}

/// So many terminals at once each print their share of the file, and every byte is compared; MB/s of all together.
pub(crate) async fn flood(
    target: &Target,
    flood: &Flood,
    binary: bool,
    sessions: usize,
) -> Result<f64, Failure> {
    let share = flood.content.len() / sessions;
    let command = format!("stty raw; printf REA; printf DY; read go; exec head -c {share} {FLOOD_FILE}");
    let mut terminals = Vec::new();
    for _ in 0..sessions {
        terminals.push(Terminal::run(target, binary, &command, "READY").await?);
    }
    let start = Instant::now();
    futures_util::future::try_join_all(terminals.iter_mut().map(|terminal| async move {
        let from = terminal.seq;
        terminal.type_in("\n").await?;
        let mut at = 0;
        while at < share {
            let output = terminal.output().await?;
            if flood.content.get(at..at + output.len()) != Some(&output) {
                return Err(format!("the output differs near byte {at}").into());
            }
            at += output.len();
            if terminal.seq - from != at as u64 {
                return Err(format!("seq {} does not count the bytes: {from} + {at}", terminal.seq).into());
            }
        }
        Ok::<_, Failure>(())
    }))
    .await?;
    let rate = (share * sessions) as f64 / 1e6 / start.elapsed().as_secs_f64();
    for terminal in terminals {
        terminal.close().await?;
    }
    Ok(rate)
}

/// How long Ctrl-C takes to be seen by somebody who reads a flood at this rate (bytes/s).
pub(crate) async fn interrupt(target: &Target, rate: u64) -> Result<Duration, Failure> {
    // In sh, because an interactive bash does not run a trap when its child is interrupted.
    let command = format!(
        "sh -c \"trap 'printf INTER; printf RUPTED' INT; printf REA; printf DY; while cat {FLOOD_FILE}; do :; done\""
    );
    let mut terminal = Terminal::run(target, false, &command, "READY").await?;
    let start = Instant::now();
    let mut read = 0;
    let mut typed = None;
    let mut last = Vec::new();
    loop {
        let output = terminal.output().await?;
        read += output.len() as u64;
        last.extend(&output);
        if contains(&last, b"INTERRUPTED") {
            break;
        }
        last.drain(..last.len().saturating_sub(16));
        let due = start + Duration::from_nanos(read * 1_000_000_000 / rate);
        if due > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(due.into()).await;
        }
        if typed.is_none() && start.elapsed() > Duration::from_secs(3) {
            typed = Some(Instant::now());
            terminal.type_in("\x03").await?;
        }
    }
    let took = typed.ok_or("interrupted before Ctrl-C")?.elapsed();
    terminal.close().await?;
    Ok(took)
}
