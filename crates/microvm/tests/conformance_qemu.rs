//! The microVM runtime against the rules for all runtimes, over virtual machines.

#[allow(dead_code, clippy::unwrap_used)]
#[path = "guest_boot/image.rs"]
mod image;
#[path = "support/machines.rs"]
mod machines;
mod support;

use clarateach_runtime::conformance;

/// The suite's tests, each in a network namespace of its own, which `conformance_tests!` can't do.
macro_rules! on_machines {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                machines::in_network_of_guests(|| async {
                    if let Some(machines) = machines::qemu(concat!("conformance_qemu ", stringify!($name))).await {
                        conformance::$name(&machines).await;
                    }
                });
            }
        )*
    };
}

on_machines! {
    an_apply_can_be_repeated
    removing_what_is_not_there_is_fine
    stale_generations_are_refused_also_after_a_restart
    a_restart_of_the_process_takes_nothing_away
    equal_seat_numbers_of_two_workshops_are_two_seats
    a_seat_can_be_removed_while_it_is_made
    hostile_environments_are_passed_on_or_refused
    no_more_than_capacity
    what_others_made_is_untouched
    a_death_is_noticed_and_a_restart_keeps_the_disk
    a_new_generation_has_a_new_disk
    dialling_reaches_the_workspace_and_the_learner_s_listeners
    time_is_up_without_anybody_saying_so
}
