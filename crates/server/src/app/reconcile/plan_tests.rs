//! The plan against a world that fails at random: whatever happened, it converges, and never takes what it must not.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{Generation, JoinCode, SeatKey, SeatNumber, UserId, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted, WorkshopStatus};
use clarateach_runtime::{Environment, EnvironmentState, Reason};
use clarateach_store::{SeatRecord, WorkshopRecord};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::plan::{Action, Failures, ImageState, Plan, Sight, plan};

const SEATS: u32 = 4;

/// A store and a runtime in one, as small as can be.
#[derive(Debug)]
struct World {
    workshop: WorkshopRecord,
    seats: Vec<(SeatRecord, bool)>,
    environments: BTreeMap<u32, Environment>,
    failures: Failures,
    /// Makes that their worker has written down it is never to make.
    refused: BTreeSet<(u32, Generation)>,
    now: Timestamp,
    image: ImageState,
    purged: bool,
}

impl World {
    fn new() -> Self {
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let id: WorkshopId = "w".parse().unwrap();
        let seat = |n: u32| SeatRecord {
            key: SeatKey { workshop: id.clone(), seat: SeatNumber::new(n).unwrap() },
            generation: Generation(1),
            state: SeatState::Pending,
            was_ready: false,
            reason: None,
            attempts: 0,
            retry_at: None,
        };
        Self {
            seats: (1..=SEATS).map(|n| (seat(n), false)).collect(),
            workshop: WorkshopRecord {
                id,
                owner: UserId::admin(),
                name: "w".to_owned(),
                join_code: JoinCode::random(),
                seats: SEATS,
                runtime: "simulated".to_owned(),
                image: "i".to_owned(),
                env_names: Vec::new(),
                env_sealed: Vec::new(),
                memory_mb: 1,
                vcpus: 1,
                disk_mb: 1,
                wanted: Wanted::Running,
                status: WorkshopStatus::Created,
                reason: None,
                locked: false,
                ends_at: None,
                created_at: now,
            },
            environments: BTreeMap::new(),
            failures: Failures::new(),
            refused: BTreeSet::new(),
            now,
            image: ImageState::Ready,
            purged: false,
        }
    }

    fn look(&mut self) -> Plan {
        let environments: Vec<_> = self.environments.values().cloned().collect();
        let failures = std::mem::take(&mut self.failures);
        plan(&Sight {
            workshop: &self.workshop,
            seats: &self.seats,
            environments: &environments,
            in_flight: &BTreeSet::new(),
            failures: &failures,
            leaving: &BTreeSet::new(),
            image: self.image.clone(),
            now: self.now,
        })
    }

    /// One look, written down and carried out; `works` says whether an apply does.
    fn step(&mut self, works: bool) {
        let decided = self.look();
        for write in &decided.seats {
            let (seat, held) = &mut self.seats[write.seat.get() as usize - 1];
            assert!(write.next_generation >= seat.generation, "a generation never goes back");
            if write.only_if_free && *held {
                continue;
            }
            let renews = write.next_generation > seat.generation;
            let refused = self.refused.contains(&(seat.key.seat.get(), seat.generation));
            assert!(
                !(*held && renews) || (!seat.was_ready && refused),
                "a held seat is made anew: {write:?}, {seat:?}"
            );
            seat.was_ready = write.state.has_been_ready() || (seat.was_ready && !renews);
            seat.generation = write.next_generation;
            seat.state = write.state;
            seat.reason.clone_from(&write.reason);
            seat.attempts = write.attempts;
            seat.retry_at = write.retry_at;
        }
        if let Some(status) = decided.status {
            self.workshop.status = status;
            self.workshop.reason = decided.reason;
        }
        for action in decided.actions {
            match action {
                Action::Remove(key, _) => drop(self.environments.remove(&key.seat.get())),
                Action::Apply(seat, generation) if self.refused.contains(&(seat.get(), generation)) => {
                    self.failures.insert((seat, generation), Reason::new("STALE_GENERATION", "never"));
                }
                Action::Apply(seat, generation) if works => {
                    let there = self.environments.get(&seat.get());
                    assert!(there.is_none_or(|e| e.generation <= generation), "an apply is never stale");
                    self.environments
                        .insert(seat.get(), environment(seat, generation, EnvironmentState::Starting));
                }
                Action::Apply(seat, generation) => {
                    self.failures.insert((seat, generation), Reason::new("RUNTIME_FAILED", "no"));
                }
            }
        }
        self.purged |= decided.purge;
        self.now += SignedDuration::from_secs(1);
    }

