//! What the fleet should do next, from what is there and what is needed. No I/O and no clock.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::names::ResourceName;

/// How large the fleet may be, and where.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Workers that are always there.
    pub min: u32,
    /// Never more workers than this; 0: the fleet is left alone entirely.
    pub max: u32,
    /// A worker without seats for so long is deleted.
    pub idle: Duration,
    /// Seats that one worker is good for.
    pub seats_per_worker: u32,
    /// Where workers may be, in order of preference; never empty.
    pub zones: Vec<ResourceName>,
}

/// The machine of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// On its way to run.
    Starting,
    /// It runs.
    Running,
    /// On its way to be stopped or deleted.
    Stopping,
    /// Stopped: preempted, or by somebody; its disk is there.
    Stopped,
    /// The instance is gone, and its disk is still there.
    DiskOnly,
    /// Neither instance nor disk is there: the API says so.
    Gone,
}

/// A worker of this installation's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The instance's name, which is the worker's id.
    pub name: ResourceName,
    /// Its zone.
    pub zone: ResourceName,
    /// Its machine.
    pub machine: Machine,
    /// Whether the control plane knows it.
    pub registered: bool,
    /// Whether it takes no new seats.
    pub draining: bool,
    /// Seats that are placed on it, whether they answer or not.
    pub seats: u32,
    /// How long it has had none.
    pub idle: Duration,
}

/// What the rest of the world is like.
#[derive(Debug, Clone, Default)]
pub struct Situation {
    /// Seats that are wanted and find no room.
    pub waiting: u32,
    /// Zones that have had no machine lately.
    pub exhausted: BTreeSet<ResourceName>,
    /// Whether the project's quota was used up lately.
    pub over_quota: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make another worker in this zone.
    Create(ResourceName),
    /// Start a stopped one: its seats' disks are on it.
    Start(ResourceName),
    /// Make it known to the control plane.
    Register(ResourceName),
    /// It takes no new seats.
    Drain(ResourceName),
    /// It takes seats again.
    Undrain(ResourceName),
    /// Delete the instance, and its disk with it.
    Delete(ResourceName),
    /// Delete the disk that its instance has left.
    DeleteDisk(ResourceName),
    /// Strike it off the register: nothing of it is left.
    Forget(ResourceName),
}

