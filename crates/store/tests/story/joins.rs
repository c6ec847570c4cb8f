use clarateach_ids::{JoinCode, SessionId};
use clarateach_lifecycle::{EndReason, SeatState, SessionState, Wanted};
use clarateach_store::{JoinDecision, JoinWish, Store, StoreError};

use crate::classroom::*;

pub(crate) async fn follow_the_table(store: &dyn Store) {
    let mut new = new_workshop(2);
    new.wanted = Wanted::Created;
    let record = store.create_workshop(new).await.unwrap();
    let unknown = JoinWish { join_code: JoinCode::random(), ..wish(&record, "Ada") };
    assert!(matches!(store.join(unknown).await.unwrap(), JoinDecision::NotFound));
    assert!(matches!(join(store, &record, "Ada").await, JoinDecision::NotRunning));

    store.set_wanted(&record.id, Wanted::Running, at(1)).await.unwrap();
    make_ready(store, &record, [2]).await;
    let decision = store.join(wish(&record, "Ada")).await.unwrap();
    let JoinDecision::Seated { session, seat, workshop, returning, code_is_new } = decision else { panic!() };
    assert_eq!((session.seat, seat.key.seat), (Some(n(2)), n(2)), "the ready one, not the lowest");
    assert_eq!((session.state, session.name.as_deref()), (SessionState::Active, Some("Ada")));
    assert_eq!((session.created_at, session.last_seen_at), (at(2), at(2)));
    assert!(!returning && code_is_new && workshop.id == record.id);

    let (ben, place) = waiting(join(store, &record, "Ben").await);
    assert_eq!((ben.state, ben.seat, place), (SessionState::Waiting, None, 1));
    assert!(matches!(join(store, &record, "Cem").await, JoinDecision::Full));
    store.set_locked(&record.id, true, at(3)).await.unwrap();
    assert!(matches!(join(store, &record, "Cem").await, JoinDecision::Locked));
    store.set_locked(&record.id, false, at(3)).await.unwrap();

    store.set_ends_at(&record.id, Some(at(10)), at(3)).await.unwrap();
    let at_the_end = JoinWish { now: at(10), ..wish(&record, "Ada") };
    assert!(matches!(store.join(at_the_end).await.unwrap(), JoinDecision::Ended { reason: None }));
    let before = JoinWish { now: at(9), ..wish(&record, "Ada") };
    seated(store.join(before).await.unwrap());

    store.set_wanted(&record.id, Wanted::Stopped, at(4)).await.unwrap();
    assert!(matches!(join(store, &record, "Ada").await, JoinDecision::Ended { reason: None }));
    assert!(matches!(join(store, &record, "Cem").await, JoinDecision::Ended { reason: None }));
    store.set_wanted(&record.id, Wanted::Deleted, at(5)).await.unwrap();
    assert!(matches!(join(store, &record, "Ada").await, JoinDecision::NotFound));
    store.purge_workshop(&record.id, None).await.unwrap();
}

