//! A workshop's events as an endless stream that can be taken up again where it broke off.

use std::sync::Arc;

use clarateach_ids::{EventSeq, WorkshopId};
use clarateach_store::{EventRecord, Store, StoreError};
use futures_util::Stream;
use tokio::sync::broadcast::error::RecvError;

const BATCH: u32 = 200;

/// Where to go on for somebody who has seen `seen`: there, or at the start if no such event has been. A database that
/// was restored from a backup is behind those who watched before.
pub async fn resume_from(store: &dyn Store, id: &WorkshopId, seen: EventSeq) -> Result<EventSeq, StoreError> {
    if seen == EventSeq::default() {
        return Ok(seen);
    }
    let reached = store.events(id, EventSeq(seen.0 - 1), 1).await?;
    Ok(if reached.is_empty() { EventSeq::default() } else { seen })
}

/// Events of `id` after `since`, then those to come. Ends when the workshop is gone.
pub fn stream(
    store: Arc<dyn Store>,
    id: WorkshopId,
    since: EventSeq,
) -> impl Stream<Item = EventRecord> + Send {
    let wakes = store.event_wakes();
    let state = (store, id, since, wakes, Vec::<EventRecord>::new().into_iter());
    futures_util::stream::unfold(state, |(store, id, mut since, mut wakes, mut batch)| async move {
        loop {
            if let Some(event) = batch.next() {
                since = event.seq;
                return Some((event, (store, id, since, wakes, batch)));
            }
            match store.events(&id, since, BATCH).await {
                Ok(events) if !events.is_empty() => {
                    batch = events.into_iter();
                    continue;
                }
                Ok(_) => {}
                Err(StoreError::NotFound { .. }) => return None,
                Err(error) => tracing::warn!(%error, workshop = %id, "events can't be read"),
            }
            if matches!(store.workshop(&id).await, Err(StoreError::NotFound { .. })) {
                return None;
            }
            // A wake may be for another workshop; a slow timer covers a wake that got lost.
            let look_again = tokio::time::sleep(std::time::Duration::from_secs(5));
            tokio::pin!(look_again);
            loop {
                tokio::select! {
                    () = &mut look_again => break,
                    woken = wakes.recv() => match woken {
                        Ok(workshop) if workshop == id => break,
                        Ok(_) => {}
                        Err(RecvError::Lagged(_)) => break,
                        Err(RecvError::Closed) => return None,
                    },
                }
            }
        }
    })
}