    /// The world is kind from now on.
    fn settle(&mut self) {
        self.image = ImageState::Ready;
        for _ in 0..400 {
            for environment in self.environments.values_mut() {
                if matches!(environment.state, EnvironmentState::Starting | EnvironmentState::Unresponsive) {
                    environment.state = EnvironmentState::Ready;
                }
            }
            self.step(true);
        }
    }
}

/// As the store does it when a person asks for it, or its session has ended.
fn renew(seat: &mut SeatRecord) {
    seat.generation = seat.generation.next();
    seat.state = SeatState::Pending;
    seat.was_ready = false;
    (seat.reason, seat.attempts, seat.retry_at) = (None, 0, None);
}

fn environment(seat: SeatNumber, generation: Generation, state: EnvironmentState) -> Environment {
    Environment {
        key: SeatKey { workshop: "w".parse().unwrap(), seat },
        generation,
        state,
        reason: None,
        address: None,
        handle: None,
        not_after: None,
    }
}

#[derive(Debug, Clone)]
enum Event {
    Look { works: bool },
    Becomes(u32, EnvironmentState),
    Vanishes(u32),
    Sits(u32),
    Leaves(u32),
    Image(bool),
    RuntimeIsAhead(u32),
    Resets(u32),
    IsRefused(u32),
    Later(i64),
}

fn events() -> impl Strategy<Value = Event> {
    let seat = 1..=SEATS;
    let state = prop_oneof![
        Just(EnvironmentState::Starting),
        Just(EnvironmentState::Ready),
        Just(EnvironmentState::Unresponsive),
        Just(EnvironmentState::Stopped),
        Just(EnvironmentState::Failed),
        Just(EnvironmentState::Removing),
    ];
    prop_oneof![
        4 => any::<bool>().prop_map(|works| Event::Look { works }),
        4 => (seat.clone(), state).prop_map(|(n, state)| Event::Becomes(n, state)),
        1 => seat.clone().prop_map(Event::Vanishes),
        2 => seat.clone().prop_map(Event::Sits),
        1 => seat.clone().prop_map(Event::Leaves),
        1 => any::<bool>().prop_map(Event::Image),
        1 => seat.clone().prop_map(Event::RuntimeIsAhead),
        1 => seat.clone().prop_map(Event::Resets),
        1 => seat.prop_map(Event::IsRefused),
        1 => (1..120i64).prop_map(Event::Later),
    ]
}

fn happen(world: &mut World, event: &Event) {
    match event {
        Event::Look { works } => world.step(*works),
        Event::Becomes(n, state) => {
            if let Some(environment) = world.environments.get_mut(n) {
                environment.state = *state;
            }
        }
        Event::Vanishes(n) => drop(world.environments.remove(n)),
        Event::Sits(n) => {
            let (seat, held) = &mut world.seats[*n as usize - 1];
            *held |= seat.state == SeatState::Ready;
        }
        Event::Leaves(n) => {
            let (seat, held) = &mut world.seats[*n as usize - 1];
            if std::mem::take(held) {
                renew(seat);
            }
        }
        Event::Resets(n) => renew(&mut world.seats[*n as usize - 1].0),
        // It had no room, and has written down that it is never to make this.
        Event::IsRefused(n) => {
            let seat = &world.seats[*n as usize - 1].0;
            if world.environments.get(n).is_none_or(|e| e.generation < seat.generation) {
                world.refused.insert((*n, seat.generation));
            }
        }
        Event::Image(ready) => {
            world.image = if *ready {
                ImageState::Ready
            } else {
                ImageState::Failed(Reason::new("IMAGE_NOT_FOUND", "no such image"))
            };
        }
        Event::RuntimeIsAhead(n) => {
            let held = world.seats[*n as usize - 1].1;
            if let Some(environment) = world.environments.get_mut(n).filter(|_| !held) {
                environment.generation = environment.generation.next();
                world.refused.remove(&(*n, environment.generation));
                world.step(true);
            }
        }
        Event::Later(seconds) => world.now += SignedDuration::from_secs(*seconds),
    }
}

