//! What goes wrong with single calls.

use std::collections::VecDeque;

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// 503 before anything is done.
    Unavailable,
    /// The thing is done, and the answer is lost.
    AnswerLost,
    /// 429 with a reason.
    TooMany,
    /// 403 `rateLimitExceeded`: quota per minute.
    RateLimit,
    /// 403 `quotaExceeded`.
    Quota,
    /// 403 `forbidden`.
    Forbidden,
    /// 502 with a page of HTML, as load balancers give.
    Html,
}

/// When a call is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It never takes effect.
    Before,
    /// It took effect, and nobody hears of it.
    After,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    queue: VecDeque<(String, Fault)>,
    hold: Option<(u64, Side)>,
    holding: bool,
}

impl Faults {
    pub(super) fn add(&mut self, about: &str, fault: Fault, times: usize) {
        for _ in 0..times {
            self.queue.push_back((about.to_owned(), fault));
        }
    }

    /// The fault of a call, if it has one.
    pub(super) fn take(&mut self, call: &str) -> Option<Fault> {
        let (verb, path) = call.split_once(' ').unwrap_or((call, ""));
        let meant = |about: &str| match about.split_once(' ') {
            Some((wanted, part)) => wanted == verb && path.contains(part),
            None => call.contains(about),
        };
        let index = self.queue.iter().position(|(about, _)| meant(about))?;
        self.queue.remove(index).map(|(_, fault)| fault)
    }

    pub(super) fn hold(&mut self, at: u64, side: Side) {
        self.hold = Some((at, side));
        self.holding = false;
    }

    pub(super) fn holds(&mut self, nth: u64, side: Side) -> bool {
        let held = self.hold == Some((nth, side));
        self.holding |= held;
        held
    }

    pub(super) fn still_holds(&self) -> bool {
        self.hold.is_some()
    }

    pub(super) fn is_holding(&self) -> bool {
        self.holding
    }

    pub(super) fn release(&mut self) {
        self.hold = None;
        self.holding = false;
    }
}
