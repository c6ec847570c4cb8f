//! How many seats find no room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use clarateach_ids::SeatKey;
use clarateach_lifecycle::Wanted;
use clarateach_runtime::RuntimeKind;
use clarateach_store::{StoreError, WorkerRecord, WorkerSource};

use super::unhelped::Unhelped;
use crate::app::App;

/// Kinds of seats that machines made here are good for: what those that there are make, and microVMs in any case.
pub(super) fn kinds(records: &[WorkerRecord]) -> BTreeSet<RuntimeKind> {
    let made = records.iter().filter(|record| record.source == WorkerSource::Gcp);
    let mut kinds: BTreeSet<_> = made.filter_map(|record| record.kind.as_deref()?.parse().ok()).collect();
    kinds.insert(RuntimeKind::Firecracker);
    kinds
}

/// Seats of running workshops that are on no worker, and that one would help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// All of them.
    pub(super) unplaced: u32,
    /// Those beyond what fits on the workers that there are.
    pub(super) waiting: u32,
}

/// What is needed now.
pub(super) async fn need(
    app: &App,
    kinds: &BTreeSet<RuntimeKind>,
    unhelped: &mut Unhelped,
) -> Result<Need, StoreError> {
    // Before the seats are counted: one that is placed in between must not be counted as waiting for the room it took.
    let room: BTreeMap<RuntimeKind, u32> = kinds.iter().map(|kind| (*kind, app.fleet.room(*kind))).collect();
    let mut unplaced: BTreeMap<RuntimeKind, Vec<SeatKey>> = BTreeMap::new();
    for (workshop, counts) in app.store.workshops(None).await? {
        let Ok(kind) = workshop.runtime.parse::<RuntimeKind>() else { continue };
        let unsettled = counts.pending + counts.starting + counts.unreachable + counts.failed;
        if workshop.wanted != Wanted::Running
            || unsettled == 0
            || !kinds.contains(&kind)
            || !app.runtimes.is_remote(kind)
        {
            continue;
        }
        let seats = app.store.seats(&workshop.id).await?;
        let without = seats.into_iter().filter(|(seat, _)| !app.fleet.is_placed(&seat.key, seat.generation));
        unplaced.entry(kind).or_default().extend(without.map(|(seat, _)| seat.key));
    }
    unhelped.keep(&unplaced.values().flatten().cloned().collect());
    let now = Instant::now();
    let mut need = Need { unplaced: 0, waiting: 0 };
    for (kind, seats) in &unplaced {
        let needing = unhelped.needing(seats, room[kind], now);
        need.unplaced += needing;
        need.waiting += needing.saturating_sub(room[kind]);
    }
    Ok(need)
}
