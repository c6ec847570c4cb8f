use std::collections::HashSet;

use clarateach_ids::{EventSeq, Generation, JoinCode, UserId, WorkshopId};
use clarateach_lifecycle::{EndReason, SeatState, SessionState, Wanted, WorkshopStatus};
use clarateach_store::{Store, StoreError, WorkshopCounts, WorkshopWrite};

use crate::classroom::*;

pub(crate) async fn are_recorded_as_given(store: &dyn Store) {
    let installation = store.installation().await.unwrap();
    assert_eq!(store.installation().await.unwrap(), installation);

    let mut new = new_workshop(3);
    new.ends_at = Some(at(60_000));
    new.wanted = Wanted::Created;
    let record = store.create_workshop(new.clone()).await.unwrap();
    assert_eq!(store.workshop(&new.id).await.unwrap(), record);
    assert_eq!(store.workshop_by_code(&new.join_code).await.unwrap(), record);
    assert_eq!(
        (&record.id, &record.owner, &record.name, record.join_code, record.seats),
        (&new.id, &new.owner, &new.name, new.join_code, 3)
    );
    assert_eq!((&record.runtime, &record.image), (&new.runtime, &new.image));
    assert_eq!((&record.env_names, &record.env_sealed), (&new.env_names, &new.env_sealed));
    assert_eq!((record.memory_mb, record.vcpus, record.disk_mb), (512, 2, 1024));
    assert_eq!((record.wanted, record.status), (Wanted::Created, WorkshopStatus::Created));
    assert_eq!((record.ends_at, record.created_at), (Some(at(60_000)), at(0)));
    assert!(!record.locked && record.reason.is_none());
    assert_eq!(kinds(store, &record).await, ["workshop.created"]);

    let seats = store.seats(&new.id).await.unwrap();
    assert_eq!(seats.iter().map(|(seat, _)| seat.key.seat.get()).collect::<Vec<_>>(), [1, 2, 3]);
    for (seat, holder) in seats {
        assert_eq!((seat.generation, seat.state, seat.attempts), (Generation(1), SeatState::Pending, 0));
        assert!(seat.reason.is_none() && seat.retry_at.is_none() && holder.is_none());
    }

    let mut same_code = new_workshop(1);
    same_code.join_code = new.join_code;
    let refused = store.create_workshop(same_code.clone()).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert!(matches!(store.workshop(&same_code.id).await, Err(StoreError::NotFound { .. })));

    let nowhere = WorkshopId::random();
    assert!(matches!(store.workshop(&nowhere).await, Err(StoreError::NotFound { what: "workshop" })));
    assert!(matches!(store.workshop_by_code(&JoinCode::random()).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.seats(&nowhere).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.workshop_counts(&nowhere).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.events(&nowhere, EventSeq(0), 1).await, Err(StoreError::NotFound { .. })));
    purge(store, &record).await;
}

pub(crate) async fn are_listed_newest_first_with_counts(store: &dyn Store) {
    let owner = UserId::random();
    let mut records = Vec::new();
    for i in 0..3 {
        let mut new = new_workshop(4);
        new.owner = owner.clone();
        new.now = at(i);
        records.push(store.create_workshop(new).await.unwrap());
    }
    let others = workshop(store, 1).await;
    let middle = &records[1];
    make_ready(store, middle, [1, 2]).await;
    store.write_workshop(write_of(middle, vec![seen(3, 1, SeatState::Failed)])).await.unwrap();
    for learner in ["Ada", "Ben", "Cem"] {
        join(store, middle, learner).await;
    }
    let expected =
        WorkshopCounts { pending: 1, occupied: 2, failed: 1, waiting: 1, active: 2, ..Default::default() };
    assert_eq!(store.workshop_counts(&middle.id).await.unwrap(), expected);

    let listed = store.workshops(Some(&owner)).await.unwrap();
    let ids: Vec<_> = listed.iter().map(|(record, _)| &record.id).collect();
    assert_eq!(ids, [&records[2].id, &records[1].id, &records[0].id]);
    assert_eq!(listed[1].1, expected);
    assert_eq!(listed[0].1, WorkshopCounts { pending: 4, ..Default::default() });
    assert!(store.workshops(Some(&UserId::random())).await.unwrap().is_empty());
    let everybodys: HashSet<_> =
        store.workshops(None).await.unwrap().into_iter().map(|(record, _)| record.id).collect();
    assert!(everybodys.contains(&others.id) && everybodys.contains(&records[0].id));
    for record in records.iter().chain([&others]) {
        purge(store, record).await;
    }
}

