//! What it is to come to rest: all that is wanted is there, and nothing else.

use std::collections::BTreeMap;

use clarateach_lifecycle::{SeatState, Wanted, WorkshopStatus};
use clarateach_runtime::EnvironmentState;
use clarateach_server::app::reconcile::ends::not_after;
use clarateach_store::{Store, WorkerWish};
use jiff::Timestamp;

use crate::world::{World, at_once};

/// Seats that are held and whose worker was given up, or ended them when their time had come, are told so, and wait for a
/// person. Somebody may sit down at such a seat before the server, cut off until then, has seen that it is gone.
const GIVEN_UP: [&str; 2] = ["WORKER_FORGOTTEN", "DISK_GONE"];

impl World {
    /// What is not as it is wanted, or not as it is said to be.
    pub(crate) fn unsettled(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let workers: BTreeMap<_, _> =
            at_once(self.store.workers()).unwrap().into_iter().map(|w| (w.id.clone(), w.wish)).collect();
        let gave_up = self.hosts().iter().any(|host| host.was_forgotten());
        let hosts: Vec<_> = self
            .hosts()
            .into_iter()
            .filter(|host| workers.get(&host.id).is_some_and(|wish| *wish != WorkerWish::Forgotten))
            .collect();
        let mut there: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for host in &hosts {
            for environment in host.environments() {
                there.entry(environment.key.clone()).or_default().push((host.id.clone(), environment));
            }
        }
        let room: u32 = hosts
            .iter()
            .filter(|host| workers.get(&host.id) == Some(&WorkerWish::Active))
            .map(|host| host.capacity)
            .sum();
        let workshops = at_once(self.store.workshops(None)).unwrap();
        let running = workshops.iter().filter(|(workshop, _)| workshop.wanted == Wanted::Running);
        let seats_wanted: u32 = running.map(|(workshop, _)| workshop.seats).sum();
        for (workshop, counts) in &workshops {
            let id = &workshop.id;
            match workshop.wanted {
                Wanted::Created => {}
                Wanted::Deleted => wrong.push(format!("{id} is to be deleted and is still recorded")),
                Wanted::Stopped if workshop.status != WorkshopStatus::Stopped => {
                    wrong.push(format!("{id} is to be stopped and is {}", workshop.status));
                }
                Wanted::Stopped => {}
                Wanted::Running => {
                    let seats = at_once(self.store.seats(id)).unwrap();
                    let mut usable = 0;
                    for (seat, holder) in &seats {
                        let makes = there.remove(&seat.key).unwrap_or_default();
                        let its_own: Vec<_> =
                            makes.iter().filter(|(_, e)| e.generation == seat.generation).collect();
                        for (host, older) in makes.iter().filter(|(_, e)| e.generation != seat.generation) {
                            let (key, of) = (&seat.key, older.generation);
                            wrong.push(format!("{key} is at {}, and {host} has {of}", seat.generation));
                        }
                        let end = not_after(workshop).map(Timestamp::as_second);
                        for (host, other) in
                            its_own.iter().filter(|(_, e)| e.state == EnvironmentState::Ready)
                        {
                            let told = other.not_after.map(Timestamp::as_second);
                            if told != end {
                                wrong.push(format!(
                                    "{} is to end at {end:?} and {host} was told {told:?}",
                                    seat.key
                                ));
                            }
                        }
                        let lives = its_own.iter().any(|(_, e)| e.state == EnvironmentState::Ready);
                        let code = seat.reason.as_ref().map(|(code, _)| code.as_str());
                        let full = code == Some("AT_CAPACITY") && seats_wanted > room;
                        let no_worker = code == Some("RUNTIME_UNAVAILABLE") && room == 0;
                        let lost = holder.is_some()
                            && (gave_up || self.rules().has_expired(&seat.key, seat.generation))
                            && seat.state == SeatState::Unreachable
                            && code.is_some_and(|code| GIVEN_UP.contains(&code));
                        match seat.state {
                            SeatState::Ready if lives && its_own.len() == 1 => usable += 1,
                            _ if (full || no_worker) && its_own.is_empty() => {}
                            _ if lost && its_own.is_empty() => {}
                            state => wrong.push(format!(
                                "{} is {state} at {} ({code:?}, held: {}), and there is {its_own:?}",
                                seat.key,
                                seat.generation,
                                holder.is_some(),
                            )),
                        }
                    }
                    if usable > 0 && workshop.status != WorkshopStatus::Running {
                        wrong.push(format!("{id} has {usable} usable seats and is {}", workshop.status));
                    }
                    if counts.waiting > 0 && counts.ready > 0 {
                        wrong.push(format!("{id}: {} wait, {} are free", counts.waiting, counts.ready));
                    }
                }
            }
        }
        for (key, left) in there {
            for (host, environment) in left {
                wrong.push(format!("nobody wants {key} at {} on {host}", environment.generation));
            }
        }
        wrong
    }

    /// What is left when everything was deleted.
    pub(crate) fn left(&self) -> Vec<String> {
        let mut left = self.unsettled();
        let workshops = at_once(self.store.workshops(None)).unwrap();
        left.extend(workshops.iter().map(|(workshop, _)| format!("{} is still recorded", workshop.id)));
        let placements = at_once(self.store.placements(None)).unwrap();
        left.extend(placements.iter().map(|row| format!("{} is still placed on {}", row.key, row.worker)));
        left
    }
}
