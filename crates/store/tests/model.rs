//! Random histories of a workshop, against a model that is too simple to be wrong.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::collections::VecDeque;

use clarateach_ids::{Generation, SeatKey};
use clarateach_lifecycle::{EndReason, SeatState, SessionState, Wanted};
use clarateach_store::postgres::PostgresStore;
use clarateach_store::sqlite::SqliteStore;
use clarateach_store::{
    CodeHash, JoinDecision, JoinWish, NewWorkshop, SeatWrite, SessionRecord, Store, WorkshopRecord,
};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::skip;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use classroom::*;

const SEATS: u32 = 4;

/// What may happen. Indices are taken modulo what is there.
#[derive(Debug, Clone)]
enum Step {
    Join { client: Option<u8>, code: Option<u8> },
    End { session: u8 },
    Reset { seat: u32 },
    Write { seat: u32, stale: bool, renew: bool, only_if_free: bool, state: SeatState },
    Lock(bool),
    Want(Wanted),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let state = proptest::sample::select(SeatState::ALL);
    let step = prop_oneof![
        6 => (proptest::option::weighted(0.8, 0..7u8), proptest::option::weighted(0.3, any::<u8>()))
            .prop_map(|(client, code)| Step::Join { client, code }),
        2 => any::<u8>().prop_map(|session| Step::End { session }),
        1 => (1..=SEATS).prop_map(|seat| Step::Reset { seat }),
        4 => (1..=SEATS).prop_map(|seat| Step::Write {
            seat, stale: false, renew: false, only_if_free: false, state: SeatState::Ready,
        }),
        3 => (1..=SEATS, any::<bool>(), any::<bool>(), any::<bool>(), state).prop_map(
            |(seat, stale, renew, only_if_free, state)| Step::Write { seat, stale, renew, only_if_free, state }
        ),
        1 => any::<bool>().prop_map(Step::Lock),
        1 => proptest::sample::select(vec![Wanted::Running, Wanted::Stopped]).prop_map(Step::Want),
    ];
    proptest::collection::vec(step, 1..60)
}

#[derive(Debug)]
struct Learner {
    record: SessionRecord,
    code: CodeHash,
    client: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Seat {
    generation: u64,
    state: SeatState,
    was_ready: bool,
    holder: Option<usize>,
}

impl Seat {
    fn renewed(&self, holder: Option<usize>) -> Self {
        Self { generation: self.generation + 1, state: SeatState::Pending, was_ready: false, holder }
    }
}

/// What should be.
struct Model {
    wanted: Wanted,
    locked: bool,
    seats: Vec<Seat>,
    sessions: Vec<Learner>,
    line: VecDeque<usize>,
}

/// What a join should come to: the index of its session.
#[derive(Debug, PartialEq)]
enum Expected {
    Seated(usize),
    Waiting(usize, u32),
    NotRunning,
    Locked,
    Full,
    Ended(Option<EndReason>),
}

impl Model {
    fn join(&mut self, wish: &JoinWish) -> Expected {
        let alive = |learner: &Learner| learner.record.state != SessionState::Ended;
        let by_code = self.sessions.iter().position(|learner| Some(learner.code) == wish.returning_code);
        let by_client = self.sessions.iter().position(|learner| {
            alive(learner) && learner.client.is_some() && learner.client == wish.client_id
        });
        let known = match by_code {
            Some(i) if alive(&self.sessions[i]) => Some(i),
            Some(i) if by_client.is_none() => return Expected::Ended(self.sessions[i].record.end_reason),
            _ => by_client,
        };
        match self.wanted {
            Wanted::Created => return Expected::NotRunning,
            Wanted::Stopped | Wanted::Deleted => return Expected::Ended(None),
            Wanted::Running => {}
        }
        if let Some(i) = known {
            let learner = &mut self.sessions[i];
            if by_code != Some(i) {
                learner.code = wish.new_code;
            } else if learner.client.is_none() && by_client.is_none() {
                learner.client.clone_from(&wish.client_id);
            }
            return self.whereabouts(i);
        }
        if self.locked {
            return Expected::Locked;
        }
        let free = |seat: &Seat| seat.holder.is_none();
        let obtainable = self.seats.iter().filter(|s| free(s)).count();
        let ready = self.seats.iter().position(|s| free(s) && s.state == SeatState::Ready);
        let ready = ready.filter(|_| self.line.is_empty());
        if ready.is_none() && self.line.len() >= obtainable {
            return Expected::Full;
        }
        let i = self.sessions.len();
        self.sessions.push(Learner {
            record: SessionRecord {
                id: wish.new_session.clone(),
                workshop: "unused".parse().unwrap(),
                seat: None,
                state: SessionState::Waiting,
                end_reason: None,
                name: None,
                created_at: at(0),
                last_seen_at: at(0),
            },
            code: wish.new_code,
            client: wish.client_id.clone(),
        });
        match ready {
            Some(seat) => self.sit(i, seat),
            None => self.line.push_back(i),
        }
        self.whereabouts(i)
    }