pub(crate) async fn of_known_learners_return_to_their_session(store: &dyn Store) {
    let record = workshop(store, 3).await;
    let other = workshop(store, 1).await;
    make_ready(store, &record, 1..=3).await;
    make_ready(store, &other, [1]).await;
    let first = wish(&record, "Ada");
    let (ada, _) = seated(store.join(first.clone()).await.unwrap());
    let events = kinds(store, &record).await;

    // By the browser: the code was lost, so there is a new one; the old one is dead.
    let by_browser = JoinWish { name: Some("Ada L.".to_owned()), now: at(7), ..wish(&record, "Ada") };
    let new_code = by_browser.new_code;
    match store.join(by_browser).await.unwrap() {
        JoinDecision::Seated { session, returning: true, code_is_new: true, .. } => {
            assert_eq!((session.id, session.seat), (ada.id.clone(), ada.seat));
            assert_eq!((session.name.as_deref(), session.last_seen_at), (Some("Ada L."), at(7)));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(store.session_by_code(&first.new_code).await, Err(StoreError::NotFound { .. })));
    let (session, workshop, seat, place) = store.session_by_code(&new_code).await.unwrap();
    assert_eq!((session.id, workshop.id, place), (ada.id.clone(), record.id.clone(), None));
    assert_eq!(session.name.as_deref(), Some("Ada L."));
    assert_eq!(seat.unwrap().key.seat, n(1));

    // By the code, from another device and without a name.
    let by_code = JoinWish {
        returning_code: Some(new_code),
        client_id: Some("a tablet".to_owned()),
        name: None,
        ..wish(&record, "")
    };
    match store.join(by_code.clone()).await.unwrap() {
        JoinDecision::Seated { session, returning: true, code_is_new: false, .. } => {
            assert_eq!((session.id, session.name.as_deref()), (ada.id.clone(), Some("Ada L.")));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(store.session_by_code(&new_code).await.unwrap().0.id, ada.id);
    assert_eq!(kinds(store, &record).await, events, "coming back is no event");

    // A code of another workshop is ignored.
    let stranger =
        JoinWish { join_code: other.join_code, returning_code: Some(new_code), ..wish(&other, "Eve") };
    match store.join(stranger).await.unwrap() {
        JoinDecision::Seated { session, returning: false, code_is_new: true, .. } => {
            assert_ne!(session.id, ada.id)
        }
        other => panic!("{other:?}"),
    }

    // A right code beats the browser's own session, and the browser keeps its own.
    let (ben, _) = seated(join(store, &record, "Ben").await);
    let borrowed = JoinWish { returning_code: Some(new_code), ..wish(&record, "Ben") };
    assert_eq!(seated(store.join(borrowed).await.unwrap()).0.id, ada.id);
    assert_eq!(seated(join(store, &record, "Ben").await).0.id, ben.id);

    // Somebody without a browser's mark is known by the code, and from then on by the browser that showed it.
    let bare = JoinWish { client_id: None, ..wish(&record, "Cem") };
    let (cem, _) = seated(store.join(bare.clone()).await.unwrap());
    let marked = JoinWish { returning_code: Some(bare.new_code), ..wish(&record, "Cem") };
    assert_eq!(seated(store.join(marked).await.unwrap()).0.id, cem.id);
    assert_eq!(seated(join(store, &record, "Cem").await).0.id, cem.id);
    purge(store, &record).await;
    purge(store, &other).await;
}

pub(crate) async fn of_a_known_learner_survive_lock_but_not_stop(store: &dyn Store) {
    let record = workshop(store, 2).await;
    make_ready(store, &record, [1]).await;
    let (ada, _) = seated(join(store, &record, "Ada").await);
    let (ben, _) = waiting(join(store, &record, "Ben").await);
    store.set_locked(&record.id, true, at(3)).await.unwrap();
    assert_eq!(seated(join(store, &record, "Ada").await).0.id, ada.id);
    assert_eq!(waiting(join(store, &record, "Ben").await).0.id, ben.id);
    assert_eq!(
        make_ready(store, &record, [2]).await[0].id,
        ben.id,
        "a lock keeps newcomers out, not those in line"
    );

    store.set_wanted(&record.id, Wanted::Stopped, at(4)).await.unwrap();
    assert!(matches!(join(store, &record, "Ada").await, JoinDecision::Ended { reason: None }));
    store.set_wanted(&record.id, Wanted::Running, at(5)).await.unwrap();
    let (again, seat) = seated(join(store, &record, "Ada").await);
    assert_eq!(
        (again.id, seat.state),
        (ada.id, SeatState::Pending),
        "the seat is held while it is made again"
    );
    purge(store, &record).await;
}

pub(crate) async fn wait_in_line(store: &dyn Store) {
    let record = workshop(store, 3).await;
    let mut sessions = Vec::new();
    for (i, learner) in ["Ada", "Ben", "Cem"].into_iter().enumerate() {
        let (session, place) = waiting(join(store, &record, learner).await);
        assert_eq!(place as usize, i + 1);
        sessions.push(session.id);
    }
    assert!(matches!(join(store, &record, "Dan").await, JoinDecision::Full));
    assert_eq!(waiting(join(store, &record, "Ben").await), {
        let ben = waiting(join(store, &record, "Ben").await).0;
        (ben, 2)
    });
    let again = wish(&record, "Cem");
    waiting(store.join(again.clone()).await.unwrap());
    assert_eq!(store.session_by_code(&again.new_code).await.unwrap().3, Some(3));

    // Whoever leaves gives up the place; those behind move up.
    store.end_session(&sessions[0], EndReason::Left, at(3)).await.unwrap();
    assert_eq!(store.session_by_code(&again.new_code).await.unwrap().3, Some(2));
    assert_eq!(waiting(join(store, &record, "Dan").await).1, 3);

    let seated_now = make_ready(store, &record, [3]).await;
    assert_eq!(seated_now.iter().map(|s| (&s.id, s.seat)).collect::<Vec<_>>(), [(&sessions[1], Some(n(3)))]);
    let seated_now = make_ready(store, &record, [1, 2]).await;
    assert_eq!(seated_now.iter().map(|s| s.seat).collect::<Vec<_>>(), [Some(n(1)), Some(n(2))]);
    assert_eq!(seated_now[0].id, sessions[2]);
    assert_eq!(seated_now[1].name.as_deref(), Some("Dan"));
    let (session, _, seat, place) = store.session_by_code(&again.new_code).await.unwrap();
    assert_eq!((session.state, place), (SessionState::Active, None));
    assert_eq!(seat.unwrap().key.seat, n(1));
    purge(store, &record).await;
}

pub(crate) async fn by_an_ended_session(store: &dyn Store) {
    let record = workshop(store, 2).await;
    make_ready(store, &record, 1..=2).await;
    let first = wish(&record, "Ada");
    let (ada, _) = seated(store.join(first.clone()).await.unwrap());
    let ended = store.end_session(&ada.id, EndReason::Evicted, at(3)).await.unwrap();
    assert_eq!((ended.state, ended.end_reason), (SessionState::Ended, Some(EndReason::Evicted)));
    let again = store.end_session(&ada.id, EndReason::Left, at(4)).await.unwrap();
    assert_eq!(again.end_reason, Some(EndReason::Evicted), "it ends once");

    let by_code = JoinWish { returning_code: Some(first.new_code), client_id: None, ..wish(&record, "Ada") };
    let decision = store.join(by_code.clone()).await.unwrap();
    assert!(matches!(decision, JoinDecision::Ended { reason: Some(EndReason::Evicted) }), "{decision:?}");
    // Even when stopped: why the session ended is what this learner is told.
    store.set_wanted(&record.id, Wanted::Stopped, at(5)).await.unwrap();
    let decision = store.join(by_code.clone()).await.unwrap();
    assert!(matches!(decision, JoinDecision::Ended { reason: Some(EndReason::Evicted) }), "{decision:?}");
    store.set_wanted(&record.id, Wanted::Running, at(6)).await.unwrap();
    make_ready(store, &record, 1..=2).await;
    let (session, _, seat, place) = store.session_by_code(&first.new_code).await.unwrap();
    assert_eq!((session.state, seat, place), (SessionState::Ended, None, None));

    // By the browser alone it is a newcomer, unless newcomers are kept out.
    store.set_locked(&record.id, true, at(6)).await.unwrap();
    assert!(matches!(join(store, &record, "Ada").await, JoinDecision::Locked));
    store.set_locked(&record.id, false, at(6)).await.unwrap();
    let (new, _) = seated(join(store, &record, "Ada").await);
    assert_ne!(new.id, ada.id);
    // And from then on that session is found, though the old code comes along.
    let with_old_code = JoinWish { returning_code: Some(first.new_code), ..wish(&record, "Ada") };
    assert_eq!(seated(store.join(with_old_code).await.unwrap()).0.id, new.id);

    let nobody = store.end_session(&SessionId::random(), EndReason::Left, at(7)).await;
    assert!(matches!(nobody, Err(StoreError::NotFound { what: "session" })), "{nobody:?}");
    let seen =
        [(new.id.clone(), at(500)), (ada.id, at(500)), (SessionId::random(), at(500)), (new.id, at(400))];
    store.touch_sessions(&seen).await.unwrap();
    store.touch_sessions(&[]).await.unwrap();
    let holders = store.seats(&record.id).await.unwrap();
    assert_eq!(holders.iter().find_map(|(_, holder)| holder.as_ref()).unwrap().last_seen_at, at(500));
    purge(store, &record).await;
}

pub(crate) async fn wait_for_failed_seats_too(store: &dyn Store) {
    let record = workshop(store, 3).await;
    store.write_workshop(write_of(&record, vec![seen(1, 1, SeatState::Failed)])).await.unwrap();
    waiting(join(store, &record, "Ada").await);
    waiting(join(store, &record, "Ben").await);
    // A seat that failed is tried again: it is not taken.
    assert_eq!(waiting(join(store, &record, "Cem").await).1, 3);
    assert!(matches!(join(store, &record, "Dan").await, JoinDecision::Full));
    // A seat that fails while somebody is in line for it takes nobody's place away.
    store.write_workshop(write_of(&record, vec![seen(2, 1, SeatState::Failed)])).await.unwrap();
    assert_eq!(waiting(join(store, &record, "Ben").await).1, 2);
    // Nobody overtakes the line: the ready seat goes to the first in it.
    make_ready(store, &record, [3]).await;
    seated(join(store, &record, "Ada").await);
    assert_eq!(waiting(join(store, &record, "Ben").await).1, 1);
    make_ready(store, &record, [1]).await;
    seated(join(store, &record, "Ben").await);
    assert_eq!(waiting(join(store, &record, "Cem").await).1, 1);
    assert!(matches!(join(store, &record, "Dan").await, JoinDecision::Full));
    purge(store, &record).await;
}

pub(crate) async fn twice_with_one_id_change_nothing(store: &dyn Store) {
    let record = workshop(store, 2).await;
    make_ready(store, &record, 1..=2).await;
    let first = wish(&record, "Ada");
    seated(store.join(first.clone()).await.unwrap());
    let before = kinds(store, &record).await;
    let same_id = JoinWish { client_id: Some("another".to_owned()), ..first };
    let refused = store.join(same_id).await;
    assert!(matches!(refused, Err(StoreError::Conflict { .. })), "{refused:?}");
    assert_eq!(kinds(store, &record).await, before);
    assert_eq!(store.workshop_counts(&record.id).await.unwrap().active, 1);
    purge(store, &record).await;
}
