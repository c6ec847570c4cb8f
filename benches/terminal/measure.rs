//! What is measured, on any kind of terminal: the same loop for the bare PTY and for ours.
//!
//! Both are read by one thread that waits with `poll` for whichever has something, so that what differs is what lies
//! between the program and the reader, and not how the reader was written.

use std::{
    error::Error,
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

pub(crate) type Failure = Box<dyn Error>;

/// One terminal with a program in it, seen from the reader's side.
pub(crate) trait Line: AsFd {
    /// Types something.
    fn type_in(&mut self, text: &str) -> Result<(), Failure>;

    /// Reads once what is there, and hands over the output in it piece by piece. Called when the descriptor is readable;
    /// there need be no output.
    fn read(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure>;
}

/// Keys typed into `cat`s, each timed until it comes back; the next follows `every` after it, or at once.
pub(crate) fn echo<L: Line>(
    lines: &mut [L],
    time: Duration,
    every: Option<Duration>,
) -> Result<Latencies, Failure> {
    let start = Instant::now();
    // Staggered, as people are.
    let stagger = every.unwrap_or_default() / lines.len() as u32;
    let mut due: Vec<Option<Instant>> = (0..lines.len() as u32).map(|n| Some(start + stagger * n)).collect();
    let mut typed = vec![start; lines.len()];
    let mut latencies = Latencies::default();
    while start.elapsed() < time {
        for (n, line) in lines.iter_mut().enumerate() {
            if due[n].is_some_and(|at| at <= Instant::now()) {
                due[n] = None;
                typed[n] = Instant::now();
                line.type_in("k")?;
            }
        }
        let next = due.iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        for n in readable(lines, next)? {
            let mut came = 0;
            lines[n].read(&mut |output| {
                came += output.len();
                Ok(())
            })?;
            if came > 0 {
                latencies.add(typed[n].elapsed());
                due[n] = Some(every.map_or_else(Instant::now, |every| typed[n] + every));
            }
        }
    }
    Ok(latencies)
}

/// Lets every program print its share of `content` at once, and compares every byte; MB/s of all together.
pub(crate) fn flood<L: Line>(mut lines: Vec<L>, content: &[u8]) -> Result<f64, Failure> {
    let share = content.len() / lines.len();
    let total = share * lines.len();
    let start = Instant::now();
    for line in &mut lines {
        line.type_in("\n")?;
    }
    let mut open: Vec<(L, usize)> = lines.into_iter().map(|line| (line, 0)).collect();
    let mut done = Vec::new();
    while !open.is_empty() {
        let ready = readable_of(open.iter().map(|(line, _)| line), None)?;
        for n in ready.into_iter().rev() {
            let (line, at) = &mut open[n];
            line.read(&mut |output| {
                if content.get(*at..*at + output.len()) != Some(output) {
                    return Err(format!("the output differs near byte {at}").into());
                }
                *at += output.len();
                Ok(())
            })?;
            if *at >= share {
                done.push(open.swap_remove(n));
            }
        }
    }
    Ok(total as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// Which of them can be read, after waiting until one can or the time is over.
fn readable<L: Line>(lines: &[L], within: Option<Duration>) -> io::Result<Vec<usize>> {
    readable_of(lines.iter(), within)
}

pub(crate) fn readable_of<'a, L: AsFd + 'a>(
    lines: impl Iterator<Item = &'a L>,
    within: Option<Duration>,
) -> io::Result<Vec<usize>> {
    let mut waited: Vec<PollFd<'_>> = lines.map(|line| PollFd::new(line, PollFlags::IN)).collect();
    let within =
        within.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: i64::from(t.subsec_nanos()) });
    poll(&mut waited, within.as_ref())?;
    Ok(waited.iter().enumerate().filter(|(_, w)| !w.revents().is_empty()).map(|(n, _)| n).collect())
}

/// Round trips.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    pub(crate) fn add(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e3);
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
