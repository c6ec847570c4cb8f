//! What is shown while a build runs: a bar on a terminal, lines otherwise, on standard error.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows how far a build is.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    verbose: bool,
    started: std::time::Instant,
}

impl Progress {
    /// Progress on standard error. Without a terminal, and without `verbose`, nothing is shown.
    pub fn new(verbose: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
        let template = "{spinner} {msg:28} {bytes:>10} {binary_bytes_per_sec:>12} {elapsed}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(100));
        }
        Self { bar, verbose, started: std::time::Instant::now() }
    }

    /// Progress that nobody sees.
    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), verbose: false, started: std::time::Instant::now() }
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
        self.bar.set_message(what);
    }

    /// How many bytes of the step are done.
    pub fn at(&self, bytes: u64) {
        self.bar.set_position(bytes);
    }

    /// A line for `--verbose`.
    pub fn say(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            let line = format!("[{:7.3}] {}", self.started.elapsed().as_secs_f64(), line());
            self.line(&line);
        }
    }

    /// A line that is always shown.
    pub fn warn(&self, line: &str) {
        self.line(&format!("rootfs-builder: {line}"));
    }

    #[expect(clippy::print_stderr, reason = "this is where the tool speaks")]
    fn line(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }

    /// Takes the bar away.
    pub fn done(&self) {
        self.bar.finish_and_clear();
    }
}
