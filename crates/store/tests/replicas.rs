//! Two servers on one PostgreSQL database.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use clarateach_ids::{EventSeq, WorkshopId};
use clarateach_lifecycle::SeatState;
use clarateach_store::postgres::PostgresStore;
use clarateach_store::{JoinDecision, NewEvent, Store, StoreError, WorkshopWrite};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::{skip, wait_for};
use jiff::SignedDuration;
use tokio::sync::broadcast;

use classroom::*;

const PATIENCE: Duration = Duration::from_secs(20);

struct Two {
    postgres: PrivatePostgres,
    a: Arc<PostgresStore>,
    b: Arc<PostgresStore>,
}

/// `None` where there is no PostgreSQL.
async fn two(test: &str) -> Option<Two> {
    let postgres = match PrivatePostgres::start() {
        Ok(postgres) => postgres,
        Err(reason) => {
            skip(test, &reason);
            return None;
        }
    };
    let url = postgres.database("shared").parse().unwrap();
    // At once: one of them migrates, the other waits for it.
    let (a, b) = tokio::join!(PostgresStore::connect(&url), PostgresStore::connect(&url));
    Some(Two { postgres, a: Arc::new(a.unwrap()), b: Arc::new(b.unwrap()) })
}

async fn wakes_for(receiver: &mut broadcast::Receiver<WorkshopId>, id: &WorkshopId) {
    let woken = async { while receiver.recv().await.unwrap() != *id {} };
    tokio::time::timeout(PATIENCE, woken).await.expect("the other replica hears of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_that_start_at_once_share_one_installation() {
    let Some(Two { postgres, a, b }) = two("replicas_that_start_at_once_share_one_installation").await else {
        return;
    };
    assert_eq!(a.installation().await.unwrap(), b.installation().await.unwrap());
    let url = postgres.url("shared").parse().unwrap();
    let more = futures_util::future::join_all((0..6).map(|_| PostgresStore::connect(&url))).await;
    for store in more {
        let store = store.unwrap();
        assert_eq!(store.installation().await.unwrap(), a.installation().await.unwrap());
        store.close().await;
    }
    assert_eq!(postgres.sql("shared", "SELECT count(*) FROM clarateach_migrations WHERE version = 1"), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_at_two_doors_is_seated_once() {
    let Some(Two { a, b, postgres }) = two("a_crowd_at_two_doors_is_seated_once").await else { return };
    for ready in [true, false] {
        let record = workshop(&*a, 50).await;
        if ready {
            make_ready(&*b, &record, 1..=50).await;
        }
        let joins = (0..200).map(|i| {
            let (store, record) = (Arc::clone(if i % 2 == 0 { &a } else { &b }), record.clone());
            tokio::spawn(async move { join(&*store, &record, &format!("Learner {i}")).await })
        });
        let (mut seats, mut places, mut full) = (HashSet::new(), HashSet::new(), 0);
        for decision in futures_util::future::join_all(joins.collect::<Vec<_>>()).await {
            match decision.unwrap() {
                JoinDecision::Seated { seat, .. } => {
                    assert!(seats.insert(seat.key.seat), "one seat, two learners");
                }
                JoinDecision::Waiting { place, .. } => {
                    assert!(places.insert(place), "one place, two learners");
                }
                JoinDecision::Full => full += 1,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((seats.len(), places.len(), full), if ready { (50, 0, 150) } else { (0, 50, 150) });
        if !ready {
            // Both reconcile at the same time; who waited first sits first.
            let line =
                postgres.sql("shared", "SELECT id FROM sessions WHERE state = 'waiting' ORDER BY line");
            let write = |seat| write_of(&record, vec![seen(seat, 1, SeatState::Ready)]);
            let writes = (1..=50).map(|seat| {
                let (store, write) = (Arc::clone(if seat % 2 == 0 { &a } else { &b }), write(seat));
                tokio::spawn(async move { store.write_workshop(write).await.unwrap() })
            });
            let seated = futures_util::future::join_all(writes.collect::<Vec<_>>()).await;
            assert_eq!(seated.into_iter().map(|seated| seated.unwrap().len()).sum::<usize>(), 50);
            let order =
                "SELECT data::json ->> 'session' FROM events WHERE kind = 'session.seated' ORDER BY seq";
            assert_eq!(postgres.sql("shared", order), line, "first come, first served");
        }
        let events = a.events(&record.id, EventSeq(0), 10_000).await.unwrap();
        assert!(events.iter().map(|event| event.seq.0).eq(1..=events.len() as u64), "numbered without gaps");
        assert_eq!(events, b.events(&record.id, EventSeq(0), 10_000).await.unwrap());
        purge(&*b, &record).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_impatient_learner_at_two_doors_gets_one_seat() {
    let Some(Two { a, b, postgres: _running }) = two("an_impatient_learner_at_two_doors_gets_one_seat").await
    else {
        return;
    };
    let record = workshop(&*a, 5).await;
    make_ready(&*a, &record, 1..=5).await;
    let joins = (0..40).map(|i| {
        let (store, record) = (Arc::clone(if i % 2 == 0 { &a } else { &b }), record.clone());
        tokio::spawn(async move { seated(join(&*store, &record, "Ada").await).0.id })
    });
    let sessions = futures_util::future::join_all(joins.collect::<Vec<_>>()).await;
    assert_eq!(sessions.into_iter().map(Result::unwrap).collect::<HashSet<_>>().len(), 1);
    let counts = b.workshop_counts(&record.id).await.unwrap();
    assert_eq!((counts.ready, counts.occupied), (4, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_lost_its_lease_changes_nothing() {
    let Some(Two { a, b, postgres: _running }) = two("a_replica_that_lost_its_lease_changes_nothing").await
    else {
        return;
    };
    let record = workshop(&*a, 1).await;
    // Both ask all the time, with clocks that are an hour apart: one of them has it at any time.
    let short = SignedDuration::from_millis(300);
    let lease = a.acquire_lease("reconcile/0", "a", short, at(0)).await.unwrap().unwrap();
    let hour_later = at(3_600_000);
    assert_eq!(b.acquire_lease("reconcile/0", "b", short, hour_later).await.unwrap(), None);
    let taken = wait_for("the lease to expire", PATIENCE, || async {
        b.acquire_lease("reconcile/0", "b", short, at(0)).await.unwrap()
    })
    .await;
    assert_eq!(taken.token, lease.token + 1);
    let write =
        |fence| WorkshopWrite { fence: Some(fence), ..write_of(&record, vec![seen(1, 1, SeatState::Ready)]) };
    let refused = a.write_workshop(write(lease.fence())).await;
    assert!(matches!(refused, Err(StoreError::Fenced { .. })), "{refused:?}");
    assert_eq!(b.seats(&record.id).await.unwrap()[0].0.state, SeatState::Pending);
    b.write_workshop(write(taken.fence())).await.unwrap();
    assert_eq!(a.seats(&record.id).await.unwrap()[0].0.state, SeatState::Ready);
}

/// Whatever two replicas do at once, what was written on a lease was written while it was held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_never_go_back_while_two_fight_for_a_lease() {
    let Some(Two { a, b, postgres }) = two("tokens_never_go_back_while_two_fight_for_a_lease").await else {
        return;
    };
    let record = workshop(&*a, 1).await;
    let fighters = [("a", &a), ("b", &b)].map(|(name, store)| {
        let (store, record) = (Arc::clone(store), record.clone());
        tokio::spawn(async move {
            let (mut had, mut wrote) = (0, 0);
            for i in 0..150 {
                let ttl = SignedDuration::from_millis(i % 7);
                let Some(lease) = store.acquire_lease("fought for", name, ttl, at(0)).await.unwrap() else {
                    continue;
                };
                had += 1;
                let write = WorkshopWrite {
                    reason: Some((format!("{}", lease.token), name.to_owned())),
                    status: Some(clarateach_lifecycle::WorkshopStatus::Running),
                    fence: Some(lease.fence()),
                    ..write_of(&record, vec![])
                };
                match store.write_workshop(write).await {
                    Ok(_) => wrote += 1,
                    Err(StoreError::Fenced { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            (had, wrote)
        })
    });
    for fighter in fighters {
        let (had, wrote) = fighter.await.unwrap();
        assert!(had > 0 && wrote > 0, "{had} {wrote}");
    }
    let tokens =
        "SELECT data::json ->> 'reason_code' FROM events WHERE kind = 'workshop.running' ORDER BY seq";
    let tokens: Vec<u64> =
        postgres.sql("shared", tokens).lines().map(|token| token.parse().unwrap()).collect();
    assert!(tokens.len() > 2 && tokens.is_sorted(), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_wake_the_other_replica_also_after_its_ear_was_lost() {
    let Some(Two { a, b, postgres }) = two("events_wake_the_other_replica_also_after_its_ear_was_lost").await
    else {
        return;
    };
    let (mut at_a, mut at_b) = (a.event_wakes(), b.event_wakes());
    let record = workshop(&*a, 1).await;
    wakes_for(&mut at_a, &record.id).await;
    wakes_for(&mut at_b, &record.id).await;

    // Its own events wake a store once.
    let event = || NewEvent {
        workshop: record.id.clone(),
        kind: "test".to_owned(),
        data: serde_json::json!({}),
        now: at(1),
    };
    b.add_event(event()).await.unwrap();
    wakes_for(&mut at_a, &record.id).await;
    wakes_for(&mut at_b, &record.id).await;
    a.add_event(event()).await.unwrap();
    wakes_for(&mut at_b, &record.id).await;
    wakes_for(&mut at_a, &record.id).await;
    assert!(matches!(at_a.try_recv(), Err(broadcast::error::TryRecvError::Empty)));
    assert!(matches!(at_b.try_recv(), Err(broadcast::error::TryRecvError::Empty)));

    // While nobody listens something happens: whoever comes back looks at everything.
    let ears = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    assert_eq!(postgres.sql("shared", ears), "2");
    a.add_event(event()).await.unwrap();
    wakes_for(&mut at_b, &record.id).await;
    // And hears again.
    let again = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'";
    wait_for("both to listen again", PATIENCE, || async {
        (postgres.sql("shared", again) == "2").then_some(())
    })
    .await;
    let other = workshop(&*a, 1).await;
    wakes_for(&mut at_b, &other.id).await;
    let third = workshop(&*b, 1).await;
    wakes_for(&mut at_a, &third.id).await;
}
