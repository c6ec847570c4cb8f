use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::Wanted;
use clarateach_store::{Placement, Store, StoreError, WorkerRecord, WorkerSource, WorkerWish};

use super::reconciling::all;
use crate::classroom::*;

fn worker(id: &str, address: &str) -> WorkerRecord {
    WorkerRecord {
        id: id.to_owned(),
        address: address.to_owned(),
        token_sealed: vec![7, 8, 9],
        public_url: Some("https://one.example".to_owned()),
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        capacity: Some(40),
        tls: Some("-----BEGIN CERTIFICATE-----".to_owned()),
        source: WorkerSource::Setting,
        wish: WorkerWish::Active,
        kind: None,
        created_at: at(1),
    }
}

fn placement(workshop: &WorkshopId, seat: u32, generation: u64, worker: &str) -> Placement {
    let key = SeatKey { workshop: workshop.clone(), seat: n(seat) };
    Placement { key, generation: Generation(generation), worker: worker.to_owned() }
}

async fn two_workers(store: &dyn Store) {
    for id in ["w1", "w2"] {
        store.put_worker(worker(id, &format!("{id}.example:9090"))).await.unwrap();
    }
}

async fn no_workers(store: &dyn Store) {
    for worker in store.workers().await.unwrap() {
        store.remove_worker(&worker.id).await.unwrap();
    }
    assert_eq!(store.workers().await.unwrap(), []);
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict { .. })), "{result:?}");
}

pub(crate) async fn workers_are_recorded_as_given(store: &dyn Store) {
    let given = worker("w1", "w1.example:9090");
    assert_eq!(store.put_worker(given.clone()).await.unwrap(), given);
    let bare = WorkerRecord {
        public_url: None,
        labels: Default::default(),
        capacity: None,
        tls: None,
        source: WorkerSource::Gcp,
        kind: Some("qemu".to_owned()),
        ..worker("a-first", "10.0.0.2:9090")
    };
    store.put_worker(bare.clone()).await.unwrap();
    assert_eq!(store.workers().await.unwrap(), [bare.clone(), given.clone()]);

    // Given again: what is told later wins, but for when it came, what is wanted of it, and what was seen of it.
    store.note_worker_kind("w1", "firecracker").await.unwrap();
    store.note_worker_kind("nobody", "firecracker").await.unwrap();
    store.set_worker_wish("w1", WorkerWish::Draining).await.unwrap();
    let again = WorkerRecord {
        address: "w1.example:9191".to_owned(),
        token_sealed: vec![1],
        source: WorkerSource::Api,
        created_at: at(50),
        ..given.clone()
    };
    let expected = WorkerRecord {
        created_at: at(1),
        wish: WorkerWish::Draining,
        kind: Some("firecracker".to_owned()),
        ..again.clone()
    };
    assert_eq!(store.put_worker(again.clone()).await.unwrap(), expected);
    assert_eq!(store.workers().await.unwrap()[1], expected);
    assert!(!format!("{expected:?}").contains("token"));

    refused(store.put_worker(worker("w2", "10.0.0.2:9090")).await);
    refused(store.put_worker(WorkerRecord { address: bare.address.clone(), ..again }).await);
    assert_eq!(store.workers().await.unwrap(), [bare, expected]);
    assert!(matches!(
        store.set_worker_wish("nobody", WorkerWish::Draining).await,
        Err(StoreError::NotFound { what: "worker" })
    ));
    store.remove_worker("nobody").await.unwrap();
    no_workers(store).await;
}

pub(crate) async fn forgotten_workers_leave_a_tombstone(store: &dyn Store) {
    two_workers(store).await;
    let record = workshop(store, 2).await;
    store.place(None, placement(&record.id, 1, 1, "w1")).await.unwrap();
    store.place(None, placement(&record.id, 2, 1, "w2")).await.unwrap();
    refused(store.remove_worker("w1").await);
    let forgotten = store.set_worker_wish("w1", WorkerWish::Forgotten).await.unwrap();
    assert_eq!(forgotten.wish, WorkerWish::Forgotten);
    let left = placement(&record.id, 2, 1, "w2");
    assert_eq!(store.placements(None).await.unwrap(), [left], "its placements go with it");
    assert_eq!(store.workers().await.unwrap().len(), 2);
    refused(store.place(None, placement(&record.id, 1, 1, "w1")).await);

    // Its address is free for another; then it can't have it back.
    store.put_worker(worker("w3", "w1.example:9090")).await.unwrap();
    refused(store.set_worker_wish("w1", WorkerWish::Active).await);
    refused(store.put_worker(worker("w1", "w1.example:9090")).await);
    assert_eq!(store.workers().await.unwrap()[0].wish, WorkerWish::Forgotten);
    let back = store.put_worker(worker("w1", "w1.example:9191")).await.unwrap();
    assert_eq!(back.wish, WorkerWish::Active);
    store.place(None, placement(&record.id, 1, 1, "w1")).await.unwrap();
    store.set_worker_wish("w1", WorkerWish::Forgotten).await.unwrap();
    store.set_worker_wish("w2", WorkerWish::Forgotten).await.unwrap();
    purge(store, &record).await;
    no_workers(store).await;
}

