//! The files API on connections that are kept.

use std::{
    error::Error,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{client::Target, measure::Latencies};

type Failure = Box<dyn Error>;

/// A kept-alive HTTP/1.1 connection.
pub(crate) struct Connection {
    stream: TcpStream,
    head: String,
    base: String,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(&target.address).await?;
        stream.set_nodelay(true)?;
        let mut head = format!("Host: {}\r\n", target.address);
        for (name, value) in &target.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        Ok(Connection { stream, head, base: target.base.clone(), buffer: Vec::new() })
    }

    pub(crate) async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: &str,
    ) -> Result<(u16, String), Failure> {
        self.send(method, path, body.as_bytes()).await
    }

    /// As [`Connection::exchange`], for a body of any bytes.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        body: &[u8],
    ) -> Result<(u16, String), Failure> {
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\n{}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.base,
            self.head,
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        self.stream.write_all(&request).await?;
        self.buffer.clear();
        let end = loop {
            if let Some(end) = memchr::memmem::find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let head = std::str::from_utf8(&self.buffer[..end])?.to_ascii_lowercase();
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        let length = match head.split("content-length: ").nth(1) {
            Some(rest) => rest.split("\r\n").next().unwrap_or_default().parse()?,
            None => 0,
        };
        while self.buffer.len() < end + length {
            self.fill().await?;
        }
        Ok((status, String::from_utf8(self.buffer[end..].to_vec())?))
    }

    async fn fill(&mut self) -> Result<(), Failure> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            return Err("the connection ended".into());
        }
        Ok(())
    }
}

/// Lists a directory of so many files, over and over; per second and each.
pub(crate) async fn list(
    target: &Target,
    files: usize,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let mut connection = Connection::open(target).await?;
    for n in 0..files {
        connection
            .exchange("PUT", &format!("/files/bench-list/file-{n:03}.txt"), r#"{"content":"x"}"#)
            .await?;
    }
    hammer(target, "/files?path=bench-list", r#""file-199.txt""#, connections, time).await
}

/// Reads a file of so many bytes, over and over.
pub(crate) async fn read(
    target: &Target,
    size: usize,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let mut connection = Connection::open(target).await?;
    let body = serde_json::json!({ "content": "a line of text\n".repeat(size / 15 + 1)[..size] }).to_string();
    connection.exchange("PUT", "/files/bench-read.txt", &body).await?;
    hammer(target, "/files/bench-read.txt", r#""encoding":"utf-8""#, connections, time).await
}

async fn hammer(
    target: &Target,
    path: &str,
    holds: &str,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let start = Instant::now();
    let clients = (0..connections).map(|_| async {
        let mut connection = Connection::open(target).await?;
        let mut latencies = Latencies::default();
        while start.elapsed() < time {
            let asked = Instant::now();
            let (status, answer) = connection.exchange("GET", path, "").await?;
            latencies.add(asked.elapsed());
            if status != 200 || !answer.contains(holds) {
                return Err::<_, Failure>(format!("{path}: {status} {answer:.200}").into());
            }
        }
        Ok(latencies)
    });
    let mut all = Latencies::default();
    for latencies in futures_util::future::try_join_all(clients).await? {
        all.merge(latencies);
    }
    Ok((all.count() as f64 / start.elapsed().as_secs_f64(), all))
}
