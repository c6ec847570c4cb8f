//! Who holds what: the store's rows as they are known here, and the only two ways in which this server changes them.

use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::{RuntimeError, RuntimeKind};
use clarateach_store::{Placement, StoreError};
use tokio::time::Instant;

use super::member::Member;
use super::merge::Doomed;
use super::table::Table;
use super::{Fleet, lock};

impl Fleet {
    /// Whether a make of a seat was given to a worker, or is about to be, as far as is known here.
    #[must_use]
    pub fn is_placed(&self, key: &SeatKey, generation: Generation) -> bool {
        let table = lock(&self.table);
        table.is_reserved(key) || table.newest(key).is_some_and(|(_, newest)| newest >= generation)
    }

    /// The worker that has a seat, as far as is known here.
    #[must_use]
    pub fn worker_of(&self, key: &SeatKey) -> Option<String> {
        lock(&self.table).newest(key).map(|(worker, _)| worker.to_owned())
    }

    /// The worker that has a make of a seat, or the newest; asks the store where it is not known here.
    pub(super) async fn find(&self, key: &SeatKey, generation: Option<Generation>) -> Option<Arc<Member>> {
        let known = |table: &Table| {
            let (worker, newest) = table.newest(key)?;
            generation.is_none_or(|wanted| wanted == newest).then(|| worker.to_owned())
        };
        let worker = known(&lock(&self.table));
        if let Some(worker) = worker {
            return self.member(&worker);
        }
        if !self.leases.owns(&key.workshop)
            && let Err(error) = self.read_placements(Some(&key.workshop)).await
        {
            tracing::debug!(%error, seat = %key, "where the seat is could not be read");
        }
        let worker = known(&lock(&self.table))?;
        self.member(&worker)
    }

    /// Reads anew who holds what, of one workshop or of all.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn read_placements(&self, of: Option<&WorkshopId>) -> Result<(), StoreError> {
        let reading = lock(&self.table).begin_reading();
        match self.store.placements(of).await {
            Ok(rows) => {
                lock(&self.table).finish_reading(&reading, of, rows);
                Ok(())
            }
            Err(error) => {
                lock(&self.table).drop_reading();
                Err(error)
            }
        }
    }

    /// Has who holds what of a workshop read anew before the next look: there may be rows that are not known here.
    pub fn doubt(&self, workshop: &WorkshopId) {
        lock(&self.unread).insert(workshop.clone());
    }

    /// Reads what is doubted; where the store fails it stays so.
    pub(super) async fn read_doubted(&self) {
        let doubted = std::mem::take(&mut *lock(&self.unread));
        let mut left = doubted.into_iter();
        while let Some(workshop) = left.next() {
            if let Err(error) = self.read_placements(Some(&workshop)).await {
                tracing::debug!(%error, %workshop, "who holds what could not be read");
                lock(&self.unread).extend(std::iter::once(workshop).chain(left));
                return;
            }
        }
    }

    /// After a lease was gained: what was known may have been changed by another server, so nothing of it is believed.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn begin_anew(&self) -> Result<(), StoreError> {
        self.sync().await?;
        self.read_placements(None).await?;
        for member in self.members().into_values() {
            member.forget_observed();
        }
        Ok(())
    }

    /// What workers have, or may have, of a workshop's seats beyond what the runtime of `kind` showed last.
    #[must_use]
    pub fn remnants(&self, kind: RuntimeKind, workshop: &WorkshopId) -> Vec<(SeatKey, Generation)> {
        let first =
            SeatKey { workshop: workshop.clone(), seat: SeatNumber::new(1).expect("1 is a seat's number") };
        let remnants = lock(&self.remnants);
        let of_kind = remnants.get(&kind).into_iter().flat_map(|all| all.range(first.clone()..));
        let some = of_kind.take_while(|(key, _)| key.workshop == *workshop);
        some.map(|(key, generation)| (key.clone(), *generation)).collect()
    }

    /// Writes a row down.
    pub(super) async fn place(&self, placement: Placement) -> Result<Placement, StoreError> {
        let fence = self
            .leases
            .fence(&placement.key.workshop)
            .map_err(|_| StoreError::Fenced { lease: "reconcile".to_owned() })?;
        let workshop = placement.key.workshop.clone();
        let placed = self.store.place(fence.as_ref(), placement).await.inspect_err(|error| {
            // Unless it was refused, it may have been written all the same.
            if matches!(error, StoreError::Unavailable { .. } | StoreError::Internal { .. }) {
                self.doubt(&workshop);
            }
        })?;
        lock(&self.table).put(placed.clone());
        Ok(placed)
    }

    /// Has what newer decisions left behind removed, where this server decides, each once at a time.
    pub(super) fn sweep(self: &Arc<Self>, doomed: Vec<Doomed>) {
        for doomed in doomed {
            if !self.leases.owns(&doomed.key.workshop) || !lock(&self.sweeping).insert(doomed.clone()) {
                continue;
            }
            let Some(member) = self.member(&doomed.worker) else {
                lock(&self.sweeping).remove(&doomed);
                continue;
            };
            let fleet = Arc::clone(self);
            self.tasks.spawn(async move {
                let removed = fleet.remove_from(&member, &doomed.key, doomed.generation).await;
                if let Err(error) = removed {
                    tracing::warn!(worker = %doomed.worker, seat = %doomed.key, %error, "what is left of a seat could not be removed; it is tried again");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                lock(&fleet.sweeping).remove(&doomed);
                fleet.changed();
            });
        }
    }

    /// Removes a seat from one worker, and the row that says that it may be there.
    pub(super) async fn remove_from(
        &self,
        member: &Arc<Member>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<(), RuntimeError> {
        self.ask_to_let_go(member, key, "remove", member.worker().remove(key, generation)).await?;
        self.unplace(member, key, generation).await
    }

    /// Takes a make of a seat back from a worker that has refused it, and the row that says that it may be there. Whether
    /// it did: not when the worker has begun it, since somebody else has asked for it again.
    pub(super) async fn take_back(
        &self,
        member: &Arc<Member>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<bool, RuntimeError> {
        let asked = member.worker().take_back(key, generation);
        let taken_back = self.ask_to_let_go(member, key, "take_back", asked).await?;
        if taken_back {
            self.unplace(member, key, generation).await?;
        }
        Ok(taken_back)
    }

    /// One call of a worker after which it may have nothing of a seat any more.
    async fn ask_to_let_go<T>(
        &self,
        member: &Arc<Member>,
        key: &SeatKey,
        name: &'static str,
        call: impl Future<Output = Result<T, RuntimeError>>,
    ) -> Result<T, RuntimeError> {
        if !member.is_there() {
            let message = format!("worker {} does not answer", member.id());
            return Err(RuntimeError::Unavailable { message });
        }
        let _turn = member.turn().await;
        member.called(key);
        let began = Instant::now();
        let answered = call.await;
        metrics::histogram!("clarateach_worker_call_seconds", "call" => name)
            .record(began.elapsed().as_secs_f64());
        member.heard(&answered);
        member.called(key);
        answered
    }

    /// Crosses a row out of which nothing is left.
    async fn unplace(
        &self,
        member: &Arc<Member>,
        key: &SeatKey,
        generation: Generation,
    ) -> Result<(), RuntimeError> {
        let unplaced = self.store.unplace(key, member.id(), generation).await;
        unplaced.map_err(|error| RuntimeError::Unavailable { message: error.to_string() })?;
        lock(&self.table).gone(key, member.id(), generation);
        Ok(())
    }
}
