//! Latencies, and the file that is flooded.

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

/// Round trips.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
    }

    pub(crate) fn merge(&mut self, other: Latencies) {
        self.0.extend(other.0);
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// In milliseconds; NaN without any.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

/// A file of numbered lines like a build log, without control characters but CR LF.
pub(crate) struct Flood {
    pub(crate) path: PathBuf,
    pub(crate) content: Vec<u8>,
}

pub(crate) fn flood_file(megabytes: usize) -> io::Result<Flood> {
    let mut content = Vec::with_capacity(megabytes * 1_000_000 + 200);
    let mut line = 0u64;
    while content.len() < megabytes * 1_000_000 {
        write!(
            content,
            "[{line:9}] compiling \"module-{}\" – {:x}",
            line % 977,
            line.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )?;
        content.resize(content.len() + (line % 60) as usize, b'.');
        content.extend_from_slice(b"\r\n");
        line += 1;
    }
    let path = std::env::temp_dir().join(format!("clarateach-flood-{megabytes}"));
    std::fs::write(&path, &content)?;
    Ok(Flood { path, content })
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}
