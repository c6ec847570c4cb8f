//! Simulated time: it stands still while anything is to be done, and then jumps to the next thing.

use std::sync::atomic::{AtomicI64, Ordering};

use clarateach_server::app::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

/// When every run begins.
const MORNING: i64 = 1_800_000_000;

/// One machine's clock, which may be wrong.
#[derive(Debug)]
pub(crate) struct SimulatedClock {
    began: Instant,
    /// Milliseconds ahead of the others.
    skew: AtomicI64,
}

impl SimulatedClock {
    pub(crate) fn new(began: Instant) -> Self {
        Self { began, skew: AtomicI64::new(0) }
    }

    pub(crate) fn set_skew(&self, milliseconds: i64) {
        self.skew.store(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn skew(&self) -> SignedDuration {
        SignedDuration::from_millis(self.skew.load(Ordering::Relaxed))
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        let elapsed = SignedDuration::try_from(self.began.elapsed()).unwrap();
        Timestamp::from_second(MORNING).unwrap() + elapsed + self.skew()
    }
}
