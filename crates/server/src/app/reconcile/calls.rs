//! Calls to runtimes: what is asked of them, and what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::{DesiredSeat, Egress, ImageRef, Reason, Runtime, RuntimeError};
use clarateach_store::WorkshopRecord;
use tokio::sync::Semaphore;

use super::plan::{self, Action};
use super::{Reconciler, STORE_RETRY, ends, lock};
use crate::app::workshops::ENV_PURPOSE;

/// After a call that nobody answered, the seat is left alone for a while.
const CALL_RETRY: Duration = Duration::from_secs(1);

impl Reconciler {
    pub(super) fn act(
        &self,
        workshop: &WorkshopRecord,
        runtime: &Arc<dyn Runtime>,
        decided: &mut plan::Plan,
    ) {
        for action in std::mem::take(&mut decided.actions) {
            match action {
                Action::Apply(seat, generation) => {
                    let key = SeatKey { workshop: workshop.id.clone(), seat };
                    match self.desired(workshop, key, generation) {
                        Ok(desired) => self.apply(runtime, desired),
                        Err(reason) => {
                            let mut desk = lock(&self.desk);
                            desk.failures
                                .entry(workshop.id.clone())
                                .or_default()
                                .insert((seat, generation), reason);
                        }
                    }
                }
                Action::Remove(key, generation) => self.remove(runtime, key, generation),
            }
        }
    }

    fn desired(
        &self,
        workshop: &WorkshopRecord,
        key: SeatKey,
        generation: Generation,
    ) -> Result<DesiredSeat, Reason> {
        let unreadable = || {
            Reason::new(
                "SEALED",
                "The workshop's variables were sealed under another SERVER_KEY; start the server with that one.",
            )
        };
        let env = self.app.sealer.open_sealed(ENV_PURPOSE, &workshop.env_sealed).map_err(|_| unreadable())?;
        let env: BTreeMap<String, String> = serde_json::from_slice(&env).map_err(|_| unreadable())?;
        let kind = workshop.runtime.parse().ok();
        Ok(DesiredSeat {
            secret: self.app.sealer.seat_secret(&self.app.installation, &key, generation),
            key,
            generation,
            image: ImageRef(workshop.image.clone()),
            vcpus: workshop.vcpus,
            memory_mb: workshop.memory_mb,
            disk_mb: workshop.disk_mb,
            env,
            egress: Egress::default(),
            // Runtimes in this process end with it; only a worker that can be cut off needs to know the end itself.
            not_after: if kind.is_some_and(|kind| self.app.runtimes.is_remote(kind)) {
                ends::not_after(workshop)
            } else {
                None
            },
        })
    }

    fn calls(&self, runtime: &Arc<dyn Runtime>) -> Arc<Semaphore> {
        let remote = self.app.runtimes.is_remote(runtime.kind());
        Arc::clone(if remote { &self.remote_calls } else { &self.calls })
    }

    fn begin(&self, key: &SeatKey) -> bool {
        lock(&self.desk).in_flight.insert(key.clone())
    }

    fn apply(&self, runtime: &Arc<dyn Runtime>, desired: DesiredSeat) {
        if !self.begin(&desired.key) {
            return;
        }
        lock(&self.desk).begin_make(&desired.key, desired.generation);
        let calls = self.calls(runtime);
        let (runtime, desk, wake) = (Arc::clone(runtime), Arc::clone(&self.desk), Arc::clone(&self.app.wake));
        let (calls, app) = (calls, Arc::clone(&self.app));
        self.tasks.spawn(async move {
            let _permit = calls.acquire().await;
            let (key, generation, image) = (desired.key.clone(), desired.generation, desired.image.clone());
            let result = runtime.apply(desired).await;
            if let Err(RuntimeError::Unavailable { .. }) = &result {
                // Keeps the seat in flight for a moment, so that what does not answer isn't hammered.
                tokio::time::sleep(CALL_RETRY).await;
            }
            let mut desk = lock(&desk);
            desk.in_flight.remove(&key);
            if result.is_err() {
                desk.told_ends.remove(&key);
            }
            match result {
                Ok(()) => {}
                // Nobody can tell whether it was done: the next look does. Until then the seat says why.
                Err(error @ RuntimeError::Unavailable { .. }) => {
                    tracing::warn!(seat = %key, %error, "the runtime does not answer");
                    let failures = desk.failures.entry(key.workshop.clone()).or_default();
                    failures.insert((key.seat, generation), error.reason());
                }
                Err(error) => {
                    tracing::warn!(seat = %key, %generation, %error, "the seat could not be made");
                    metrics::counter!("clarateach_seat_failures_total").increment(1);
                    if matches!(error, RuntimeError::AtCapacity { .. }) {
                        app.scaling.ask();
                    }
                    if matches!(error, RuntimeError::ImageNotFound { .. }) {
                        app.progress.forget(runtime.kind(), &image);
                    }
                    let failures = desk.failures.entry(key.workshop.clone()).or_default();
                    failures.insert((key.seat, generation), error.reason());
                }
            }
            drop(desk);
            wake.notify_one();
        });
    }

    pub(super) fn remove(&self, runtime: &Arc<dyn Runtime>, key: SeatKey, generation: Generation) {
        if !self.begin(&key) {
            return;
        }
        let calls = self.calls(runtime);
        let (runtime, desk, wake) = (Arc::clone(runtime), Arc::clone(&self.desk), Arc::clone(&self.app.wake));
        self.tasks.spawn(async move {
            let _permit = calls.acquire().await;
            let result = runtime.remove(&key, generation).await;
            if let Err(error) = &result {
                tracing::warn!(seat = %key, %generation, %error, "the seat could not be removed; it is tried again");
                // Keeps the seat in flight for a moment, so that a broken backend isn't hammered.
                tokio::time::sleep(STORE_RETRY).await;
            }
            lock(&desk).in_flight.remove(&key);
            wake.notify_one();
        });
    }
}
