//! What the reconciler writes down, each time on the strength of its lease.

use clarateach_gateway::EndedWhy;
use clarateach_ids::{SeatKey, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted};
use clarateach_runtime::Reason;
use clarateach_store::{Fence, SeatWrite, StoreError, WorkshopRecord, WorkshopWrite};
use jiff::Timestamp;

use super::plan::{self, Failures};
use super::{Reconciler, lock};

impl Reconciler {
    /// What goes with each write for a workshop.
    pub(super) fn fence(&self, id: &WorkshopId) -> Result<Option<Fence>, StoreError> {
        self.app.leases.fence(id).map_err(|_| StoreError::Fenced { lease: "reconcile".to_owned() })
    }

    /// Stops a workshop whose end has come, unless it has been moved since it was read.
    pub(super) async fn end_on_time(&self, id: &WorkshopId, now: Timestamp) -> Result<(), StoreError> {
        match self.app.store.workshop(id).await {
            Ok(workshop) if workshop.ends_at.is_some_and(|end| end <= now) => {
                self.app.store.set_wanted(id, Wanted::Stopped, now).await?;
                self.app.close_workshop(id, &EndedWhy::DeadlinePassed);
                self.app.wake.notify_one();
                Ok(())
            }
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn note_reason(
        &self,
        workshop: &WorkshopRecord,
        reason: Reason,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let reason = Some((reason.code, reason.message));
        if workshop.reason == reason {
            return Ok(());
        }
        let write = WorkshopWrite {
            id: workshop.id.clone(),
            wanted: workshop.wanted,
            status: Some(workshop.status),
            reason,
            seats: Vec::new(),
            fence: self.fence(&workshop.id)?,
            now,
        };
        match self.app.store.write_workshop(write).await {
            Err(StoreError::NotFound { .. } | StoreError::Fenced { .. }) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    pub(super) async fn write_down(
        &self,
        workshop: &WorkshopRecord,
        decided: &mut plan::Plan,
        failures: Failures,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let lost: Vec<SeatKey> = decided
            .seats
            .iter()
            .filter(|write| write.state != SeatState::Ready || write.next_generation != write.generation)
            .map(|write| SeatKey { workshop: workshop.id.clone(), seat: write.seat })
            .collect();
        let ready: Vec<_> = decided
            .seats
            .iter()
            .filter(|write| write.state == SeatState::Ready)
            .map(|write| (SeatKey { workshop: workshop.id.clone(), seat: write.seat }, write.generation))
            .collect();
        if decided.status.is_some() || !decided.seats.is_empty() {
            let rewritten =
                decided.seats.iter().any(|write: &SeatWrite| write.next_generation != write.generation);
            let write = WorkshopWrite {
                id: workshop.id.clone(),
                wanted: workshop.wanted,
                status: Some(decided.status.unwrap_or(workshop.status)),
                reason: if decided.status.is_some() {
                    decided.reason.take()
                } else {
                    workshop.reason.clone()
                },
                seats: std::mem::take(&mut decided.seats),
                fence: self.fence(&workshop.id)?,
                now,
            };
            let written = self.app.store.write_workshop(write).await;
            if written.is_err() {
                lock(&self.desk).failures.entry(workshop.id.clone()).or_default().extend(failures);
            }
            let seated = written?;
            if !seated.is_empty() {
                self.app.directory.forget_workshop(&workshop.id);
            }
            if rewritten {
                self.app.wake.notify_one();
            }
        }
        for key in lost {
            self.app.directory.forget(&key);
        }
        lock(&self.desk).measure_ready(ready);
        Ok(())
    }
}