    fn whereabouts(&self, i: usize) -> Expected {
        match self.line.iter().position(|j| *j == i) {
            Some(before) => Expected::Waiting(i, u32::try_from(before).unwrap() + 1),
            None => Expected::Seated(i),
        }
    }

    fn sit(&mut self, i: usize, seat: usize) {
        self.seats[seat].holder = Some(i);
        self.sessions[i].record.state = SessionState::Active;
        self.sessions[i].record.seat = Some(n(u32::try_from(seat).unwrap() + 1));
    }

    fn end(&mut self, i: usize) {
        let record = &mut self.sessions[i].record;
        if record.state == SessionState::Ended {
            return;
        }
        record.state = SessionState::Ended;
        record.end_reason = Some(EndReason::Evicted);
        self.line.retain(|j| *j != i);
        for seat in self.seats.iter_mut().filter(|seat| seat.holder == Some(i)) {
            *seat = seat.renewed(None);
        }
    }

    fn write(&mut self, write: &SeatWrite) -> Vec<usize> {
        let seat = &mut self.seats[write.seat.get() as usize - 1];
        let renews = write.next_generation > write.generation;
        let keeps = seat.holder.is_some() && ((renews && seat.was_ready) || write.only_if_free);
        if seat.generation == write.generation.0 && !keeps {
            seat.generation = write.next_generation.0;
            seat.state = write.state;
            let ready = matches!(write.state, SeatState::Ready | SeatState::Unreachable);
            seat.was_ready = ready || (seat.was_ready && !renews);
        }
        let mut seated = Vec::new();
        while self.wanted == Wanted::Running
            && let Some(first) = self.line.front().copied()
            && let Some(free) =
                self.seats.iter().position(|s| s.holder.is_none() && s.state == SeatState::Ready)
        {
            self.line.pop_front();
            self.sit(first, free);
            seated.push(first);
        }
        seated
    }

