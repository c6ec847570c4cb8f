//! A number that moves on and wakes those who wait for it, in the order in which they came. Tokio's own `watch` wakes
//! several waiters in an order that it draws, and a run could not be repeated.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct Bell {
    number: AtomicU64,
    waiting: Notify,
}

impl Bell {
    pub(crate) fn new(number: u64) -> Self {
        Self { number: AtomicU64::new(number), waiting: Notify::new() }
    }

    pub(crate) fn now(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, number: u64) {
        self.number.store(number, Ordering::Relaxed);
        self.waiting.notify_waiters();
    }

    pub(crate) fn ring(&self) {
        self.set(self.now() + 1);
    }

    /// Waits until the number is one that is looked for.
    pub(crate) async fn until(&self, found: impl Fn(u64) -> bool) -> u64 {
        loop {
            let mut notified = std::pin::pin!(self.waiting.notified());
            notified.as_mut().enable();
            let now = self.now();
            if found(now) {
                return now;
            }
            notified.await;
        }
    }
}
