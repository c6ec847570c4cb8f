//! What the plan is told of each worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clarateach_gcp::ResourceName;
use clarateach_gcp::fleet::Found;
use clarateach_gcp::fleet::plan::{Machine, Worker};
use clarateach_store::{WorkerRecord, WorkerWish};

/// Labels of a worker's record: where its machine is, so that other settings don't make it seem gone.
pub(super) const ZONE_LABEL: &str = "gcp/zone";
pub(super) const PROJECT_LABEL: &str = "gcp/project";
/// Marks a worker that was drained because it had nothing to do.
pub(super) const IDLE_LABEL: &str = "clarateach/idle";
/// A machine that runs is waited for so long until its agent answers: it installs it first.
const BOOT_WITHIN: Duration = Duration::from_secs(10 * 60);

/// Since when a worker has been as it is.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Since {
    pub(super) running: Option<Instant>,
    pub(super) idle: Option<Instant>,
    pub(super) draining: Option<Instant>,
}

fn keep(since: &mut Option<Instant>, is_so: bool, now: Instant) -> Duration {
    if !is_so {
        *since = None;
        return Duration::ZERO;
    }
    now.saturating_duration_since(*since.get_or_insert(now))
}

/// What is known of the fleet at one moment.
#[derive(Debug)]
pub(super) struct Sight {
    /// By name: those made here, tombstones too.
    pub(super) records: BTreeMap<ResourceName, WorkerRecord>,
    /// By name: what is at Google's.
    pub(super) found: BTreeMap<ResourceName, Found>,
    /// Placed seats by worker.
    pub(super) seats: BTreeMap<String, u32>,
    /// Workers whose agents answer.
    pub(super) answering: BTreeSet<String>,
}

impl Sight {
    /// Where a worker's machine is, or was.
    pub(super) fn zone(&self, name: &ResourceName) -> Option<ResourceName> {
        let found = self.found.get(name).map(|found| found.zone.clone());
        found.or_else(|| self.records.get(name)?.labels.get(ZONE_LABEL)?.parse().ok())
    }

    pub(super) fn seats_on(&self, name: &ResourceName) -> u32 {
        self.seats.get(name.as_str()).copied().unwrap_or(0)
    }

    /// The workers as the plan sees them, and those that are to go because people said so: they were given up, or drained
    /// and have no seats any more. `quiet`: no seat is without a worker; else none of them has nothing to do.
    pub(super) fn workers(
        &self,
        since: &mut BTreeMap<ResourceName, Since>,
        quiet: bool,
        now: Instant,
    ) -> (Vec<Worker>, Vec<ResourceName>) {
        let names: BTreeSet<&ResourceName> = self.records.keys().chain(self.found.keys()).collect();
        since.retain(|name, _| names.contains(name));
        let (mut workers, mut dismissed) = (Vec::new(), Vec::new());
        for name in names {
            let Some(zone) = self.zone(name) else { continue };
            let record = self.records.get(name);
            let seats = self.seats_on(name);
            let mut machine = self.found.get(name).map_or(Machine::Gone, |found| found.machine);
            let is = |wish| record.is_some_and(|record| record.wish == wish);
            let draining = is(WorkerWish::Draining);
            let since = since.entry(name.clone()).or_default();
            let runs = machine == Machine::Running;
            let running = keep(&mut since.running, runs, now);
            keep(&mut since.draining, draining, now);
            let registered = record.is_some_and(|record| record.wish != WorkerWish::Forgotten);
            if runs && registered && running < BOOT_WITHIN && !self.answering.contains(name.as_str()) {
                machine = Machine::Starting;
            }
            let is_idle = quiet && registered && seats == 0 && machine == Machine::Running;
            let idle = keep(&mut since.idle, is_idle, now);
            let by_people = draining
                && seats == 0
                && record.is_some_and(|record| !record.labels.contains_key(IDLE_LABEL));
            if is(WorkerWish::Forgotten) || by_people {
                dismissed.push(name.clone());
                if machine != Machine::Gone {
                    // It counts as long as it is there, and nobody waits for it.
                    machine = Machine::Stopping;
                }
            }
            workers.push(Worker { name: name.clone(), zone, machine, registered, draining, seats, idle });
        }
        (workers, dismissed)
    }
}
