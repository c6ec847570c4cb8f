//! An installation moves from its SQLite file to PostgreSQL.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

mod classroom;

use std::path::Path;

use clarateach_ids::{EventSeq, Generation, KeyId, SeatKey, UserId};
use clarateach_lifecycle::{EndReason, SeatState, Wanted};
use clarateach_store::postgres::{PostgresStore, PostgresUrl};
use clarateach_store::sqlite::SqliteStore;
use clarateach_store::transfer::{TransferError, transfer};
use clarateach_store::{
    KeyRecord, NewWorkshop, Placement, SeatWrite, Store, TokenHash, UserRecord, WorkerRecord, WorkerSource,
    WorkerWish,
};
use clarateach_testkit::postgres::PrivatePostgres;
use clarateach_testkit::skip;
use jiff::SignedDuration;

use classroom::*;

/// Something of everything, and text that is hard to carry.
async fn fill(store: &dyn Store) {
    let ada = UserRecord { id: UserId::random(), name: "Ada \u{1f600} \\ \t'".to_owned(), created_at: at(5) };
    let ben = UserRecord { id: UserId::random(), name: "Ben".to_owned(), created_at: at(5) };
    store.create_user(ada.clone(), TokenHash([1; 32])).await.unwrap();
    store.create_user(ben, TokenHash([2; 32])).await.unwrap();
    let key = KeyRecord {
        id: KeyId::random(),
        installation: store.installation().await.unwrap(),
        sealed_private: (0..=255).collect(),
        public: [9; 32],
        created_at: at(0),
        signs_from: at(1),
        retired_at: None,
    };
    store.add_key(key.clone()).await.unwrap();
    store.add_key(KeyRecord { id: KeyId::random(), retired_at: Some(at(9)), ..key }).await.unwrap();
    for i in 0..3 {
        let new = NewWorkshop {
            owner: if i == 1 { ada.id.clone() } else { UserId::admin() },
            name: format!("Workshop \u{00fc} {i}\nzweite Zeile"),
            ends_at: (i == 2).then(|| at(99_000)),
            ..new_workshop(30)
        };
        let record = store.create_workshop(new).await.unwrap();
        make_ready(store, &record, 1..=20).await;
        for learner in 0..25 {
            let mut wish = wish(&record, &format!("Learner {learner}"));
            if learner == 3 {
                wish.name = Some("zero \0 byte".to_owned());
                wish.client_id = None;
            }
            store.join(wish).await.unwrap();
        }
        let (first, _) = seated(join(store, &record, "Learner 1").await);
        store.end_session(&first.id, EndReason::Evicted, at(7)).await.unwrap();
        let failed = SeatWrite {
            reason: Some(("IMAGE".to_owned(), "There is no such image.".to_owned())),
            attempts: 3,
            retry_at: Some(at(99)),
            ..seen(30, 1, SeatState::Failed)
        };
        store.write_workshop(write_of(&record, vec![failed])).await.unwrap();
        let worker = WorkerRecord {
            id: format!("w{i}"),
            address: format!("10.0.0.{i}:9090"),
            token_sealed: vec![0, 255, i],
            public_url: None,
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            capacity: (i == 0).then_some(40),
            tls: None,
            source: WorkerSource::Api,
            wish: WorkerWish::Active,
            kind: Some("qemu".to_owned()),
            created_at: at(1),
        };
        store.put_worker(worker).await.unwrap();
        let placement = Placement {
            key: SeatKey { workshop: record.id.clone(), seat: n(5) },
            generation: Generation(1),
            worker: format!("w{i}"),
        };
        store.place(None, placement).await.unwrap();
    }
    store.set_worker_wish("w2", WorkerWish::Forgotten).await.unwrap();
    let hour = SignedDuration::from_hours(1);
    store.acquire_lease("reconcile/0", "me", SignedDuration::ZERO, at(0)).await.unwrap().unwrap();
    store.acquire_lease("reconcile/0", "me", hour, at(0)).await.unwrap().unwrap();
}

/// All that a store tells.
async fn told(store: &dyn Store) -> String {
    let mut all = format!(
        "{:?}\n{:?}\n{:?}\n{:?}\n{:?}\n",
        store.installation().await.unwrap(),
        store.users().await.unwrap(),
        store.keys().await.unwrap().into_iter().map(|key| (key.id, key.sealed_private)).collect::<Vec<_>>(),
        store.workers().await.unwrap().into_iter().map(|w| (w.labels, w.token_sealed)).collect::<Vec<_>>(),
        store.placements(None).await.unwrap(),
    );
    for (workshop, counts) in store.workshops(None).await.unwrap() {
        all += &format!("{workshop:?} {counts:?}\n");
        all += &format!("{:?}\n", store.seats(&workshop.id).await.unwrap());
        all += &format!("{:?}\n", store.events(&workshop.id, EventSeq(0), 100_000).await.unwrap());
    }
    all
}

/// But for zero bytes, which PostgreSQL does not take in text, and text in events keeps.
#[track_caller]
fn same(one: &str, other: &str) {
    let (one, other) = (one.replace("\\0", "\u{fffd}"), other.replace("\\0", "\u{fffd}"));
    for (one, other) in one.lines().zip(other.lines()) {
        let differ = one.bytes().zip(other.bytes()).position(|(one, other)| one != other);
        if let Some(at) = differ {
            let around = at.saturating_sub(80)..at + 80;
            panic!("{:?}\n{:?}", one.get(around.clone()), other.get(around));
        }
    }
    assert_eq!(one.len(), other.len());
}

