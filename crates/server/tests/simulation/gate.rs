//! Through which all goes that a server says or hears: shut, the server is asleep; locked for ever, it is dead.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::bell::Bell;

const OPEN: u64 = 0;
const ASLEEP: u64 = 1;
const DEAD: u64 = 2;

/// One server's gate.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Bell,
    /// Shuts with the next decision that is about to be written down.
    dozing: AtomicBool,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { state: Bell::new(OPEN), dozing: AtomicBool::new(false) }
    }

    /// Whoever wants through waits until it is awake; what it was about to say is said then.
    pub(crate) fn sleep(&self) {
        self.change(ASLEEP);
    }

    pub(crate) fn wake(&self) {
        self.dozing.store(false, Ordering::Relaxed);
        self.change(OPEN);
    }

    /// From its next decision on, which it has made and not written down, it sleeps.
    pub(crate) fn doze(&self) {
        self.dozing.store(true, Ordering::Relaxed);
    }

    /// A decision is about to be written down. Whether it has fallen asleep over it.
    pub(crate) fn nods_off(&self) -> bool {
        let dozing = self.dozing.swap(false, Ordering::Relaxed);
        if dozing {
            self.sleep();
        }
        dozing
    }

    /// Nothing gets through any more.
    pub(crate) fn kill(&self) {
        self.change(DEAD);
    }

    fn change(&self, to: u64) {
        if self.state.now() != DEAD {
            self.state.set(to);
        }
    }

    /// Waits until nothing gets through any more.
    pub(crate) async fn died(&self) {
        self.state.until(|state| state == DEAD).await;
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.state.now() == ASLEEP
    }

    pub(crate) async fn pass(&self) {
        self.state.until(|state| state == OPEN).await;
    }
}
