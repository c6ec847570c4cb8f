//! What can go wrong in a runtime.

use clarateach_ids::{Generation, SeatKey};

use crate::{ImageRef, Reason};

/// A runtime's refusal or failure. `message`s are sentences that an instructor may see.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The caller's decision is older than one already carried out.
    #[error("seat {key}: generation {given} is older than {seen}, which was seen before")]
    StaleGeneration {
        /// The seat.
        key: SeatKey,
        /// What the caller gave.
        given: Generation,
        /// The highest seen.
        seen: Generation,
    },
    /// There is no environment for the seat.
    #[error("seat {key} has no environment")]
    NotFound {
        /// The seat.
        key: SeatKey,
    },
    /// No room for another environment.
    #[error("no room for another environment: {used} of {total} are in use")]
    AtCapacity {
        /// How many there are.
        used: u32,
        /// How many fit.
        total: u32,
    },
    /// The image can't be had.
    #[error("image {image} was not found: {message}")]
    ImageNotFound {
        /// The image.
        image: ImageRef,
        /// Why, and what to do.
        message: String,
    },
    /// This runtime can't do what the specification asks.
    #[error("{message}")]
    InvalidSpec {
        /// Why.
        message: String,
    },
    /// Nothing answers in the seat.
    #[error("seat {key} does not answer: {message}")]
    Unreachable {
        /// The seat.
        key: SeatKey,
        /// Why.
        message: String,
    },
    /// The backend (a Docker Engine, say) does not answer; what is there is unknown.
    #[error("{message}")]
    Unavailable {
        /// Why, and what to do.
        message: String,
    },
    /// The backend answered and failed.
    #[error("{operation}: {message}")]
    Failed {
        /// What was tried.
        operation: String,
        /// What the backend said.
        message: String,
    },
}

impl RuntimeError {
    /// The code and sentence for a seat's or workshop's status.
    #[must_use]
    pub fn reason(&self) -> Reason {
        let code = match self {
            Self::StaleGeneration { .. } => "STALE_GENERATION",
            Self::NotFound { .. } => "ENVIRONMENT_NOT_FOUND",
            Self::AtCapacity { .. } => "AT_CAPACITY",
            Self::ImageNotFound { .. } => "IMAGE_NOT_FOUND",
            Self::InvalidSpec { .. } => "INVALID_SPEC",
            Self::Unreachable { .. } => "UNREACHABLE",
            Self::Unavailable { .. } => "RUNTIME_UNAVAILABLE",
            Self::Failed { message, .. } if is_full_disk(message) => "NO_SPACE",
            Self::Failed { .. } => "RUNTIME_FAILED",
        };
        Reason::new(code, self.to_string())
    }
}

/// What every backend passes on of ENOSPC and EDQUOT, in the C library's words.
fn is_full_disk(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("no space left on device") || message.contains("disk quota exceeded")
}