async fn filled(path: &Path) -> String {
    let store = SqliteStore::open(path).unwrap();
    fill(&store).await;
    let told = told(&store).await;
    store.close().await;
    told
}

fn server(test: &str) -> Option<PrivatePostgres> {
    match PrivatePostgres::start() {
        Ok(postgres) => Some(postgres),
        Err(reason) => {
            skip(test, &reason);
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_moved_and_goes_on() {
    let Some(postgres) = server("everything_is_moved_and_goes_on") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    let before = filled(&path).await;
    let url: PostgresUrl = postgres.database("teach").parse().unwrap();
    let moved = transfer(&path, &url).await.unwrap();
    assert!(!moved.was_there);
    let rows = |name| moved.tables.iter().find(|table| table.table == name).unwrap().rows;
    assert_eq!((rows("installation"), rows("workshops"), rows("seats"), rows("sessions")), (1, 3, 90, 75));
    assert_eq!((rows("users"), rows("keys"), rows("workers"), rows("leases")), (2, 2, 3, 1));
    assert!(rows("events") > 200 && rows("placements") == 2);

    // Again: it is there already. What was moved is as it was, but for bytes that PostgreSQL does not take.
    let again = transfer(&path, &url).await.unwrap();
    assert!(again.was_there);
    assert_eq!(again.tables, moved.tables);
    let store = PostgresStore::connect(&url).await.unwrap();
    same(&told(&store).await, &before);

    // Life goes on: lines, seats, ids, numbers of events, tokens of leases.
    let (record, counts) = store.workshops(None).await.unwrap().remove(0);
    assert!(counts.waiting > 0);
    let last = store.events(&record.id, EventSeq(0), 100_000).await.unwrap().last().unwrap().seq;
    let seated = make_ready(&store, &record, [21]).await;
    assert_eq!(seated.len(), 1);
    let next = store.events(&record.id, last, 100_000).await.unwrap();
    assert_eq!(next[0].seq.0, last.0 + 1);
    // The hour began in SQLite's idea of time, long from now for PostgreSQL's: only its holder has it.
    let hour = SignedDuration::from_hours(1);
    assert_eq!(store.acquire_lease("reconcile/0", "you", hour, at(0)).await.unwrap(), None);
    assert_eq!(store.acquire_lease("reconcile/0", "me", hour, at(0)).await.unwrap().unwrap().token, 2);
    workshop(&store, 2).await;
    store.close().await;

    // Now it is another one, and stays that.
    let refused = transfer(&path, &url).await.unwrap_err();
    assert!(matches!(refused, TransferError::NotEmpty { .. }), "{refused}");
    // And the file is as good as before.
    let store = SqliteStore::open(&path).unwrap();
    same(&told(&store).await, &before);
    store.set_wanted(&record.id, Wanted::Stopped, at(9)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_use_or_missing_is_left_alone() {
    let Some(mut postgres) = server("what_is_in_use_or_missing_is_left_alone") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("clarateach.db");
    let url: PostgresUrl = postgres.database("teach").parse().unwrap();
    let refused = transfer(&path, &url).await.unwrap_err();
    assert!(matches!(refused, TransferError::NoSource { .. }), "{refused}");
    assert!(!path.exists());

    let before = filled(&path).await;
    let running = SqliteStore::open(&path).unwrap();
    let refused = transfer(&path, &url).await.unwrap_err();
    let why = std::error::Error::source(&refused).unwrap().to_string();
    assert!(why.contains("in use by another server"), "{refused}: {why}");
    running.close().await;
    drop(running);

    // A server has been started on the target.
    let other = PostgresStore::connect(&url).await.unwrap();
    other.note_replica("somebody", SignedDuration::from_secs(30), at(0)).await.unwrap();
    let refused = transfer(&path, &url).await.unwrap_err();
    assert!(matches!(refused, TransferError::InUse { .. }), "{refused}");
    other.close().await;
    postgres.sql("teach", "DELETE FROM replicas");

    // Interrupted at whatever point, nothing is there; and then it goes on.
    postgres.sql("teach", "ALTER TABLE placements ADD CONSTRAINT never CHECK (worker = 'nobody')");
    let refused = transfer(&path, &url).await.unwrap_err();
    assert!(matches!(refused, TransferError::Write { table: "placements", .. }), "{refused}");
    for table in ["users", "keys", "workshops", "sessions", "seats", "events", "workers"] {
        assert_eq!(postgres.sql("teach", &format!("SELECT count(*) FROM {table}")), "0", "{table}");
    }
    postgres.sql("teach", "ALTER TABLE placements DROP CONSTRAINT never");
    postgres.kill();
    let refused = transfer(&path, &url).await.unwrap_err();
    assert!(matches!(refused, TransferError::Target(_)), "{refused}");
    postgres.resume();
    assert!(!transfer(&path, &url).await.unwrap().was_there);
    let store = PostgresStore::connect(&url).await.unwrap();
    same(&told(&store).await, &before);
}
