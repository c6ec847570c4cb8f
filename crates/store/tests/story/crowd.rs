use std::collections::HashSet;

use clarateach_store::{JoinDecision, Store};

use super::reconciling::all;
use crate::classroom::*;

/// 200 learners come at once for 50 seats, before or after those are ready.
pub(crate) async fn is_seated_once(store: &dyn Store, ready: bool) {
    let record = workshop(store, 50).await;
    if ready {
        make_ready(store, &record, 1..=50).await;
    }
    let learners: Vec<String> = (0..200).map(|i| format!("Learner {i}")).collect();
    let decisions = all(learners.iter().map(|learner| store.join(wish(&record, learner)))).await;
    let (mut seats, mut places, mut full) = (HashSet::new(), HashSet::new(), 0);
    for decision in decisions {
        match decision {
            JoinDecision::Seated { seat, .. } => {
                assert!(seats.insert(seat.key.seat), "one seat, two learners")
            }
            JoinDecision::Waiting { place, .. } => assert!(places.insert(place), "one place, two learners"),
            JoinDecision::Full => full += 1,
            other => panic!("{other:?}"),
        }
    }
    let expected = if ready { (50, 0, 150) } else { (0, 50, 150) };
    assert_eq!((seats.len(), places.len(), full), expected);
    if !ready {
        // They become ready a few at a time.
        let mut seated = Vec::new();
        for first in (1..=50).step_by(7) {
            seated.extend(make_ready(store, &record, first..=(first + 6).min(50)).await);
        }
        assert_eq!(seated.len(), 50);
    }
    let counts = store.workshop_counts(&record.id).await.unwrap();
    assert_eq!((counts.occupied, counts.active, counts.waiting), (50, 50, 0));
    // All of them again, as after a reload: those who have a seat keep it, and no other is spent.
    let again = all(learners.iter().map(|learner| store.join(wish(&record, learner)))).await;
    let returning = again
        .iter()
        .filter(|decision| matches!(decision, JoinDecision::Seated { returning: true, .. }))
        .count();
    assert_eq!(returning, 50);
    assert_eq!(store.workshop_counts(&record.id).await.unwrap(), counts);
    purge(store, &record).await;
}

/// An impatient learner clicks 40 times.
pub(crate) async fn of_one_browser_gets_one_seat(store: &dyn Store) {
    let record = workshop(store, 5).await;
    make_ready(store, &record, 1..=5).await;
    let decisions = all((0..40).map(|_| store.join(wish(&record, "Ada")))).await;
    let sessions: HashSet<_> = decisions.into_iter().map(|decision| seated(decision).0.id).collect();
    assert_eq!(sessions.len(), 1);
    let counts = store.workshop_counts(&record.id).await.unwrap();
    assert_eq!((counts.ready, counts.occupied), (4, 1));
    purge(store, &record).await;
}