proptest! {
    #[test]
    fn whatever_happened_it_converges(history in prop::collection::vec(events(), 0..60)) {
        let mut world = World::new();
        for event in &history {
            happen(&mut world, event);
        }
        // An environment that someone is still removing goes away in the end.
        world.environments.retain(|_, e| e.state != EnvironmentState::Removing);
        world.settle();
        for (seat, held) in &mut world.seats {
            if seat.reason.as_ref().is_some_and(|(code, _)| code == "DISK_GONE") {
                prop_assert!(*held && seat.state == SeatState::Unreachable, "{:?}", seat);
                prop_assert!(!world.environments.contains_key(&seat.key.seat.get()), "made anew unasked");
                // A person resets it.
                renew(seat);
            }
        }
        world.settle();
        prop_assert_eq!(world.workshop.status, WorkshopStatus::Running);
        for (seat, _) in &world.seats {
            prop_assert_eq!(seat.state, SeatState::Ready, "{:?}", seat);
            prop_assert_eq!(world.environments[&seat.key.seat.get()].generation, seat.generation);
        }
        let again = world.look();
        prop_assert_eq!(again, Plan::default(), "a settled workshop is left alone");
    }

    #[test]
    fn whatever_happened_nothing_is_left(history in prop::collection::vec(events(), 0..60)) {
        let mut world = World::new();
        for event in &history {
            happen(&mut world, event);
        }
        world.workshop.wanted = Wanted::Deleted;
        prop_assert!(!world.look().purge || world.environments.is_empty());
        for _ in 0..3 {
            world.step(true);
        }
        prop_assert!(world.environments.is_empty());
        prop_assert!(world.purged);
    }
}

#[test]
fn a_held_seat_whose_environment_ends_is_restarted_in_place_at_once() {
    let mut world = World::new();
    world.settle();
    world.seats[0].1 = true;
    let generation = world.seats[0].0.generation;
    world.environments.get_mut(&1).unwrap().state = EnvironmentState::Stopped;
    let decided = world.look();
    assert_eq!(decided.actions, [Action::Apply(SeatNumber::new(1).unwrap(), generation)]);
    assert_eq!(decided.seats[0].state, SeatState::Unreachable);
    assert_eq!(decided.seats[0].next_generation, generation);
}

#[test]
fn a_held_seat_of_which_nothing_is_left_waits_for_a_person() {
    let mut world = World::new();
    world.settle();
    world.seats[0].1 = true;
    world.environments.remove(&1);
    world.environments.remove(&2);
    let decided = world.look();
    let of = |n: u32| decided.seats.iter().find(|write| write.seat.get() == n).unwrap();
    assert_eq!(of(1).reason.as_ref().unwrap().0, "DISK_GONE");
    assert_eq!(of(1).next_generation, of(1).generation);
    assert_eq!(of(2).next_generation, of(2).generation.next(), "a free seat is made anew");
    assert_eq!(decided.actions, []);
}

#[test]
fn a_free_seat_that_keeps_failing_is_shown_as_failed_and_tried_ever_more_slowly() {
    let mut world = World::new();
    let mut tries = 0;
    for _ in 0..600 {
        let before = world.failures.len();
        world.step(false);
        tries += world.failures.len() - before.min(world.failures.len());
    }
    assert!(world.seats.iter().all(|(seat, _)| seat.state == SeatState::Failed));
    assert_eq!(world.workshop.status, WorkshopStatus::Error);
    assert!(world.workshop.reason.is_some());
    assert!(tries < 20 * SEATS as usize, "{tries}");
    world.settle();
    assert_eq!(world.workshop.status, WorkshopStatus::Running);
}

#[test]
fn a_seat_that_failed_says_when_there_is_nobody_to_try_it_again() {
    let mut world = World::new();
    while world.seats[0].0.state != SeatState::Failed {
        world.step(false);
    }
    let shown = |world: &World| {
        let (seat, _) = &world.seats[0];
        (seat.state, seat.reason.as_ref().map(|(code, _)| code.clone()))
    };
    assert_eq!(shown(&world), (SeatState::Failed, Some("RUNTIME_FAILED".to_owned())));
    // Its last worker is given up.
    world.now += SignedDuration::from_mins(2);
    for _ in 0..5 {
        for (seat, _) in &world.seats {
            let nobody = Reason::new("RUNTIME_UNAVAILABLE", "There is no worker.");
            world.failures.insert((seat.key.seat, seat.generation), nobody);
        }
        world.step(false);
        assert_eq!(shown(&world), (SeatState::Failed, Some("RUNTIME_UNAVAILABLE".to_owned())));
    }
    world.failures.clear();
    world.settle();
    assert_eq!(shown(&world), (SeatState::Ready, None));
}

