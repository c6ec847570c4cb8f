//! What a workshop is wanted to be, and what it is.

use crate::words;

/// What its owner wants of a workshop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// The record only: not started yet.
    Created,
    /// Seats with environments.
    Running,
    /// No environments; the record and the sessions stay.
    Stopped,
    /// Nothing of it.
    Deleted,
}

words!(Wanted, "wanted workshop state", {
    Created = "created",
    Running = "running",
    Stopped = "stopped",
    Deleted = "deleted",
});

/// What a workshop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WorkshopStatus {
    /// Recorded, not started.
    Created,
    /// Seats are being made; no learner can join yet.
    Provisioning,
    /// Learners can join.
    Running,
    /// Environments are being removed.
    Stopping,
    /// No environments; can be started again.
    Stopped,
    /// Everything is being removed.
    Deleting,
    /// Nothing at all could be made.
    Error,
}

words!(WorkshopStatus, "workshop status", {
    Created = "created",
    Provisioning = "provisioning",
    Running = "running",
    Stopping = "stopping",
    Stopped = "stopped",
    Deleting = "deleting",
    Error = "error",
});

/// How many of a workshop's seats are how, and what is left of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SeatTally {
    /// Seats whose environment answers, or answered and is held by a learner.
    pub usable: u32,
    /// Seats that are wanted or being made.
    pub underway: u32,
    /// Seats that could not be made.
    pub failed: u32,
    /// Environments that its runtime still has, wanted or not.
    pub environments: u32,
}

/// The status that follows from what is wanted and what is there. Total and idempotent: the same tally gives the same
/// status again.
///
/// A workshop that was running stays running while any seat is usable or underway: one failed seat does not make a
/// workshop an error, and a rebuild of its last seat doesn't throw it back to provisioning.
#[must_use]
pub fn workshop_status(before: WorkshopStatus, wanted: Wanted, tally: SeatTally) -> WorkshopStatus {
    match wanted {
        Wanted::Deleted => WorkshopStatus::Deleting,
        Wanted::Created => WorkshopStatus::Created,
        Wanted::Stopped if tally.environments > 0 => WorkshopStatus::Stopping,
        Wanted::Stopped => WorkshopStatus::Stopped,
        Wanted::Running => match (tally.usable, tally.underway, tally.failed) {
            (1.., _, _) => WorkshopStatus::Running,
            (0, 1.., _) if before == WorkshopStatus::Running => WorkshopStatus::Running,
            (0, 0, 1..) => WorkshopStatus::Error,
            (0, 1.., 1..) if before == WorkshopStatus::Error => WorkshopStatus::Error,
            (0, _, _) => WorkshopStatus::Provisioning,
        },
    }
}

/// What people are told: a wish that nobody has looked at yet is already under way.
#[must_use]
pub const fn shown_status(status: WorkshopStatus, wanted: Wanted) -> WorkshopStatus {
    match (wanted, status) {
        (Wanted::Deleted, _) => WorkshopStatus::Deleting,
        (Wanted::Stopped, status) if !matches!(status, WorkshopStatus::Stopped) => WorkshopStatus::Stopping,
        (Wanted::Running, WorkshopStatus::Created | WorkshopStatus::Stopping | WorkshopStatus::Stopped) => {
            WorkshopStatus::Provisioning
        }
        (_, status) => status,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
        proptest::sample::select(all)
    }

    prop_compose! {
        fn tallies()(usable in 0..4u32, underway in 0..4u32, failed in 0..4u32, environments in 0..9u32) -> SeatTally {
            SeatTally { usable, underway, failed, environments }
        }
    }

    proptest! {
        #[test]
        fn deciding_twice_changes_nothing(
            before in any_of(WorkshopStatus::ALL), wanted in any_of(Wanted::ALL), tally in tallies(),
        ) {
            let once = workshop_status(before, wanted, tally);
            prop_assert_eq!(workshop_status(once, wanted, tally), once);
        }

        #[test]
        fn stopped_means_that_nothing_is_left(before in any_of(WorkshopStatus::ALL), tally in tallies()) {
            let status = workshop_status(before, Wanted::Stopped, tally);
            prop_assert_eq!(status == WorkshopStatus::Stopped, tally.environments == 0);
        }

        /// Once somebody has looked, that is what is shown.
        #[test]
        fn what_was_decided_is_shown(
            before in any_of(WorkshopStatus::ALL), wanted in any_of(Wanted::ALL), tally in tallies(),
        ) {
            let decided = workshop_status(before, wanted, tally);
            prop_assert_eq!(shown_status(decided, wanted), decided);
        }

        #[test]
        fn one_usable_seat_is_never_an_error(before in any_of(WorkshopStatus::ALL), tally in tallies()) {
            let status = workshop_status(before, Wanted::Running, tally);
            prop_assert!(tally.usable == 0 || status == WorkshopStatus::Running);
        }
    }

    #[test]
    fn a_wish_shows_before_it_is_looked_at() {
        for (status, wanted, shown) in [
            (WorkshopStatus::Running, Wanted::Deleted, WorkshopStatus::Deleting),
            (WorkshopStatus::Error, Wanted::Stopped, WorkshopStatus::Stopping),
            (WorkshopStatus::Stopped, Wanted::Running, WorkshopStatus::Provisioning),
            (WorkshopStatus::Created, Wanted::Created, WorkshopStatus::Created),
        ] {
            assert_eq!(shown_status(status, wanted), shown);
        }
    }

    #[test]
    fn words_parse_back() {
        for status in WorkshopStatus::ALL {
            assert_eq!(status.as_str().parse(), Ok(*status));
        }
        assert!("nonsense".parse::<Wanted>().is_err());
    }
}
