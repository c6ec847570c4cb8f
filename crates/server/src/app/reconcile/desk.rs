//! What the reconciler remembers from one look to the next. Nothing of it is missed after a restart: it saves looks and
//! calls, and measures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_runtime::Environment;
use clarateach_store::{WorkshopCounts, WorkshopRecord};
use tokio::time::Instant;

use super::ends::ToldEnds;
use super::plan::Failures;

/// What is settled is looked at again at least this often.
const SETTLED_FOR: Duration = Duration::from_secs(30);

/// Calls under way and what came of those that failed.
#[derive(Default)]
pub(super) struct Desk {
    /// Makes that were asked for and have not been seen ready, for the measurement.
    pub(super) begun: BTreeMap<SeatKey, (Generation, Instant)>,
    pub(super) in_flight: BTreeSet<SeatKey>,
    pub(super) failures: BTreeMap<WorkshopId, Failures>,
    pub(super) told_ends: ToldEnds,
    /// Workshops of which nothing was to be done, each as it was then.
    pub(super) settled: BTreeMap<WorkshopId, (WorkshopRecord, WorkshopCounts, Vec<Environment>, Instant)>,
    /// Leases that had been gained when everything was looked at anew.
    pub(super) gains: u64,
}

impl Desk {
    /// Whether nothing has changed since a look at which nothing was to be done: then its seats need not be read.
    pub(super) fn is_settled(
        &mut self,
        workshop: &WorkshopRecord,
        counts: WorkshopCounts,
        environments: &[Environment],
        in_flight: &BTreeSet<SeatKey>,
    ) -> bool {
        let Some((record, before, seen, at)) = self.settled.get(&workshop.id) else { return false };
        let same = record == workshop && *before == counts && seen == environments;
        let busy = in_flight.iter().any(|key| key.workshop == workshop.id)
            || self.failures.contains_key(&workshop.id);
        if same && at.elapsed() < SETTLED_FOR && !busy {
            return true;
        }
        self.settled.remove(&workshop.id);
        false
    }

    /// A make is about to be asked for.
    pub(super) fn begin_make(&mut self, key: &SeatKey, generation: Generation) {
        let begun = self.begun.entry(key.clone()).or_insert((generation, Instant::now()));
        if begun.0 != generation {
            *begun = (generation, Instant::now());
        }
    }

    /// How long makes took from the first call until they were seen ready; those of another server's calls count nowhere.
    pub(super) fn measure_ready(&mut self, ready: Vec<(SeatKey, Generation)>) {
        for (key, generation) in ready {
            if let Some((begun, at)) = self.begun.remove(&key)
                && begun == generation
            {
                metrics::histogram!("clarateach_seat_ready_seconds").record(at.elapsed().as_secs_f64());
            }
        }
    }

    /// A workshop is no more.
    pub(super) fn forget(&mut self, workshop: &WorkshopId) {
        self.told_ends.retain(|key, _| key.workshop != *workshop);
        self.begun.retain(|key, _| key.workshop != *workshop);
    }
}
