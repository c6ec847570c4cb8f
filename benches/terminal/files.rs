//! The files API on connections that are kept.

use std::time::{Duration, Instant};

use crate::{
    http::{Connection, Target},
    measure::{Failure, Latencies, readable_of},
};

/// Lists a directory of so many files, over and over; per second and each.
pub(crate) fn list(
    target: &Target,
    files: usize,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let mut connection = Connection::open(target)?;
    for n in 0..files {
        connection.ask("PUT", &format!("/files/bench-list/file-{n:03}.txt"), br#"{"content":"x"}"#)?;
        connection.answer()?;
    }
    hammer(target, "/files?path=bench-list", r#""file-199.txt""#, connections, time)
}

/// Reads a file of so many bytes, over and over.
pub(crate) fn read(
    target: &Target,
    size: usize,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let mut connection = Connection::open(target)?;
    let body = serde_json::json!({ "content": "a line of text\n".repeat(size / 15 + 1)[..size] }).to_string();
    connection.ask("PUT", "/files/bench-read.txt", body.as_bytes())?;
    connection.answer()?;
    hammer(target, "/files/bench-read.txt", r#""encoding":"utf-8""#, connections, time)
}

fn hammer(
    target: &Target,
    path: &str,
    holds: &str,
    connections: usize,
    time: Duration,
) -> Result<(f64, Latencies), Failure> {
    let mut open: Vec<(Connection, Instant)> = Vec::new();
    let start = Instant::now();
    for _ in 0..connections {
        let mut connection = Connection::open(target)?;
        connection.ask("GET", path, b"")?;
        open.push((connection, Instant::now()));
    }
    let finder = memchr::memmem::Finder::new(holds);
    let mut all = Latencies::default();
    while start.elapsed() < time {
        for n in readable_of(open.iter().map(|(connection, _)| connection), None)? {
            let (connection, asked) = &mut open[n];
            if !connection.read()? {
                continue;
            }
            all.add(asked.elapsed());
            let (status, answer) = connection.answered()?;
            if status != 200 || finder.find(answer.as_bytes()).is_none() {
                return Err(format!("{path}: {status} {answer:.200}").into());
            }
            *asked = Instant::now();
            connection.ask("GET", path, b"")?;
        }
    }
    Ok((all.count() as f64 / start.elapsed().as_secs_f64(), all))
}