pub(crate) async fn are_wanted_one_way(store: &dyn Store) {
    let record = workshop(store, 2).await;
    make_ready(store, &record, [1, 2]).await;
    let (session, _) = seated(join(store, &record, "Ada").await);

    // The same wish twice changes nothing.
    let before = kinds(store, &record).await;
    store.set_wanted(&record.id, Wanted::Running, at(5)).await.unwrap();
    assert_eq!(store.seats(&record.id).await.unwrap()[0].0.generation, Generation(1));
    assert_eq!(kinds(store, &record).await, before);

    let stopped = store.set_wanted(&record.id, Wanted::Stopped, at(6)).await.unwrap();
    assert_eq!(stopped.wanted, Wanted::Stopped);
    let seats = store.seats(&record.id).await.unwrap();
    assert_eq!(seats[0].1.as_ref().map(|s| &s.id), Some(&session.id), "a stop keeps the sessions");
    assert!(matches!(
        store.set_wanted(&record.id, Wanted::Created, at(6)).await,
        Err(StoreError::Conflict { .. })
    ));

    store.set_wanted(&record.id, Wanted::Running, at(7)).await.unwrap();
    let seats = store.seats(&record.id).await.unwrap();
    for (seat, _) in &seats {
        assert_eq!((seat.generation, seat.state), (Generation(2), SeatState::Pending));
    }
    assert_eq!(seats[0].1.as_ref().map(|s| &s.id), Some(&session.id));

    store.set_wanted(&record.id, Wanted::Deleted, at(8)).await.unwrap();
    store.set_wanted(&record.id, Wanted::Deleted, at(8)).await.unwrap();
    for wish in [Wanted::Running, Wanted::Stopped, Wanted::Created] {
        let refused = store.set_wanted(&record.id, wish, at(9)).await;
        assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{wish}: {refused:?}");
    }
    assert!(store.seats(&record.id).await.unwrap().iter().all(|(_, holder)| holder.is_none()));
    let ended = store.end_session(&session.id, EndReason::Left, at(9)).await.unwrap();
    assert_eq!((ended.state, ended.end_reason), (SessionState::Ended, Some(EndReason::WorkshopDeleted)));
    assert_eq!(ended.seat, Some(n(1)), "an ended session remembers its seat");
    assert_eq!(kinds(store, &record).await.last().unwrap(), "session.ended");
    store.purge_workshop(&record.id, None).await.unwrap();

    let created =
        store.create_workshop(clarateach_store::NewWorkshop { wanted: Wanted::Created, ..new_workshop(1) });
    let created = created.await.unwrap();
    store.set_wanted(&created.id, Wanted::Running, at(1)).await.unwrap();
    assert_eq!(store.seats(&created.id).await.unwrap()[0].0.generation, Generation(2));
    purge(store, &created).await;
}

pub(crate) async fn keep_an_end_and_a_lock(store: &dyn Store) {
    let record = workshop(store, 1).await;
    let longer = store.set_ends_at(&record.id, Some(at(1_000)), at(1)).await.unwrap();
    assert_eq!(longer.ends_at, Some(at(1_000)));
    store.set_ends_at(&record.id, Some(at(1_000)), at(1)).await.unwrap();
    assert_eq!(store.set_ends_at(&record.id, None, at(1)).await.unwrap().ends_at, None);
    assert!(store.set_locked(&record.id, true, at(1)).await.unwrap().locked);
    store.set_locked(&record.id, true, at(1)).await.unwrap();
    assert!(store.workshop(&record.id).await.unwrap().locked);
    assert!(!store.set_locked(&record.id, false, at(1)).await.unwrap().locked);
    assert_eq!(
        kinds(store, &record).await,
        [
            "workshop.created",
            "workshop.extended",
            "workshop.extended",
            "workshop.locked",
            "workshop.unlocked"
        ]
    );
    purge(store, &record).await;
    assert!(matches!(store.set_locked(&record.id, true, at(1)).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.set_ends_at(&record.id, None, at(1)).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(
        store.set_wanted(&record.id, Wanted::Running, at(1)).await,
        Err(StoreError::NotFound { .. })
    ));
}

pub(crate) async fn leave_nothing(store: &dyn Store) {
    let record = workshop(store, 3).await;
    make_ready(store, &record, [1]).await;
    let first = wish(&record, "Ada");
    seated(store.join(first.clone()).await.unwrap());
    waiting(join(store, &record, "Ben").await);
    let refused = store.purge_workshop(&record.id, None).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    store.set_wanted(&record.id, Wanted::Deleted, at(9)).await.unwrap();
    let late = WorkshopWrite { status: Some(WorkshopStatus::Deleting), ..write_of(&record, vec![]) };
    store.write_workshop(late.clone()).await.unwrap();
    assert_eq!(
        store.workshop(&record.id).await.unwrap().status,
        WorkshopStatus::Running,
        "a status that was decided for another wish is skipped"
    );
    store.write_workshop(WorkshopWrite { wanted: Wanted::Deleted, ..late.clone() }).await.unwrap();
    assert_eq!(store.workshop(&record.id).await.unwrap().status, WorkshopStatus::Deleting);

    let mut wakes = store.event_wakes();
    store.purge_workshop(&record.id, None).await.unwrap();
    assert_eq!(wakes.recv().await.unwrap(), record.id, "whoever watches it is told to look");
    assert!(matches!(store.purge_workshop(&record.id, None).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.workshop(&record.id).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.session_by_code(&first.new_code).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.write_workshop(late).await, Err(StoreError::NotFound { .. })));
    // Its name is free again.
    let again = clarateach_store::NewWorkshop {
        id: record.id.clone(),
        join_code: record.join_code,
        ..new_workshop(1)
    };
    let again = store.create_workshop(again).await.unwrap();
    assert_eq!(kinds(store, &again).await, ["workshop.created"]);
    purge(store, &again).await;
}
