//! What a long operation is at: a spinner on a terminal, lines otherwise, on standard error.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use clarateach_gcp::{Call, Compute, GcpError, Operation, OperationStatus};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// A step that takes a while.
pub(crate) struct Progress {
    what: String,
    began: Instant,
    bar: Option<ProgressBar>,
    last: Option<String>,
}

impl Progress {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar.set_message(what.clone());
            bar
        });
        Self { what, began: Instant::now(), bar, last: None }
    }

    /// Says where it is; the same thing is said once.
    pub(crate) fn at(&mut self, state: &str) {
        if self.last.as_deref() == Some(state) {
            return;
        }
        self.last = Some(state.to_owned());
        match &self.bar {
            Some(bar) => bar.set_message(format!("{}: {state}", self.what)),
            None => output::note(&format!("{}: {state}", self.what)),
        }
    }

    pub(crate) fn done(self) {
        let took = self.began.elapsed().as_secs();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        output::note(&format!("{}: done ({took} s)", self.what));
    }

    pub(crate) fn failed(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Makes a change and waits for it, with progress and warnings.
pub(crate) async fn complete(compute: &Compute, call: &Call, what: &str) -> Result<Operation, GcpError> {
    let mut progress = Progress::new(what);
    let mut report = |operation: &Operation| {
        let status = operation.status.unwrap_or_default();
        if status != OperationStatus::Done {
            progress.at(&status.as_str().to_lowercase());
        }
    };
    let outcome = compute.complete(call, &mut report).await;
    match &outcome {
        Ok(operation) => {
            progress.done();
            for warning in operation.warnings.iter().flatten() {
                let (code, message) = (warning.code.as_deref(), warning.message.as_deref());
                output::note(&format!("warning: {}: {}", code.unwrap_or("?"), message.unwrap_or("")));
            }
        }
        Err(_) => progress.failed(),
    }
    outcome
}
