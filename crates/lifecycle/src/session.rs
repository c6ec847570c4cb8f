//! A learner's hold on a seat.

use crate::words;

/// How a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// In line for a seat.
    Waiting,
    /// Holds a seat.
    Active,
    /// Over.
    Ended,
}

words!(SessionState, "session state", { Waiting = "waiting", Active = "active", Ended = "ended" });

/// Why a session is over; its learner is always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The instructor ended this session.
    Evicted,
    /// The workshop is being deleted.
    WorkshopDeleted,
    /// The learner left.
    Left,
}

words!(EndReason, "reason for an end", {
    Evicted = "evicted",
    WorkshopDeleted = "workshop_deleted",
    Left = "left",
});

impl EndReason {
    /// One sentence for the learner.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Evicted => "The instructor has ended your session.",
            Self::WorkshopDeleted => "The workshop has ended and everything in it has been removed.",
            Self::Left => "You have left the workshop.",
        }
    }
}