/// What to do next. Pure: the same twice gives the same.
#[must_use]
pub fn plan(limits: &Limits, situation: &Situation, workers: &[Worker]) -> Vec<Action> {
    if limits.max == 0 {
        return Vec::new();
    }
    let mut actions = Vec::new();
    let there = |worker: &&Worker| !matches!(worker.machine, Machine::Gone | Machine::DiskOnly);
    let count = u32::try_from(workers.iter().filter(there).count()).unwrap_or(u32::MAX);
    // Those that may go without the fleet becoming too small.
    let mut spare = count.saturating_sub(limits.min);
    let startable = |zone: &ResourceName| !situation.over_quota && !situation.exhausted.contains(zone);
    let mut coming = 0;
    let needed = situation.waiting > 0;
    for worker in workers {
        let name = || worker.name.clone();
        match worker.machine {
            Machine::Gone if worker.registered => actions.push(Action::Forget(name())),
            // What learners have is on that disk: only a person may throw it away.
            Machine::DiskOnly if worker.seats == 0 => actions.push(Action::DeleteDisk(name())),
            Machine::Gone | Machine::DiskOnly | Machine::Stopping => {}
            Machine::Starting => coming += limits.seats_per_worker.saturating_sub(worker.seats),
            Machine::Stopped if worker.seats == 0 && spare > 0 && !needed => {
                spare -= 1;
                actions.push(Action::Delete(name()));
            }
            Machine::Stopped => {
                if startable(&worker.zone) {
                    coming += limits.seats_per_worker.saturating_sub(worker.seats);
                    actions.push(Action::Start(name()));
                }
            }
            Machine::Running if !worker.registered => {
                coming += limits.seats_per_worker;
                actions.push(Action::Register(name()));
            }
            Machine::Running if worker.seats > 0 => {}
            Machine::Running if worker.draining && (needed || spare == 0) => {
                coming += limits.seats_per_worker;
                actions.push(Action::Undrain(name()));
            }
            Machine::Running if worker.draining => {
                spare -= 1;
                actions.push(Action::Delete(name()));
            }
            // First no new seats, and only when still none has come in between, its end.
            Machine::Running if worker.idle >= limits.idle && spare > 0 && !needed => {
                spare -= 1;
                actions.push(Action::Drain(name()));
            }
            Machine::Running => {}
        }
    }
    let lacking = situation.waiting.saturating_sub(coming).div_ceil(limits.seats_per_worker.max(1));
    let wanted = lacking.max(limits.min.saturating_sub(count)).min(limits.max.saturating_sub(count));
    if let Some(zone) = limits.zones.iter().find(|zone| startable(zone)) {
        actions.extend((0..wanted).map(|_| Action::Create(zone.clone())));
    }
    actions
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> ResourceName {
        text.parse().unwrap()
    }

    fn limits(min: u32, max: u32) -> Limits {
        let zones = vec![name("us-central1-a"), name("us-central1-b")];
        Limits { min, max, idle: Duration::from_secs(600), seats_per_worker: 20, zones }
    }

    fn worker(id: &str, machine: Machine, seats: u32) -> Worker {
        let (registered, draining, idle) = (true, false, Duration::ZERO);
        Worker { name: name(id), zone: name("us-central1-a"), machine, registered, draining, seats, idle }
    }

    #[test]
    fn it_grows_by_what_is_lacking_and_no_more() {
        let waiting = |waiting| Situation { waiting, ..Situation::default() };
        let in_a = Action::Create(name("us-central1-a"));
        assert_eq!(plan(&limits(0, 5), &waiting(30), &[]), [in_a.clone(), in_a.clone()]);
        assert_eq!(plan(&limits(0, 1), &waiting(300), &[]), vec![in_a.clone()]);
        assert_eq!(plan(&limits(0, 5), &waiting(30), &[worker("w", Machine::Starting, 0)]), vec![in_a]);
        assert!(plan(&limits(0, 5), &waiting(20), &[worker("w", Machine::Starting, 0)]).is_empty());
        // One that comes back with the seats that it has has no room for others.
        assert_eq!(plan(&limits(0, 5), &waiting(1), &[worker("w", Machine::Starting, 20)]).len(), 1);
        assert_eq!(plan(&limits(2, 5), &waiting(0), &[]).len(), 2);
        assert!(plan(&limits(0, 0), &waiting(100), &[worker("w", Machine::Stopped, 0)]).is_empty(), "off");
    }

    #[test]
    fn an_empty_zone_is_avoided_and_quota_is_not_hammered() {
        let mut situation = Situation { waiting: 5, ..Situation::default() };
        situation.exhausted.insert(name("us-central1-a"));
        assert_eq!(plan(&limits(0, 5), &situation, &[]), [Action::Create(name("us-central1-b"))]);
        assert!(
            plan(&limits(0, 5), &situation, &[worker("w", Machine::Stopped, 3)])[0]
                != Action::Start(name("w"))
        );
        situation.over_quota = true;
        assert!(plan(&limits(0, 5), &situation, &[worker("w", Machine::Stopped, 3)]).is_empty());
    }

    #[test]
    fn idle_workers_are_drained_then_deleted_and_forgotten_when_nothing_is_left() {
        let quiet = Situation::default();
        let mut idle = worker("w", Machine::Running, 0);
        assert!(plan(&limits(0, 5), &quiet, &[idle.clone()]).is_empty());
        idle.idle = Duration::from_secs(600);
        assert_eq!(plan(&limits(0, 5), &quiet, &[idle.clone()]), [Action::Drain(name("w"))]);
        assert!(plan(&limits(1, 5), &quiet, &[idle.clone()]).is_empty(), "the smallest fleet");
        idle.draining = true;
        assert_eq!(plan(&limits(0, 5), &quiet, &[idle.clone()]), [Action::Delete(name("w"))]);
        let needed = Situation { waiting: 1, ..Situation::default() };
        assert_eq!(plan(&limits(0, 5), &needed, &[idle]), [Action::Undrain(name("w"))]);
        assert!(plan(&limits(0, 5), &quiet, &[worker("w", Machine::Stopping, 0)]).is_empty());
        let left = worker("w", Machine::DiskOnly, 0);
        assert_eq!(plan(&limits(0, 5), &quiet, &[left]), [Action::DeleteDisk(name("w"))]);
        assert_eq!(
            plan(&limits(0, 5), &quiet, &[worker("w", Machine::Gone, 0)]),
            [Action::Forget(name("w"))]
        );
    }

    proptest! {
        /// Whatever there is: nothing that has seats is deleted, and the fleet stays within its limits.
        #[test]
        fn seats_are_never_thrown_away(
            kinds in proptest::collection::vec((0..6_u8, any::<bool>(), any::<bool>(), 0..3_u32, 0..1200_u64), 0..8),
            waiting in 0..100_u32, min in 0..4_u32, more in 0..4_u32, over_quota in any::<bool>(),
        ) {
            let machines = [Machine::Starting, Machine::Running, Machine::Stopping, Machine::Stopped, Machine::DiskOnly, Machine::Gone];
            let workers: Vec<Worker> = kinds.iter().enumerate().map(|(index, (kind, registered, draining, seats, idle))| Worker {
                registered: *registered, draining: *draining, idle: Duration::from_secs(*idle),
                ..worker(&format!("w{index}"), machines[usize::from(*kind)], *seats)
            }).collect();
            let limits = limits(min, min + more);
            let situation = Situation { waiting, over_quota, ..Situation::default() };
            let actions = plan(&limits, &situation, &workers);
            let of = |name: &ResourceName| workers.iter().find(|worker| worker.name == *name).unwrap();
            let mut count = workers.iter().filter(|w| !matches!(w.machine, Machine::Gone | Machine::DiskOnly)).count();
            for action in &actions {
                match action {
                    Action::Delete(name) => {
                        prop_assert_eq!(of(name).seats, 0);
                        count -= 1;
                        prop_assert!(count >= min as usize);
                    }
                    Action::DeleteDisk(name) => prop_assert_eq!(of(name).seats, 0),
                    Action::Forget(name) => prop_assert_eq!(of(name).machine, Machine::Gone),
                    Action::Create(_) => {
                        prop_assert!(!over_quota);
                        count += 1;
                        prop_assert!(count <= limits.max as usize);
                    }
                    _ => {}
                }
            }
        }
    }
}
