//! Moving bytes between a PTY and its ring.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustix::io::Errno;

use super::{State, Viewer, WRITER_LAG, watch_descriptor};

/// Read from a PTY in one go before others get their turn.
const READ_BUDGET: usize = 64 << 10;
/// Output that the screen model has not seen before some of it is fed.
const MODEL_LAG: u64 = 512 << 10;
/// What is fed to the model in one go then; more than [`READ_BUDGET`], so that it keeps up.
const MODEL_BUDGET: usize = 96 << 10;
/// Output after the shell's death that is still read while other processes hold the terminal.
const LAST_OUTPUT: usize = 1 << 20;
/// A terminal that has said nothing for so long is not in a flood.
const QUIET: Duration = Duration::from_millis(1);
/// Output of less than this is likely all there is, in bytes.
const SMALL: usize = 1024;
/// Output without a quiet moment that makes a flood, in bytes.
const FLOOD: usize = 64 << 10;
/// In a flood, viewers are woken for this much, in bytes: less than [`WRITER_LAG`], at which the program waits for them.
const WORTH_WAKING: u64 = 24 << 10;
/// And for less after this time.
const HOLD: Duration = Duration::from_millis(1);

impl State {
    /// Whether the writer must be sent something before more is read.
    fn must_wait(&self) -> bool {
        let head = self.ring.head();
        self.viewers
            .iter()
            .any(|v| Some(v.key) == self.writer && !v.redraw && head - v.position >= WRITER_LAG)
    }

    /// Goes on with both directions; ready once the shell is gone and all it wrote is in the ring.
    pub(super) fn poll_pump(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.pump.as_ref().is_some_and(|w| w.will_wake(context.waker())) {
            self.pump = Some(context.waker().clone());
        }
        self.poll_input(context);
        let before = self.ring.head();
        let finished = self.poll_output(context);
        let came = self.ring.head() != before;
        if came && self.ring.head() - self.screen.fed() > MODEL_LAG {
            self.screen.skim(&self.ring);
            if self.ring.head() - self.screen.fed() > MODEL_LAG {
                self.screen.catch_up(&self.ring, MODEL_BUDGET);
            }
        }
        if (came || finished || self.hold.is_some()) && (finished || !self.keeps_holding(context)) {
            self.hold = None;
            self.viewers.iter_mut().for_each(Viewer::wake);
        }
        if finished { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether viewers are better sent more at once a moment later: in the midst of a flood, everybody on the way to the
    /// reader would be woken for little.
    fn keeps_holding(&mut self, context: &mut Context<'_>) -> bool {
        let head = self.ring.head();
        if self.burst < FLOOD || self.viewers.iter().any(|v| v.redraw || head - v.position >= WORTH_WAKING) {
            return false;
        }
        let hold = self.hold.get_or_insert_with(|| Box::pin(tokio::time::sleep(HOLD)));
        hold.as_mut().poll(context).is_pending()
    }

    fn poll_input(&mut self, context: &mut Context<'_>) {
        let Some(pty) = &self.pty else { return };
        let pty = pty.get_ref();
        while !self.input.is_empty() {
            if self.writable.is_none() {
                self.writable = pty.duplicate().and_then(watch_descriptor).ok();
            }
            let Some(writable) = &self.writable else { return };
            let Poll::Ready(Ok(mut ready)) = writable.poll_write_ready(context) else { return };
            match pty.write(self.input.as_slices().0) {
                Ok(written) => drop(self.input.drain(..written)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(_) => self.input.clear(),
            }
        }
        self.writable = None;
        self.input.shrink_to(4096);
    }

    /// Reads until there is nothing, the budget is used up or the writer lags. Returns whether all has been read.
    fn poll_output(&mut self, context: &mut Context<'_>) -> bool {
        let mut budget = READ_BUDGET;
        let now = Instant::now();
        let was_quiet = now.duration_since(std::mem::replace(&mut self.spoke, now)) > QUIET;
        if was_quiet {
            self.burst = 0;
        }
        let mut buffer = [0u8; 8192];
        while !self.must_wait() {
            let Some(pty) = &self.pty else { return true };
            let ready = pty.poll_read_ready(context);
            if ready.is_pending() && self.died.is_none() {
                return false;
            }
            match pty.get_ref().read(&mut buffer) {
                Ok(0) | Err(Errno::IO) if self.died.is_some() => return self.finish(),
                Ok(0) | Err(Errno::IO | Errno::AGAIN) => {
                    // The kernel looks through all of the terminal's buffers before it says so: if the shell is
                    // dead, what it wrote has been read, whoever else still holds the terminal.
                    if self.died.is_some() {
                        return self.finish();
                    }
                    if let Poll::Ready(Ok(mut ready)) = ready {
                        ready.clear_ready();
                    }
                }
                Ok(read) => {
                    self.append(&buffer[..read]);
                    self.burst = self.burst.saturating_add(read);
                    if let Some((_, since)) = &mut self.died {
                        *since += read;
                        if *since > LAST_OUTPUT {
                            return self.finish();
                        }
                    }
                    budget = budget.saturating_sub(read);
                    // An echo goes out at once; whether there is more is looked at after that.
                    if budget == 0 || (was_quiet && read < SMALL) {
                        context.waker().wake_by_ref();
                        return false;
                    }
                }
                Err(Errno::INTR) => {}
                Err(other) => {
                    crate::say(&format!("reading terminal of process {}: {other}", self.pid));
                    return self.finish();
                }
            }
        }
        false
    }

    fn finish(&mut self) -> bool {
        self.finished = Some(self.died.map_or(-1, |(status, _)| status));
        self.pty = None;
        self.writable = None;
        self.input = VecDeque::new();
        true
    }
}