pub(crate) async fn a_seat_is_placed_once(store: &dyn Store) {
    two_workers(store).await;
    let record = workshop(store, 3).await;
    let first = placement(&record.id, 1, 1, "w1");
    assert_eq!(store.place(None, first.clone()).await.unwrap(), first);
    // Somebody was quicker: theirs stands.
    assert_eq!(store.place(None, placement(&record.id, 1, 1, "w2")).await.unwrap(), first);
    assert_eq!(store.place(None, first.clone()).await.unwrap(), first);
    assert_eq!(store.placements(Some(&record.id)).await.unwrap(), std::slice::from_ref(&first));

    refused(store.place(None, placement(&record.id, 1, 2, "w2")).await);
    refused(store.place(None, placement(&record.id, 2, 1, "nobody")).await);
    assert!(matches!(
        store.place(None, placement(&record.id, 4, 1, "w1")).await,
        Err(StoreError::NotFound { what: "seat" })
    ));
    assert!(matches!(
        store.place(None, placement(&WorkshopId::random(), 1, 1, "w1")).await,
        Err(StoreError::NotFound { what: "workshop" })
    ));

    // The next generation may be elsewhere, while the one before is still there.
    store.reset_seat(&first.key, at(2)).await.unwrap();
    refused(store.place(None, first.clone()).await);
    let second = placement(&record.id, 1, 2, "w2");
    assert_eq!(store.place(None, second.clone()).await.unwrap(), second);
    let other = store.place(None, placement(&record.id, 3, 1, "w1")).await.unwrap();
    assert_eq!(
        store.placements(Some(&record.id)).await.unwrap(),
        [second.clone(), first.clone(), other.clone()]
    );
    // And a later one again where the first was: one row for both.
    store.reset_seat(&first.key, at(2)).await.unwrap();
    let third = placement(&record.id, 1, 3, "w1");
    assert_eq!(store.place(None, third.clone()).await.unwrap(), third);
    assert_eq!(
        store.placements(Some(&record.id)).await.unwrap(),
        [third.clone(), second.clone(), other.clone()]
    );
    // That an older generation is gone says nothing about a newer one.
    store.unplace(&third.key, "w1", Generation(2)).await.unwrap();
    store.unplace(&third.key, "w2", Generation(2)).await.unwrap();
    store.unplace(&third.key, "w2", Generation(2)).await.unwrap();
    assert_eq!(store.placements(Some(&record.id)).await.unwrap(), [third.clone(), other.clone()]);

    let another = workshop(store, 1).await;
    store.place(None, placement(&another.id, 1, 1, "w1")).await.unwrap();
    assert_eq!(store.placements(None).await.unwrap().len(), 3);
    assert_eq!(store.placements(Some(&another.id)).await.unwrap().len(), 1);
    store.set_wanted(&another.id, Wanted::Stopped, at(3)).await.unwrap();
    refused(store.place(None, placement(&another.id, 1, 1, "w1")).await);

    // What may still be somewhere keeps the workshop.
    for record in [&record, &another] {
        store.set_wanted(&record.id, Wanted::Deleted, at(4)).await.unwrap();
        refused(store.purge_workshop(&record.id, None).await);
    }
    for placement in store.placements(None).await.unwrap() {
        store.unplace(&placement.key, &placement.worker, Generation(u64::MAX)).await.unwrap();
    }
    for record in [&record, &another] {
        store.purge_workshop(&record.id, None).await.unwrap();
    }
    no_workers(store).await;
}

/// Two replicas choose differently for the same seats at the same time.
pub(crate) async fn seats_placed_at_once_are_placed_once(store: &dyn Store) {
    two_workers(store).await;
    let record = workshop(store, 40).await;
    let wishes = (0..160).map(|i| placement(&record.id, i % 40 + 1, 1, ["w1", "w2"][i as usize / 40 % 2]));
    let answers = all(wishes.map(|wish| store.place(None, wish))).await;
    let placed = store.placements(Some(&record.id)).await.unwrap();
    assert_eq!(placed.len(), 40);
    for answer in answers {
        assert!(placed.contains(&answer), "{answer:?} was answered, and is not so");
    }
    store.set_worker_wish("w1", WorkerWish::Forgotten).await.unwrap();
    store.set_worker_wish("w2", WorkerWish::Forgotten).await.unwrap();
    purge(store, &record).await;
    no_workers(store).await;
}
