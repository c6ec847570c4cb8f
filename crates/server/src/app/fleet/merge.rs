//! What several workers show, against what the store says of who may hold what: which environments are the seats', what
//! is left over, and what has to go. Pure.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_runtime::{Environment, EnvironmentState, Reason};

use super::table::Holders;

/// Why a seat is shown as unresponsive whose worker can't be asked.
pub const WORKER_UNREACHABLE: &str = "WORKER_UNREACHABLE";

/// What is known of one worker's environments.
#[derive(Debug)]
pub enum View<'a> {
    /// All of them, as they are now.
    Fresh(&'a BTreeMap<SeatKey, Environment>),
    /// As they were a moment ago; since then these seats were called.
    Stale(&'a BTreeMap<SeatKey, Environment>, &'a BTreeSet<SeatKey>),
    /// Nothing, and why.
    Unknown(String),
}

/// Something that has to go from a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Doomed {
    /// The worker's id.
    pub worker: String,
    /// The seat.
    pub key: SeatKey,
    /// Up to which make of it.
    pub generation: Generation,
}

/// All workers' environments in one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// One environment at most of each seat.
    pub shown: Vec<Environment>,
    /// What workers have, or may have, of seats that show no environment: matters where nothing is wanted.
    pub remnants: BTreeMap<SeatKey, Generation>,
    /// What newer decisions have left behind.
    pub doomed: Vec<Doomed>,
}