#[test]
fn an_image_that_cannot_be_had_makes_the_workshop_an_error_that_says_so() {
    let mut world = World::new();
    world.image = ImageState::Failed(Reason::new("IMAGE_NOT_FOUND", "no such image"));
    world.step(true);
    world.step(true);
    assert_eq!(world.workshop.status, WorkshopStatus::Error);
    assert_eq!(world.workshop.reason.as_ref().unwrap().0, "IMAGE_NOT_FOUND");
    assert!(world.environments.is_empty());
}

#[test]
fn of_several_environments_of_a_seat_the_newest_is_its_own() {
    let mut world = World::new();
    world.seats.truncate(1);
    world.seats[0].0.generation = Generation(2);
    (world.seats[0].0.state, world.seats[0].0.was_ready) = (SeatState::Ready, true);
    world.workshop.seats = 1;
    let seat = SeatNumber::new(1).unwrap();
    let mut environments =
        [1, 2].map(|generation| environment(seat, Generation(generation), EnvironmentState::Ready));
    for _ in 0..2 {
        let decided = plan(&Sight {
            workshop: &world.workshop,
            seats: &world.seats,
            environments: &environments,
            in_flight: &BTreeSet::new(),
            failures: &Failures::new(),
            leaving: &BTreeSet::new(),
            image: ImageState::Ready,
            now: world.now,
        });
        assert_eq!((decided.seats, decided.actions), (Vec::new(), Vec::new()));
        environments.reverse();
    }
}

#[test]
fn a_held_seat_that_was_reset_is_tried_until_it_comes_up() {
    let mut world = World::new();
    world.settle();
    world.seats[0].1 = true;
    // Its first three starts fail.
    renew(&mut world.seats[0].0);
    for _ in 0..3 {
        let mut tried = 0;
        for _ in 0..120 {
            world.step(true);
            let ours = world.environments.get_mut(&1).unwrap();
            if ours.generation == world.seats[0].0.generation && ours.state == EnvironmentState::Starting {
                ours.state = EnvironmentState::Failed;
                tried += 1;
            }
        }
        assert!((1..20).contains(&tried), "{tried}");
    }
    assert_eq!(world.seats[0].0.state, SeatState::Failed);
    let generation = world.seats[0].0.generation;
    world.settle();
    assert_eq!(
        (world.seats[0].0.state, world.seats[0].0.generation),
        (SeatState::Ready, generation),
        "it comes up where it is"
    );
}

#[test]
fn a_held_seat_that_was_never_ready_is_made_anew_when_its_worker_is_never_to_make_it() {
    let mut world = World::new();
    world.settle();
    world.seats[0].1 = true;
    renew(&mut world.seats[0].0);
    let refused = world.seats[0].0.generation;
    world.refused.insert((1, refused));
    world.settle();
    let seat = &world.seats[0].0;
    assert_eq!((seat.state, seat.generation), (SeatState::Ready, refused.next()), "once, and not again");
}

#[test]
fn a_held_seat_that_was_ready_keeps_its_make_whatever_its_worker_says() {
    let mut world = World::new();
    world.settle();
    world.seats[0].1 = true;
    let generation = world.seats[0].0.generation;
    world.refused.insert((1, generation));
    for _ in 0..200 {
        world.environments.get_mut(&1).unwrap().state = EnvironmentState::Stopped;
        world.step(true);
    }
    let seat = &world.seats[0].0;
    assert_eq!((seat.state, seat.generation), (SeatState::Unreachable, generation));
    // Not even where only the record of its having been ready is left.
    world.seats[0].0.state = SeatState::Pending;
    world.seats[0].0.retry_at = None;
    world.environments.remove(&1);
    for _ in 0..200 {
        world.step(true);
    }
    assert_eq!(world.seats[0].0.generation, generation);
}
