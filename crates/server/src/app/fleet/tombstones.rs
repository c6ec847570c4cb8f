//! What comes back of workers that were given up: their seats are nobody's any more, and go.

use std::collections::BTreeSet;
use std::time::Duration;

use clarateach_store::{StoreError, WorkerRecord, WorkerWish};
use futures_util::StreamExt;
use tokio::time::timeout;

use super::Fleet;
use super::merge::is_drawn;

/// How often forgotten workers are looked for.
pub(super) const PERIOD: Duration = Duration::from_secs(15);
/// How long one may take to say who it is, or to show what it has.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const AT_ONCE: usize = 8;

impl Fleet {
    /// Looks for every forgotten worker once, and removes from those that answer what servers of this installation made
    /// there and nobody holds.
    pub(super) async fn sweep_tombstones(&self) -> Result<(), StoreError> {
        let records = self.store.workers().await?;
        let forgotten: Vec<_> =
            records.into_iter().filter(|record| record.wish == WorkerWish::Forgotten).collect();
        if forgotten.is_empty() {
            return Ok(());
        }
        // Its host may have been added again under another address: until everybody has said who they are, nobody knows.
        let names: Option<BTreeSet<_>> = self
            .members()
            .values()
            .map(|member| member.with(|seen| seen.sighting().map(|sighting| sighting.info.worker_id.clone())))
            .collect();
        let Some(names) = names else { return Ok(()) };
        let names = &names;
        futures_util::stream::iter(forgotten)
            .for_each_concurrent(AT_ONCE, |record| async move {
                let worker = self.client(&record);
                let Ok(Ok(sighting)) = timeout(ANSWER_WITHIN, worker.info()).await else { return };
                if names.contains(&sighting.info.worker_id) {
                    return;
                }
                if let Err(error) = self.clear_forgotten(&record, &*worker).await {
                    tracing::warn!(worker = %record.id, %error, "what came back with a forgotten worker stays for now");
                }
            })
            .await;
        Ok(())
    }

    async fn clear_forgotten(
        &self,
        record: &WorkerRecord,
        worker: &dyn clarateach_runtime_worker::Worker,
    ) -> Result<(), StoreError> {
        let Ok(Ok(shown)) = timeout(ANSWER_WITHIN, worker.observe()).await else { return Ok(()) };
        let shown: Vec<_> = shown.into_iter().filter(|seat| is_drawn(&seat.key.workshop)).collect();
        if shown.is_empty() {
            return Ok(());
        }
        // After they were shown: somebody may have added the worker again and placed seats on it meanwhile.
        let held: BTreeSet<_> =
            self.store.placements(None).await?.into_iter().map(|row| (row.key, row.generation)).collect();
        let still = self.store.workers().await?;
        if !still.iter().any(|now| now.id == record.id && now.wish == WorkerWish::Forgotten) {
            return Ok(());
        }
        for seat in shown.into_iter().filter(|seat| !held.contains(&(seat.key.clone(), seat.generation))) {
            match timeout(ANSWER_WITHIN, worker.remove(&seat.key, seat.generation)).await {
                Ok(Ok(())) => {
                    tracing::info!(worker = %record.id, seat = %seat.key, "a seat that came back with a forgotten worker was removed");
                }
                Ok(Err(error)) => {
                    tracing::warn!(worker = %record.id, seat = %seat.key, %error, "a seat of a forgotten worker could not be removed");
                }
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}
