//! What is shown while a build runs: a bar on a terminal, lines otherwise, on standard error.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::printable;
use crate::size::readable;

/// Without a terminal, a line says this often how far a long step is.
const LINE_EVERY: Duration = Duration::from_secs(3);

/// Shows how far a build is.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    verbose: bool,
    lines: bool,
    started: Instant,
    /// What is being done, and when a line last said so, where there is no terminal.
    step: Mutex<(String, Option<u64>, Instant)>,
}

impl Progress {
    /// Progress on standard error: a bar on a terminal, else a line every few seconds.
    pub fn new(verbose: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let template = "{spinner} {msg:28} {bytes:>10} {binary_bytes_per_sec:>12} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        let lines = bar.is_hidden();
        Self::with(bar, verbose, lines)
    }

    /// Progress that nobody sees.
    pub fn hidden() -> Self {
        Self::with(ProgressBar::hidden(), false, false)
    }

    fn with(bar: ProgressBar, verbose: bool, lines: bool) -> Self {
        let now = Instant::now();
        Self { bar, verbose, lines, started: now, step: Mutex::new((String::new(), None, now)) }
    }

    /// A step begins whose end is known: `total` bytes, or unknown.
    pub fn step(&self, what: impl Into<String>, total: Option<u64>) {
        let what = what.into();
        self.say(|| what.clone());
        if let Some(total) = total.filter(|&total| total > 0) {
            let template = "{spinner} {msg:28} {bar:30} {bytes:>10}/{total_bytes} {binary_bytes_per_sec:>12}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(style);
            }
            self.bar.set_length(total);
        }
        self.bar.set_position(0);
        self.bar.set_message(what.clone());
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        (step.0, step.1) = (what, total);
    }

    /// How many bytes of the step are done.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
        if !self.lines {
            return;
        }
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        if step.2.elapsed() >= LINE_EVERY {
            step.2 = Instant::now();
            let of = step.1.map_or_else(String::new, |total| format!(" of {}", readable(total)));
            self.line(&format!("{}: {}{of}", step.0, readable(bytes)));
        }
    }

    /// A line for `--verbose`.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            let line = format!("[{:7.3}] {}", self.started.elapsed().as_secs_f64(), line());
            self.line(&line);
        }
    }

    /// A warning, which is always shown.
    pub fn warn(&self, warning: &str) {
        self.line(&format!("rootfs-builder: warning: {warning}"));
    }

    /// Whoever reads may have gone away, which is no reason to stop.
    fn line(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(io::stderr(), "{}", printable(line));
        });
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}