    fn want(&mut self, wanted: Wanted) {
        if wanted == Wanted::Running && self.wanted != Wanted::Running {
            for seat in &mut self.seats {
                *seat = seat.renewed(seat.holder);
            }
        }
        self.wanted = wanted;
    }
}

fn got(model: &Model, decision: &JoinDecision) -> Expected {
    let index = |session: &SessionRecord| {
        model.sessions.iter().position(|learner| learner.record.id == session.id).unwrap_or(usize::MAX)
    };
    match decision {
        JoinDecision::Seated { session, .. } => Expected::Seated(index(session)),
        JoinDecision::Waiting { session, place, .. } => Expected::Waiting(index(session), *place),
        JoinDecision::NotRunning => Expected::NotRunning,
        JoinDecision::Locked => Expected::Locked,
        JoinDecision::Full => Expected::Full,
        JoinDecision::Ended { reason } => Expected::Ended(*reason),
        JoinDecision::NotFound => panic!("the workshop is there"),
    }
}

/// That the store holds what the model holds, and nobody more or twice.
async fn compare(store: &dyn Store, workshop: &WorkshopRecord, model: &Model) {
    let seats = store.seats(&workshop.id).await.unwrap();
    let found: Vec<Seat> = seats
        .iter()
        .map(|(seat, holder)| Seat {
            generation: seat.generation.0,
            state: seat.state,
            was_ready: seat.was_ready,
            holder: holder
                .as_ref()
                .map(|h| model.sessions.iter().position(|learner| learner.record.id == h.id).unwrap()),
        })
        .collect();
    assert_eq!(found, model.seats);
    let counts = store.workshop_counts(&workshop.id).await.unwrap();
    assert_eq!(counts.waiting as usize, model.line.len());
    assert_eq!(counts.active as usize, found.iter().filter(|seat| seat.holder.is_some()).count());
    assert!(counts.active + counts.waiting <= SEATS);
    for (i, learner) in model.sessions.iter().enumerate() {
        let (session, _, seat, place) = store.session_by_code(&learner.code).await.unwrap();
        let expected = &learner.record;
        assert_eq!(
            (&session.id, session.state, session.end_reason, session.seat),
            (&expected.id, expected.state, expected.end_reason, expected.seat)
        );
        assert_eq!(seat.is_some(), session.state == SessionState::Active);
        assert_eq!(place.is_some(), session.state == SessionState::Waiting);
        if let Some(place) = place {
            assert_eq!(model.line[place as usize - 1], i, "the order of the line");
        }
    }
}

async fn live(store: &dyn Store, steps: &[Step]) {
    let new = NewWorkshop { wanted: Wanted::Created, ..new_workshop(SEATS) };
    let workshop = store.create_workshop(new).await.unwrap();
    let fresh = Seat { generation: 1, state: SeatState::Pending, was_ready: false, holder: None };
    let mut model = Model {
        wanted: Wanted::Created,
        locked: false,
        seats: vec![fresh; SEATS as usize],
        sessions: Vec::new(),
        line: VecDeque::new(),
    };
    for (i, step) in steps.iter().enumerate() {
        // Most histories are of a workshop that runs.
        if i == 1 && model.wanted == Wanted::Created {
            store.set_wanted(&workshop.id, Wanted::Running, at(1)).await.unwrap();
            model.want(Wanted::Running);
        }
        match step {
            Step::Join { client, code } => {
                let learners = model.sessions.len();
                let known =
                    code.filter(|_| learners > 0).map(|i| model.sessions[usize::from(i) % learners].code);
                let wish = JoinWish {
                    client_id: client.map(|client| format!("client {client}")),
                    returning_code: known,
                    ..wish(&workshop, "Learner")
                };
                let expected = model.join(&wish);
                let decision = store.join(wish).await.unwrap();
                assert_eq!(got(&model, &decision), expected);
            }
            Step::End { session } if !model.sessions.is_empty() => {
                let i = usize::from(*session) % model.sessions.len();
                model.end(i);
                let id = model.sessions[i].record.id.clone();
                store.end_session(&id, EndReason::Evicted, at(3)).await.unwrap();
            }
            Step::End { .. } => {}
            Step::Reset { seat } => {
                let key = SeatKey { workshop: workshop.id.clone(), seat: n(*seat) };
                store.reset_seat(&key, at(3)).await.unwrap();
                let seat = &mut model.seats[*seat as usize - 1];
                *seat = seat.renewed(seat.holder);
            }
            Step::Write { seat, stale, renew, only_if_free, state } => {
                let now = model.seats[*seat as usize - 1].generation;
                let generation = if *stale { now.saturating_sub(1) } else { now };
                let write = SeatWrite {
                    next_generation: Generation(generation + u64::from(*renew)),
                    only_if_free: *only_if_free,
                    ..seen(*seat, generation, *state)
                };
                let expected = model.write(&write);
                let seated = store.write_workshop(write_of(&workshop, vec![write])).await.unwrap();
                let seated: Vec<_> = seated.into_iter().map(|session| session.id).collect();
                let expected: Vec<_> =
                    expected.iter().map(|i| model.sessions[*i].record.id.clone()).collect();
                assert_eq!(seated, expected);
            }
            Step::Lock(locked) => {
                model.locked = *locked;
                store.set_locked(&workshop.id, *locked, at(3)).await.unwrap();
            }
            Step::Want(wanted) => {
                model.want(*wanted);
                store.set_wanted(&workshop.id, *wanted, at(3)).await.unwrap();
            }
        }
        compare(store, &workshop, &model).await;
    }
    purge(store, &workshop).await;
}

fn live_many_lives(store: &dyn Store, runtime: &tokio::runtime::Runtime, cases: u32) {
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    runner
        .run(&steps(), |steps| {
            runtime.block_on(live(store, &steps));
            Ok(())
        })
        .unwrap();
    runtime.block_on(store.close());
}

const TABLES: [&str; 5] = ["workshops", "seats", "sessions", "events", "event_counters"];

#[test]
fn a_workshop_lives_as_its_model() {
    // In memory where there is such a folder: what is tested here is not the disk.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = folder.path().join("model.db");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    live_many_lives(&SqliteStore::open(&path).unwrap(), &runtime, 150);
    let db = rusqlite::Connection::open(&path).unwrap();
    for table in TABLES {
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

#[test]
fn a_workshop_lives_as_its_model_in_postgresql() {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => return skip("a_workshop_lives_as_its_model_in_postgresql", &reason),
    };
    let url = postgres.database("model").parse().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(PostgresStore::connect(&url)).unwrap();
    live_many_lives(&store, &runtime, 40);
    for table in TABLES {
        assert_eq!(postgres.sql("model", &format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
}
