//! The tasks that look at what a worker shows, as soon as that may have changed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::SeatKey;
use clarateach_runtime::{Environment, Revision, RuntimeError};
use tokio::time::{Instant, timeout};

use super::seen::Observed;
use super::{Member, Surroundings, lock};

/// How long it may take to show its environments.
const OBSERVE_WITHIN: Duration = Duration::from_secs(10);
/// After a look that failed, wait this long.
const OBSERVE_RETRY: Duration = Duration::from_secs(1);
/// Changes that come one after the other are looked at together.
const OBSERVE_PAUSE: Duration = Duration::from_millis(10);
/// A watch that reports nothing new is not asked faster than this.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

impl Member {
    /// Looks at what it shows, again and again.
    pub(super) async fn keep_looking(&self, around: &Surroundings) {
        loop {
            self.look(around).await;
        }
    }

    /// Waits for it to say that something has changed, again and again.
    pub(super) async fn keep_watching(&self) {
        let mut since = Revision::default();
        loop {
            let revision = self.worker.watch(since).await;
            if revision == since {
                tokio::time::sleep(WATCH_PAUSE).await;
            } else {
                since = revision;
                self.touch();
            }
        }
    }

    /// Takes in what it showed. Whether it differs from before.
    fn saw(&self, environments: BTreeMap<SeatKey, Environment>, mark: u64) -> bool {
        let mut seen = lock(&self.seen);
        let differs = seen.observed.as_ref().is_none_or(|before| *before.environments != environments);
        seen.observed = Some(Observed { environments: Arc::new(environments), mark, at: Instant::now() });
        seen.called.retain(|_, called| *called > mark);
        drop(seen);
        self.looked.send_replace(mark);
        differs
    }

    /// Looks at what it shows as soon as that may have changed.
    async fn look(&self, around: &Surroundings) {
        let mark = loop {
            let (mark, known, introduced) = self.with(|seen| {
                let known = seen.observed.as_ref().map_or(0, |observed| observed.mark);
                (seen.mark, known, seen.sighting.is_some())
            });
            // What it has is believed once it is known who it is.
            if mark > known && introduced {
                break mark;
            }
            self.look.notified().await;
        };
        let began = Instant::now();
        let asked = timeout(OBSERVE_WITHIN, self.worker.observe()).await;
        let result = asked.unwrap_or_else(|_| {
            let message =
                format!("worker {}: did not show its seats within {} s", self.id, OBSERVE_WITHIN.as_secs());
            Err(RuntimeError::Unavailable { message })
        });
        metrics::histogram!("clarateach_worker_call_seconds", "call" => "observe")
            .record(began.elapsed().as_secs_f64());
        self.heard(&result);
        match result {
            Ok(environments) => {
                let environments: BTreeMap<_, _> =
                    environments.into_iter().map(|e| (e.key.clone(), e)).collect();
                if self.saw(environments, mark) {
                    around.changed();
                }
                tokio::time::sleep(OBSERVE_PAUSE).await;
            }
            Err(error) => {
                tracing::debug!(worker = %self.id, %error, "the worker did not show its seats");
                tokio::time::sleep(OBSERVE_RETRY).await;
            }
        }
    }
}
