//! What time it is: asked of one place, so that a simulation can say so.

use jiff::Timestamp;

/// Tells the time by which the control plane decides.
///
/// Spans between two moments of one process are measured with [`tokio::time::Instant`], which a clock that is set
/// back doesn't touch.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
