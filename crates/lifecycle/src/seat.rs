//! How far a seat is, and what is shown of it.

use crate::words;

/// How far a seat's environment is, as written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeatState {
    /// Wanted; nothing asked of a runtime yet.
    Pending,
    /// A runtime was asked; its workspace has not answered yet.
    Starting,
    /// Its workspace answers.
    Ready,
    /// It was ready and does not answer now.
    Unreachable,
    /// It could not be made; tried again later.
    Failed,
}

words!(SeatState, "seat state", {
    Pending = "pending",
    Starting = "starting",
    Ready = "ready",
    Unreachable = "unreachable",
    Failed = "failed",
});

impl SeatState {
    /// Whether a seat that is in this state was ready before, or is: somebody may have worked in its environment.
    #[must_use]
    pub const fn has_been_ready(self) -> bool {
        matches!(self, Self::Ready | Self::Unreachable)
    }
}

/// What people are shown: the state, and whether somebody sits there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeatStatus {
    /// As [`SeatState::Pending`].
    Pending,
    /// As [`SeatState::Starting`].
    Starting,
    /// Answers, and is free.
    Ready,
    /// Answers, and is held by a learner.
    Occupied,
    /// As [`SeatState::Unreachable`].
    Unreachable,
    /// As [`SeatState::Failed`].
    Failed,
}

words!(SeatStatus, "seat status", {
    Pending = "pending",
    Starting = "starting",
    Ready = "ready",
    Occupied = "occupied",
    Unreachable = "unreachable",
    Failed = "failed",
});

/// What is shown of a seat in `state` that is `held` by a learner or not.
#[must_use]
pub const fn seat_status(state: SeatState, held: bool) -> SeatStatus {
    match state {
        SeatState::Pending => SeatStatus::Pending,
        SeatState::Starting => SeatStatus::Starting,
        SeatState::Ready if held => SeatStatus::Occupied,
        SeatState::Ready => SeatStatus::Ready,
        SeatState::Unreachable => SeatStatus::Unreachable,
        SeatState::Failed => SeatStatus::Failed,
    }
}

/// What a runtime says of the environment of a seat's current generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EnvironmentSight {
    /// It has none.
    Absent,
    /// Being made or started.
    Starting,
    /// Its workspace answers.
    Ready,
    /// It runs and does not answer.
    Unresponsive,
    /// It ran and has ended.
    Stopped,
    /// It could not be made.
    Failed,
}

/// The state that follows from what the runtime says. A seat that was ready and is not is `unreachable`, never
/// silently `starting`: its learner is told.
#[must_use]
pub const fn observe_seat(before: SeatState, sight: EnvironmentSight) -> SeatState {
    match (sight, before) {
        (EnvironmentSight::Ready, _) => SeatState::Ready,
        (_, SeatState::Ready | SeatState::Unreachable) => SeatState::Unreachable,
        (EnvironmentSight::Absent, state) => state,
        (EnvironmentSight::Starting | EnvironmentSight::Unresponsive, _) => SeatState::Starting,
        (EnvironmentSight::Stopped | EnvironmentSight::Failed, _) => SeatState::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answering_environment_is_ready() {
        for before in SeatState::ALL {
            for sight in [
                EnvironmentSight::Absent,
                EnvironmentSight::Starting,
                EnvironmentSight::Unresponsive,
                EnvironmentSight::Stopped,
                EnvironmentSight::Failed,
            ] {
                assert_ne!(observe_seat(*before, sight), SeatState::Ready, "{before} {sight:?}");
            }
            assert_eq!(observe_seat(*before, EnvironmentSight::Ready), SeatState::Ready);
        }
    }

    #[test]
    fn occupied_needs_both_a_learner_and_an_answer() {
        for state in SeatState::ALL {
            let shown = seat_status(*state, true);
            assert_eq!(shown == SeatStatus::Occupied, *state == SeatState::Ready);
        }
    }
}
