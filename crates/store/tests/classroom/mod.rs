//! What every test of a store needs: a workshop, its seats made ready, learners who join.
#![allow(dead_code, reason = "each test binary uses its part")]

use clarateach_ids::{Generation, JoinCode, SeatNumber, SessionId, UserId, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted, WorkshopStatus};
use clarateach_store::{
    CodeHash, JoinDecision, JoinWish, NewWorkshop, SeatRecord, SeatWrite, SessionRecord, Store,
    WorkshopRecord, WorkshopWrite,
};
use jiff::Timestamp;

/// A time, in milliseconds since some morning.
pub(crate) fn at(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap()
}

pub(crate) fn n(seat: u32) -> SeatNumber {
    SeatNumber::new(seat).unwrap()
}

/// The hash of some code.
pub(crate) fn code(text: &str) -> CodeHash {
    CodeHash(*blake3::hash(text.as_bytes()).as_bytes())
}

pub(crate) fn new_workshop(seats: u32) -> NewWorkshop {
    NewWorkshop {
        id: WorkshopId::random(),
        owner: UserId::admin(),
        name: "Test Workshop".to_owned(),
        join_code: JoinCode::random(),
        seats,
        runtime: "simulated".to_owned(),
        image: "clarateach-workspace@sha256:00".to_owned(),
        env_names: vec!["API_KEY".to_owned(), "REGION".to_owned()],
        env_sealed: vec![1, 2, 3],
        memory_mb: 512,
        vcpus: 2,
        disk_mb: 1024,
        wanted: Wanted::Running,
        ends_at: None,
        now: at(0),
    }
}

pub(crate) async fn workshop(store: &dyn Store, seats: u32) -> WorkshopRecord {
    store.create_workshop(new_workshop(seats)).await.unwrap()
}

/// A write of one seat that stays in its generation.
pub(crate) fn seen(seat: u32, generation: u64, state: SeatState) -> SeatWrite {
    SeatWrite {
        seat: n(seat),
        generation: Generation(generation),
        next_generation: Generation(generation),
        state,
        reason: None,
        attempts: 0,
        retry_at: None,
        only_if_free: false,
    }
}

pub(crate) fn write_of(workshop: &WorkshopRecord, seats: Vec<SeatWrite>) -> WorkshopWrite {
    WorkshopWrite {
        id: workshop.id.clone(),
        wanted: Wanted::Running,
        status: None,
        reason: None,
        seats,
        fence: None,
        now: at(1),
    }
}

/// What the reconciler writes when these seats have become ready, in the generation that they have now.
pub(crate) async fn make_ready(
    store: &dyn Store,
    workshop: &WorkshopRecord,
    seats: impl IntoIterator<Item = u32>,
) -> Vec<SessionRecord> {
    let now = store.seats(&workshop.id).await.unwrap();
    let writes = seats
        .into_iter()
        .map(|seat| seen(seat, now[seat as usize - 1].0.generation.0, SeatState::Ready))
        .collect();
    let write = WorkshopWrite { status: Some(WorkshopStatus::Running), ..write_of(workshop, writes) };
    store.write_workshop(write).await.unwrap()
}

/// A newcomer with a browser of their own.
pub(crate) fn wish(workshop: &WorkshopRecord, learner: &str) -> JoinWish {
    let new_session = SessionId::random();
    JoinWish {
        join_code: workshop.join_code,
        new_code: code(new_session.as_str()),
        new_session,
        returning_code: None,
        client_id: Some(format!("browser of {learner}")),
        name: Some(learner.to_owned()),
        now: at(2),
    }
}

pub(crate) async fn join(store: &dyn Store, workshop: &WorkshopRecord, learner: &str) -> JoinDecision {
    store.join(wish(workshop, learner)).await.unwrap()
}

#[track_caller]
pub(crate) fn seated(decision: JoinDecision) -> (SessionRecord, SeatRecord) {
    match decision {
        JoinDecision::Seated { session, seat, .. } => (session, seat),
        other => panic!("not seated: {other:?}"),
    }
}

#[track_caller]
pub(crate) fn waiting(decision: JoinDecision) -> (SessionRecord, u32) {
    match decision {
        JoinDecision::Waiting { session, place, .. } => (session, place),
        other => panic!("not waiting: {other:?}"),
    }
}

/// The kinds of all events, oldest first.
pub(crate) async fn kinds(store: &dyn Store, workshop: &WorkshopRecord) -> Vec<String> {
    let events = store.events(&workshop.id, Default::default(), 100_000).await.unwrap();
    assert!(events.windows(2).all(|pair| pair[0].seq < pair[1].seq));
    events.into_iter().map(|event| event.kind).collect()
}

/// Everything of it goes.
pub(crate) async fn purge(store: &dyn Store, workshop: &WorkshopRecord) {
    store.set_wanted(&workshop.id, Wanted::Deleted, at(90)).await.unwrap();
    store.purge_workshop(&workshop.id, None).await.unwrap();
}
