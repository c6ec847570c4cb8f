//! What happened in a run, in order.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

#[derive(Debug)]
struct Lines {
    all: Vec<String>,
    hash: blake3::Hasher,
}

/// A line for each thing that happened, with the simulated time.
#[derive(Debug)]
pub(crate) struct Trace {
    began: Instant,
    lines: Mutex<Lines>,
}

impl Trace {
    pub(crate) fn new() -> Self {
        let lines = Lines { all: Vec::new(), hash: blake3::Hasher::new() };
        Self { began: Instant::now(), lines: Mutex::new(lines) }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, what: &str) {
        let line = format!("{:>9.3} {what}", self.began.elapsed().as_secs_f64());
        let mut lines = self.lines();
        lines.hash.update(line.as_bytes());
        lines.hash.update(b"\n");
        lines.all.push(line);
    }

    /// All lines, which are gone from here then.
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.lines().all)
    }

    /// The same for the same lines.
    pub(crate) fn hash(&self) -> String {
        self.lines().hash.finalize().to_hex().to_string()
    }

    /// Simulated milliseconds since the run began.
    pub(crate) fn milliseconds(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }
}