/// Whether a workshop's id is one that servers draw: what somebody made by hand on a worker is not ours to remove.
#[must_use]
pub fn is_drawn(id: &WorkshopId) -> bool {
    let text = id.as_str();
    text.len() == 17
        && text.starts_with('w')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// One answer from all workers' views. `rows` may name workers that are not among `views` (another kind of runtime's):
/// theirs count as placements and nothing else.
#[must_use]
pub fn merge(views: &BTreeMap<&str, View<'_>>, rows: &BTreeMap<SeatKey, Holders>) -> Merged {
    let mut merged = Merged::default();
    for (key, holders) in rows {
        let Some((newest, generation)) = holders.iter().max_by_key(|(worker, g)| (**g, *worker)) else {
            continue;
        };
        if let Some(view) = views.get(newest.as_str()) {
            match of_seat(view, newest, key, *generation) {
                Some(environment) => {
                    // An older make whose successor has not come yet, or never will: what is removed is both.
                    if environment.generation < *generation {
                        merged.remnants.insert(key.clone(), *generation);
                    }
                    merged.shown.push(environment);
                }
                None => {
                    merged.remnants.insert(key.clone(), *generation);
                }
            }
        }
        // The seat has moved on: what is left of it elsewhere goes.
        for (worker, older) in holders.iter().filter(|(worker, _)| *worker != newest) {
            if let Some(view) = views.get(worker.as_str()) {
                merged.remnants.entry(key.clone()).and_modify(|g| *g = (*g).max(*older)).or_insert(*older);
                if !matches!(view, View::Unknown(_)) {
                    merged.doomed.push(Doomed {
                        worker: worker.clone(),
                        key: key.clone(),
                        generation: *older,
                    });
                }
            }
        }
    }
    for (worker, view) in views {
        let View::Fresh(environments) = view else { continue };
        for environment in environments.values() {
            stray(&mut merged, worker, environment, views, rows);
        }
    }
    merged
}

/// The environment of a seat that is placed on a worker.
fn of_seat(view: &View<'_>, worker: &str, key: &SeatKey, generation: Generation) -> Option<Environment> {
    let (environments, called) = match view {
        View::Fresh(environments) => return environments.get(key).cloned(),
        View::Stale(environments, called) => (environments, called),
        View::Unknown(why) => {
            let reason = Reason::new(WORKER_UNREACHABLE, why.clone());
            return Some(placeholder(key, generation, EnvironmentState::Unresponsive, Some(reason), worker));
        }
    };
    match environments.get(key) {
        // A call does nothing to what is ready, but removals, which take the row with them.
        Some(environment)
            if environment.generation == generation
                && (!called.contains(key) || environment.state == EnvironmentState::Ready) =>
        {
            Some(environment.clone())
        }
        // Nobody knows yet what came of the call.
        _ => Some(placeholder(key, generation, EnvironmentState::Starting, None, worker)),
    }
}

fn placeholder(
    key: &SeatKey,
    generation: Generation,
    state: EnvironmentState,
    reason: Option<Reason>,
    worker: &str,
) -> Environment {
    Environment {
        key: key.clone(),
        generation,
        state,
        reason,
        address: Some(format!("worker:{worker}")),
        handle: None,
        not_after: None,
    }
}

/// An environment on a worker that has no row for it.
fn stray(
    merged: &mut Merged,
    worker: &str,
    environment: &Environment,
    views: &BTreeMap<&str, View<'_>>,
    rows: &BTreeMap<SeatKey, Holders>,
) {
    let holders = rows.get(&environment.key);
    if holders.is_some_and(|holders| holders.contains_key(worker)) || !is_drawn(&environment.key.workshop) {
        return;
    }
    let doomed = match holders {
        // Nobody placed it here: it comes from a worker that was given up, or a database from before it.
        None => true,
        // The seat was placed elsewhere. While that worker can't be asked it may be this very host under another
        // address; then only what is older than the seat's make is surely not wanted.
        Some(holders) => holders.iter().any(|(elsewhere, generation)| {
            let known = views.get(elsewhere.as_str()).is_some_and(|view| !matches!(view, View::Unknown(_)));
            *generation > environment.generation || (known && *generation == environment.generation)
        }),
    };
    let seen = merged.remnants.entry(environment.key.clone()).or_insert(environment.generation);
    *seen = (*seen).max(environment.generation);
    if doomed {
        merged.doomed.push(Doomed {
            worker: worker.to_owned(),
            key: environment.key.clone(),
            generation: environment.generation,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seat: u32) -> SeatKey {
        SeatKey { workshop: "wabcdefghijkmnpqr".parse().unwrap(), seat: seat.try_into().unwrap() }
    }

    fn environment(seat: u32, generation: u64) -> Environment {
        Environment {
            key: key(seat),
            generation: Generation(generation),
            state: EnvironmentState::Ready,
            reason: None,
            address: None,
            handle: None,
            not_after: None,
        }
    }

    fn on(environments: &[Environment]) -> BTreeMap<SeatKey, Environment> {
        environments.iter().map(|e| (e.key.clone(), e.clone())).collect()
    }

    fn rows(rows: &[(u32, &str, u64)]) -> BTreeMap<SeatKey, Holders> {
        let mut all: BTreeMap<SeatKey, Holders> = BTreeMap::new();
        for (seat, worker, generation) in rows {
            all.entry(key(*seat)).or_default().insert((*worker).to_owned(), Generation(*generation));
        }
        all
    }

    fn doomed(worker: &str, seat: u32, generation: u64) -> Doomed {
        Doomed { worker: worker.to_owned(), key: key(seat), generation: Generation(generation) }
    }

    fn away() -> View<'static> {
        View::Unknown("b does not answer".to_owned())
    }

    #[test]
    fn each_seat_is_shown_where_it_was_placed() {
        let (a, b) = (on(&[environment(1, 1)]), on(&[environment(2, 1)]));
        let views = BTreeMap::from([("a", View::Fresh(&a)), ("b", View::Fresh(&b))]);
        let merged = merge(&views, &rows(&[(1, "a", 1), (2, "b", 1), (3, "b", 1), (4, "elsewhere", 1)]));
        assert_eq!(merged.shown, [environment(1, 1), environment(2, 1)]);
        assert_eq!(merged.remnants, BTreeMap::from([(key(3), Generation(1))]), "placed, and not there (yet)");
        assert_eq!(merged.doomed, []);
    }

    #[test]
    fn seats_of_a_worker_that_is_away_are_unresponsive_and_say_why() {
        let a = on(&[]);
        let views = BTreeMap::from([("a", View::Fresh(&a)), ("b", away())]);
        let merged = merge(&views, &rows(&[(1, "b", 4)]));
        assert_eq!(merged.shown.len(), 1);
        assert_eq!(merged.shown[0].state, EnvironmentState::Unresponsive);
        assert_eq!(merged.shown[0].generation, Generation(4));
        assert_eq!(merged.shown[0].reason.as_ref().unwrap().code, WORKER_UNREACHABLE);
    }

    #[test]
    fn what_a_seat_has_moved_on_from_goes_when_its_worker_is_back() {
        let (a, b) = (on(&[environment(1, 2)]), on(&[environment(1, 1)]));
        let rows = rows(&[(1, "a", 2), (1, "b", 1)]);
        let back = BTreeMap::from([("a", View::Fresh(&a)), ("b", View::Fresh(&b))]);
        let merged = merge(&back, &rows);
        assert_eq!(merged.shown, [environment(1, 2)]);
        assert_eq!(merged.doomed, [doomed("b", 1, 1)]);
        let gone = merge(&BTreeMap::from([("a", View::Fresh(&a)), ("b", away())]), &rows);
        assert_eq!((gone.shown, gone.doomed), (vec![environment(1, 2)], vec![]));
        assert_eq!(gone.remnants, BTreeMap::from([(key(1), Generation(1))]), "nothing is purged before");
    }

    #[test]
    fn a_moment_ago_is_as_good_as_now_but_for_what_was_called_since() {
        let mut stopped = environment(2, 1);
        stopped.state = EnvironmentState::Stopped;
        let b = on(&[environment(1, 1), stopped, environment(3, 1)]);
        let called = BTreeSet::from([key(1), key(2)]);
        let views = BTreeMap::from([("b", View::Stale(&b, &called))]);
        let merged = merge(&views, &rows(&[(1, "b", 1), (2, "b", 1), (3, "b", 2), (4, "b", 1)]));
        let states: Vec<_> = merged.shown.iter().map(|e| (e.generation.0, e.state)).collect();
        use EnvironmentState::{Ready, Starting};
        assert_eq!(states, [(1, Ready), (1, Starting), (2, Starting), (1, Starting)]);
        assert_eq!(merged.doomed, [], "what is not known to be there now is left alone");
    }

    #[test]
    fn what_nobody_placed_goes_but_for_what_was_made_by_hand() {
        let mut by_hand = environment(1, 1);
        by_hand.key.workshop = "test".parse().unwrap();
        let a = on(&[environment(1, 3), by_hand]);
        let merged = merge(&BTreeMap::from([("a", View::Fresh(&a))]), &rows(&[]));
        assert_eq!(merged.shown, []);
        assert_eq!(merged.doomed, [doomed("a", 1, 3)]);
        assert_eq!(merged.remnants, BTreeMap::from([(key(1), Generation(3))]));
    }

    #[test]
    fn a_host_that_may_be_the_lost_one_under_another_address_keeps_its_seats() {
        let c = on(&[environment(1, 2), environment(2, 1)]);
        let rows = rows(&[(1, "b", 2), (2, "b", 2)]);
        let merged = merge(&BTreeMap::from([("b", away()), ("c", View::Fresh(&c))]), &rows);
        assert_eq!(merged.doomed, [doomed("c", 2, 1)], "only what is older than the seat's make");
        let b = on(&[]);
        let merged = merge(&BTreeMap::from([("b", View::Fresh(&b)), ("c", View::Fresh(&c))]), &rows);
        assert_eq!(merged.doomed, [doomed("c", 1, 2), doomed("c", 2, 1)]);
    }

    #[test]
    fn drawn_ids_are_told_from_those_made_by_hand() {
        assert!((0..100).all(|_| is_drawn(&WorkshopId::random())));
        for by_hand in ["test", "w", "W1", "wabcdefghijkmnpq-", "w1"] {
            assert!(!is_drawn(&by_hand.parse().unwrap()), "{by_hand}");
        }
    }
}
