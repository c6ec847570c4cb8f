//! Through which all goes that a server says or hears: shut, the server is asleep; locked for ever, it is dead.

use crate::bell::Bell;

const OPEN: u64 = 0;
const ASLEEP: u64 = 1;
const DEAD: u64 = 2;

/// One server's gate.
#[derive(Debug)]
pub(crate) struct Gate(Bell);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Bell::new(OPEN))
    }

    /// Whoever wants through waits until it is awake; what it was about to say is said then.
    pub(crate) fn sleep(&self) {
        self.change(ASLEEP);
    }

    pub(crate) fn wake(&self) {
        self.change(OPEN);
    }

    /// Nothing gets through any more.
    pub(crate) fn kill(&self) {
        self.change(DEAD);
    }

    fn change(&self, to: u64) {
        if self.0.now() != DEAD {
            self.0.set(to);
        }
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.0.now() == ASLEEP
    }

    pub(crate) async fn pass(&self) {
        self.0.until(|state| state == OPEN).await;
    }
}
