use clarateach_ids::{EventSeq, Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::{SeatState, Wanted, WorkshopStatus};
use clarateach_store::{
    Fence, Lease, Placement, Store, StoreError, WorkerRecord, WorkerSource, WorkerWish, WorkshopWrite,
};
use jiff::SignedDuration;

use super::reconciling::all;
use crate::classroom::*;

const LONG: SignedDuration = SignedDuration::from_secs(3600);
/// PostgreSQL compares with its own clock: a lease that has expired is one that was taken for no time at all.
const NONE: SignedDuration = SignedDuration::ZERO;

fn name() -> String {
    format!("lease of {}", WorkshopId::random())
}

async fn acquire(store: &dyn Store, name: &str, holder: &str, ttl: SignedDuration) -> Option<Lease> {
    store.acquire_lease(name, holder, ttl, at(1)).await.unwrap()
}

pub(crate) async fn have_one_holder(store: &dyn Store) {
    let name = name();
    let first = acquire(store, &name, "a", LONG).await.unwrap();
    assert_eq!((first.name.as_str(), first.holder.as_str(), first.token), (name.as_str(), "a", 1));
    assert_eq!(acquire(store, &name, "b", LONG).await, None);
    let again = acquire(store, &name, "a", LONG).await.unwrap();
    assert_eq!(again.token, 1, "extended");
    assert!(again.expires_at >= first.expires_at);
    assert_eq!(again.fence(), first.fence());

    // Only its holder gives it back, and only the one that it is.
    store.release_lease(&first.fence(), "b").await.unwrap();
    store.release_lease(&Fence { token: 7, ..first.fence() }, "a").await.unwrap();
    assert_eq!(acquire(store, &name, "b", LONG).await, None);
    store.release_lease(&first.fence(), "a").await.unwrap();
    let second = acquire(store, &name, "b", LONG).await.unwrap();
    assert_eq!((second.holder.as_str(), second.token), ("b", 2));
    store.release_lease(&first.fence(), "a").await.unwrap();
    assert_eq!(acquire(store, &name, "a", LONG).await, None, "a late release is none");

    // Another lease is another matter.
    assert_eq!(acquire(store, &self::name(), "a", LONG).await.unwrap().token, 1);
}

pub(crate) async fn are_taken_over_when_they_expire(store: &dyn Store) {
    let name = name();
    assert_eq!(acquire(store, &name, "a", NONE).await.unwrap().token, 1);
    let taken = acquire(store, &name, "b", NONE).await.unwrap();
    assert_eq!((taken.holder.as_str(), taken.token), ("b", 2));
    // Its own, expired: somebody else may have had it in between for all it knows.
    assert_eq!(acquire(store, &name, "b", LONG).await.unwrap().token, 3);
    assert_eq!(acquire(store, &name, "a", LONG).await, None);
}

pub(crate) async fn taken_at_once_go_to_one(store: &dyn Store) {
    let name = name();
    let holders: Vec<String> = (0..50).map(|i| format!("holder {i}")).collect();
    let asked = holders.iter().map(|holder| store.acquire_lease(&name, holder, LONG, at(1)));
    let had: Vec<Lease> = all(asked).await.into_iter().flatten().collect();
    assert_eq!(had.len(), 1, "{had:?}");
    assert_eq!(had[0].token, 1);
}

pub(crate) async fn fence_what_is_written(store: &dyn Store) {
    let worker = WorkerRecord {
        id: "w".to_owned(),
        address: "w:9090".to_owned(),
        token_sealed: vec![1],
        public_url: None,
        labels: Default::default(),
        capacity: None,
        tls: None,
        source: WorkerSource::Api,
        wish: WorkerWish::Active,
        kind: None,
        created_at: at(0),
    };
    store.put_worker(worker).await.unwrap();
    let record = workshop(store, 2).await;
    let name = name();
    let old = acquire(store, &name, "a", NONE).await.unwrap().fence();
    let placement = |seat| Placement {
        key: SeatKey { workshop: record.id.clone(), seat: n(seat) },
        generation: Generation(1),
        worker: "w".to_owned(),
    };
    let write = |fence: &Fence| WorkshopWrite {
        status: Some(WorkshopStatus::Running),
        fence: Some(fence.clone()),
        ..write_of(&record, vec![seen(1, 1, SeatState::Ready)])
    };
    // Nobody has taken it over, so what was decided on it stands.
    store.place(Some(&old), placement(1)).await.unwrap();

    let new = acquire(store, &name, "b", LONG).await.unwrap().fence();
    let before = (
        store.workshop(&record.id).await.unwrap(),
        store.seats(&record.id).await.unwrap(),
        store.events(&record.id, EventSeq(0), 100).await.unwrap(),
        store.placements(None).await.unwrap(),
    );
    let strangers = Fence { lease: self::name(), token: 1 };
    let ahead = Fence { token: new.token + 1, ..new.clone() };
    for lost in [&old, &strangers, &ahead] {
        let refused = [
            store.write_workshop(write(lost)).await.map(|_| ()),
            store.place(Some(lost), placement(2)).await.map(|_| ()),
            store.purge_workshop(&record.id, Some(lost)).await,
        ];
        for result in refused {
            let Err(StoreError::Fenced { lease }) = &result else { panic!("{result:?}") };
            assert_eq!(*lease, lost.lease);
        }
    }
    let after = (
        store.workshop(&record.id).await.unwrap(),
        store.seats(&record.id).await.unwrap(),
        store.events(&record.id, EventSeq(0), 100).await.unwrap(),
        store.placements(None).await.unwrap(),
    );
    assert_eq!(before, after, "a fenced write changes nothing");

    store.write_workshop(write(&new)).await.unwrap();
    store.place(Some(&new), placement(2)).await.unwrap();
    store.set_worker_wish("w", WorkerWish::Forgotten).await.unwrap();
    store.set_wanted(&record.id, Wanted::Deleted, at(3)).await.unwrap();
    store.release_lease(&new, "b").await.unwrap();
    assert!(matches!(store.purge_workshop(&record.id, Some(&new)).await, Err(StoreError::Fenced { .. })));
    let next = acquire(store, &name, "a", LONG).await.unwrap().fence();
    store.purge_workshop(&record.id, Some(&next)).await.unwrap();
    store.remove_worker("w").await.unwrap();
}

pub(crate) async fn replicas_are_counted(store: &dyn Store) {
    let note = async |holder: &str, ttl| store.note_replica(holder, ttl, at(1)).await.unwrap();
    assert_eq!(note("a", LONG).await, 1);
    assert_eq!(note("a", LONG).await, 1);
    assert_eq!(note("b", LONG).await, 2);
    assert_eq!(note("c", NONE).await, 3, "whoever notes it is alive");
    assert_eq!(note("a", LONG).await, 2, "but not for long");
    assert_eq!(note("b", NONE).await, 2);
    assert_eq!(note("a", NONE).await, 1);
}
