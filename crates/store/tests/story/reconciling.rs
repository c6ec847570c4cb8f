use clarateach_ids::{EventSeq, Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::{EndReason, SeatState, Wanted, WorkshopStatus};
use clarateach_store::{NewEvent, SeatWrite, Store, StoreError, WorkshopWrite};
use serde_json::json;

use crate::classroom::*;

pub(crate) async fn skips_what_is_out_of_date(store: &dyn Store) {
    let record = workshop(store, 2).await;
    let key = SeatKey { workshop: record.id.clone(), seat: n(1) };
    store.reset_seat(&key, at(1)).await.unwrap();
    let failed = SeatWrite {
        reason: Some(("IMAGE".to_owned(), "There is no such image.".to_owned())),
        attempts: 3,
        retry_at: Some(at(99)),
        ..seen(2, 1, SeatState::Failed)
    };
    let writes = vec![seen(1, 1, SeatState::Ready), failed.clone(), seen(9, 1, SeatState::Ready)];
    store.write_workshop(write_of(&record, writes)).await.unwrap();
    let seats = store.seats(&record.id).await.unwrap();
    assert_eq!((seats[0].0.generation, seats[0].0.state), (Generation(2), SeatState::Pending));
    let second = &seats[1].0;
    assert_eq!((second.state, second.attempts, second.retry_at), (SeatState::Failed, 3, Some(at(99))));
    assert_eq!(second.reason, failed.reason);

    // A free seat is made anew in the next generation.
    let anew =
        SeatWrite { next_generation: Generation(2), only_if_free: true, ..seen(2, 1, SeatState::Pending) };
    store.write_workshop(write_of(&record, vec![anew])).await.unwrap();
    let second = &store.seats(&record.id).await.unwrap()[1].0;
    assert_eq!((second.generation, second.state, &second.reason), (Generation(2), SeatState::Pending, &None));

    let reason = Some(("NO_SEATS".to_owned(), "Nothing could be made.".to_owned()));
    let write = WorkshopWrite {
        status: Some(WorkshopStatus::Error),
        reason: reason.clone(),
        wanted: Wanted::Stopped,
        ..write_of(&record, vec![])
    };
    store.write_workshop(write.clone()).await.unwrap();
    assert_eq!(store.workshop(&record.id).await.unwrap().status, WorkshopStatus::Created);
    store.write_workshop(WorkshopWrite { wanted: Wanted::Running, ..write }).await.unwrap();
    let after = store.workshop(&record.id).await.unwrap();
    assert_eq!((after.status, after.reason), (WorkshopStatus::Error, reason));
    purge(store, &record).await;
}

pub(crate) async fn never_renews_a_held_seat(store: &dyn Store) {
    let record = workshop(store, 1).await;
    make_ready(store, &record, [1]).await;
    let (ada, _) = seated(join(store, &record, "Ada").await);
    for only_if_free in [true, false] {
        let anew =
            SeatWrite { next_generation: Generation(2), only_if_free, ..seen(1, 1, SeatState::Pending) };
        store.write_workshop(write_of(&record, vec![anew])).await.unwrap();
    }
    let free_only = SeatWrite { only_if_free: true, ..seen(1, 1, SeatState::Failed) };
    store.write_workshop(write_of(&record, vec![free_only])).await.unwrap();
    let (seat, holder) = store.seats(&record.id).await.unwrap().remove(0);
    assert_eq!((seat.generation, seat.state), (Generation(1), SeatState::Ready));
    assert_eq!(holder.unwrap().id, ada.id);
    // What is so may be written.
    store.write_workshop(write_of(&record, vec![seen(1, 1, SeatState::Unreachable)])).await.unwrap();
    let (seat, holder) = store.seats(&record.id).await.unwrap().remove(0);
    assert_eq!((seat.state, holder.unwrap().id), (SeatState::Unreachable, ada.id));
    let counts = store.workshop_counts(&record.id).await.unwrap();
    assert_eq!((counts.unreachable, counts.occupied, counts.active), (1, 0, 1));
    purge(store, &record).await;
}

/// A held seat was reset: of its new make nobody has anything to lose until it has been ready.
pub(crate) async fn renews_a_held_seat_that_never_was_ready(store: &dyn Store) {
    let record = workshop(store, 1).await;
    make_ready(store, &record, [1]).await;
    let (ada, seat) = seated(join(store, &record, "Ada").await);
    assert!(seat.was_ready);
    assert!(!store.reset_seat(&seat.key, at(3)).await.unwrap().was_ready);
    let renew = |generation: u64, state| SeatWrite {
        next_generation: Generation(generation + 1),
        attempts: 1,
        ..seen(1, generation, state)
    };
    let now = async || store.seats(&record.id).await.unwrap().remove(0);
    for state in [SeatState::Starting, SeatState::Failed, SeatState::Pending] {
        store.write_workshop(write_of(&record, vec![seen(1, 2, state)])).await.unwrap();
        assert!(!now().await.0.was_ready, "{state}");
    }
    let if_free = SeatWrite { only_if_free: true, ..renew(2, SeatState::Pending) };
    store.write_workshop(write_of(&record, vec![if_free])).await.unwrap();
    assert_eq!(now().await.0.generation, Generation(2));
    store.write_workshop(write_of(&record, vec![renew(2, SeatState::Pending)])).await.unwrap();
    let (seat, holder) = now().await;
    assert_eq!((seat.generation, seat.state, seat.attempts), (Generation(3), SeatState::Pending, 1));
    assert_eq!((seat.was_ready, holder.unwrap().id), (false, ada.id.clone()), "whoever holds it keeps it");

    // From here on it is as if it had always been ready, whatever is written of it.
    let mut generation = 3;
    for first in [SeatState::Ready, SeatState::Unreachable] {
        for then in [SeatState::Pending, SeatState::Starting, SeatState::Failed] {
            for state in [first, then] {
                store.write_workshop(write_of(&record, vec![seen(1, generation, state)])).await.unwrap();
                assert!(now().await.0.was_ready, "{first}, then {state}");
                let renewal = renew(generation, SeatState::Pending);
                store.write_workshop(write_of(&record, vec![renewal])).await.unwrap();
                let (seat, holder) = now().await;
                assert_eq!((seat.generation, seat.state), (Generation(generation), state), "{first}");
                assert_eq!(holder.unwrap().id, ada.id);
            }
            generation = store.reset_seat(&seat.key, at(3)).await.unwrap().generation.0;
        }
    }
    // Nor does a stop make it forget.
    store.write_workshop(write_of(&record, vec![seen(1, generation, SeatState::Ready)])).await.unwrap();
    store.set_wanted(&record.id, Wanted::Stopped, at(4)).await.unwrap();
    store.write_workshop(write_of(&record, vec![seen(1, generation, SeatState::Pending)])).await.unwrap();
    store.write_workshop(write_of(&record, vec![renew(generation, SeatState::Pending)])).await.unwrap();
    assert_eq!((now().await.0.generation.0, now().await.0.was_ready), (generation, true));
    purge(store, &record).await;
}

pub(crate) async fn resets_a_seat_for_its_learner(store: &dyn Store) {
    let record = workshop(store, 1).await;
    make_ready(store, &record, [1]).await;
    let (ada, seat) = seated(join(store, &record, "Ada").await);
    let fresh = store.reset_seat(&seat.key, at(3)).await.unwrap();
    assert_eq!((fresh.generation, fresh.state, fresh.attempts), (Generation(2), SeatState::Pending, 0));
    let (again, seat) = seated(join(store, &record, "Ada").await);
    assert_eq!((again.id, seat), (ada.id, fresh));
    let events = store.events(&record.id, EventSeq(0), 100).await.unwrap();
    let reset = events.iter().find(|event| event.kind == "seat.reset").unwrap();
    assert_eq!(reset.data, json!({ "seat": 1, "generation": 2, "learner": "Ada" }));
    let missing = SeatKey { workshop: record.id.clone(), seat: n(2) };
    assert!(matches!(store.reset_seat(&missing, at(3)).await, Err(StoreError::NotFound { what: "seat" })));
    purge(store, &record).await;
}

pub(crate) async fn renews_a_seat_when_its_session_ends(store: &dyn Store) {
    let record = workshop(store, 1).await;
    make_ready(store, &record, [1]).await;
    let (ada, _) = seated(join(store, &record, "Ada").await);
    store.end_session(&ada.id, EndReason::Left, at(3)).await.unwrap();
    let (seat, holder) = store.seats(&record.id).await.unwrap().remove(0);
    assert_eq!((seat.generation, seat.state, holder), (Generation(2), SeatState::Pending, None));
    let (ben, _) = waiting(join(store, &record, "Ben").await);
    // What was seen of Ada's environment does not seat Ben in it.
    assert!(
        store.write_workshop(write_of(&record, vec![seen(1, 1, SeatState::Ready)])).await.unwrap().is_empty()
    );
    let seated_now =
        store.write_workshop(write_of(&record, vec![seen(1, 2, SeatState::Ready)])).await.unwrap();
    assert_eq!(seated_now[0].id, ben.id);
    assert_eq!(
        kinds(store, &record).await,
        [
            "workshop.created",
            "workshop.running",
            "seat.ready",
            "session.joined",
            "seat.occupied",
            "session.ended",
            "seat.pending",
            "session.joined",
            "seat.ready",
            "session.seated",
            "seat.occupied",
        ]
    );
    purge(store, &record).await;
}

pub(crate) async fn tells_what_changed_and_nothing_else(store: &dyn Store) {
    let record = workshop(store, 1).await;
    let mut wakes = store.event_wakes();
    make_ready(store, &record, [1]).await;
    assert_eq!(wakes.recv().await.unwrap(), record.id);
    let before = kinds(store, &record).await;
    make_ready(store, &record, [1]).await;
    store.write_workshop(write_of(&record, vec![])).await.unwrap();
    assert_eq!(kinds(store, &record).await, before, "the same again is no event");
    assert!(matches!(wakes.try_recv(), Err(tokio::sync::broadcast::error::TryRecvError::Empty)));

    let failed = SeatWrite {
        reason: Some(("NO_SHELL".to_owned(), "The image has no shell.".to_owned())),
        ..seen(1, 1, SeatState::Failed)
    };
    store.write_workshop(write_of(&record, vec![failed])).await.unwrap();
    let data = json!({ "name": "quiz" });
    let event = NewEvent {
        workshop: record.id.clone(),
        kind: "seat.looked".to_owned(),
        data: data.clone(),
        now: at(4),
    };
    let seq = store.add_event(event.clone()).await.unwrap();
    let all = store.events(&record.id, EventSeq(0), 100).await.unwrap();
    assert_eq!(all.iter().map(|event| event.seq.0).collect::<Vec<_>>(), (1..=seq.0).collect::<Vec<_>>());
    let last = store.events(&record.id, EventSeq(seq.0 - 2), 100).await.unwrap();
    assert_eq!(last.len(), 2);
    assert_eq!(last[0].kind, "seat.failed");
    assert_eq!(
        last[0].data,
        json!({ "seat": 1, "generation": 1, "reason_code": "NO_SHELL", "reason": "The image has no shell." })
    );
    assert_eq!((last[1].kind.as_str(), &last[1].data, last[1].at), ("seat.looked", &data, at(4)));
    assert_eq!(store.events(&record.id, EventSeq(0), 2).await.unwrap(), all[..2]);
    assert!(store.events(&record.id, seq, 100).await.unwrap().is_empty());
    assert!(store.events(&record.id, EventSeq(u64::MAX), 100).await.unwrap().is_empty());
    let nowhere = NewEvent { workshop: WorkshopId::random(), ..event };
    assert!(matches!(store.add_event(nowhere).await, Err(StoreError::NotFound { .. })));
    purge(store, &record).await;
}

pub(crate) async fn keeps_a_bounded_history(store: &dyn Store) {
    let record = workshop(store, 1_000).await;
    for round in 0..11 {
        let state = if round % 2 == 0 { SeatState::Starting } else { SeatState::Failed };
        let writes = (1..=1_000).map(|seat| seen(seat, 1, state)).collect();
        store.write_workshop(write_of(&record, writes)).await.unwrap();
    }
    let events = store.events(&record.id, EventSeq(0), 100_000).await.unwrap();
    assert_eq!(events.len(), 10_000);
    assert_eq!(events.last().unwrap().seq, EventSeq(11_001));
    assert_eq!(events[0].seq, EventSeq(1_002));
    purge(store, &record).await;
}

pub(crate) async fn numbers_events_without_gaps(store: &dyn Store) {
    let record = workshop(store, 1).await;
    let event = |i: u64| NewEvent {
        workshop: record.id.clone(),
        kind: "test".to_owned(),
        data: json!({ "i": i }),
        now: at(1),
    };
    let mut numbers: Vec<u64> =
        all((0..300).map(|i| store.add_event(event(i)))).await.into_iter().map(|seq| seq.0).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (2..=301).collect::<Vec<_>>());
    let events = store.events(&record.id, EventSeq(0), 1_000).await.unwrap();
    assert!(events.iter().map(|event| event.seq.0).eq(1..=301));
    purge(store, &record).await;
}

/// Polls all at once, so that they share commits.
pub(crate) async fn all<T>(
    futures: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
) -> Vec<T> {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    let mut done = Vec::new();
    std::future::poll_fn(|context| {
        pending.retain_mut(|future| match future.as_mut().poll(context) {
            std::task::Poll::Ready(value) => {
                done.push(value.unwrap());
                false
            }
            std::task::Poll::Pending => true,
        });
        if pending.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done
}
