//! What a store does, told once for every database: each function takes one that may hold other workshops.

mod accounts;
mod crowd;
mod fleet;
mod joins;
mod leases;
mod reconciling;
mod workshops;

use clarateach_store::Store;

/// All of it.
pub(crate) async fn run(store: &dyn Store) {
    workshops::are_recorded_as_given(store).await;
    workshops::are_listed_newest_first_with_counts(store).await;
    workshops::are_wanted_one_way(store).await;
    workshops::keep_an_end_and_a_lock(store).await;
    workshops::leave_nothing(store).await;
    joins::follow_the_table(store).await;
    joins::of_known_learners_return_to_their_session(store).await;
    joins::of_a_known_learner_survive_lock_but_not_stop(store).await;
    joins::wait_in_line(store).await;
    joins::by_an_ended_session(store).await;
    joins::wait_for_failed_seats_too(store).await;
    joins::twice_with_one_id_change_nothing(store).await;
    reconciling::skips_what_is_out_of_date(store).await;
    reconciling::never_renews_a_held_seat(store).await;
    reconciling::renews_a_held_seat_that_never_was_ready(store).await;
    reconciling::resets_a_seat_for_its_learner(store).await;
    reconciling::renews_a_seat_when_its_session_ends(store).await;
    reconciling::tells_what_changed_and_nothing_else(store).await;
    reconciling::keeps_a_bounded_history(store).await;
    reconciling::numbers_events_without_gaps(store).await;
    accounts::users(store).await;
    accounts::keys(store).await;
    fleet::workers_are_recorded_as_given(store).await;
    fleet::forgotten_workers_leave_a_tombstone(store).await;
    fleet::a_seat_is_placed_once(store).await;
    fleet::seats_placed_at_once_are_placed_once(store).await;
    leases::have_one_holder(store).await;
    leases::are_taken_over_when_they_expire(store).await;
    leases::taken_at_once_go_to_one(store).await;
    leases::fence_what_is_written(store).await;
    leases::replicas_are_counted(store).await;
    crowd::is_seated_once(store, true).await;
    crowd::is_seated_once(store, false).await;
    crowd::of_one_browser_gets_one_seat(store).await;
    store.check().await.unwrap();
}
