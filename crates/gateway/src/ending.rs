//! Why an open stream is closed, as its reader is told.

use std::fmt;
use std::sync::Arc;

/// WebSocket close code (RFC 6455 §7.4.2, private use): the session or its lease is over. The reason says why; a
/// learner whose lease merely ran out gets a new token with the session code.
pub const CLOSE_ENDED: u16 = 4001;
/// WebSocket close code (private use): the seat's environment went away under the connection. Connect again.
pub const CLOSE_SEAT_LOST: u16 = 4002;
/// WebSocket close code (IANA registry): the server restarts. Connect again.
pub const CLOSE_RESTART: u16 = 1012;

/// Longest reason that fits a close frame beside its code, in bytes (RFC 6455 §5.5).
const REASON_BYTES: usize = 123;

/// Why a session is over, as its learner is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndedWhy {
    /// The instructor took the seat back.
    Evicted,
    /// The workshop was stopped and may go on later.
    WorkshopStopped,
    /// The workshop was ended for good.
    WorkshopEnded,
    /// The workshop's planned end has come.
    DeadlinePassed,
    /// In these words: one sentence of at most 123 bytes, longer ones are cut.
    Other(String),
}

impl fmt::Display for EndedWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Evicted => "the instructor ended this session",
            Self::WorkshopStopped => "the instructor stopped the workshop",
            Self::WorkshopEnded => "the workshop has ended",
            Self::DeadlinePassed => "the workshop's time is up",
            Self::Other(sentence) => sentence,
        })
    }
}

/// Close code and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) code: u16,
    pub(crate) reason: Arc<str>,
}

impl Ending {
    pub(crate) fn session(why: &EndedWhy) -> Self {
        Self::new(CLOSE_ENDED, &why.to_string())
    }

    pub(crate) fn lease_over() -> Self {
        Self::new(CLOSE_ENDED, "the token was not renewed in time; get a new one with the session code")
    }

    pub(crate) fn seat_rebuilt() -> Self {
        Self::new(CLOSE_SEAT_LOST, "the seat was made anew; connect again")
    }

    pub(crate) fn seat_lost() -> Self {
        Self::new(CLOSE_SEAT_LOST, "the seat went away; connect again")
    }

    pub(crate) fn seat_taken(sentence: &str) -> Self {
        Self::new(CLOSE_SEAT_LOST, sentence)
    }

    pub(crate) fn restart() -> Self {
        Self::new(CLOSE_RESTART, "the server restarts; connect again")
    }

    fn new(code: u16, reason: &str) -> Self {
        let end = reason.floor_char_boundary(REASON_BYTES);
        Self { code, reason: reason[..end].into() }
    }

    /// The whole frame, unmasked as a server sends it (RFC 6455 §5.2, §5.5.1).
    pub(crate) fn close_frame(&self) -> Vec<u8> {
        let mut frame = vec![0x88, 2 + u8::try_from(self.reason.len()).unwrap_or(0)];
        frame.extend_from_slice(&self.code.to_be_bytes());
        frame.extend_from_slice(self.reason.as_bytes());
        frame
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Ending {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters_to_fit_a_control_frame() {
        let frame = Ending::session(&EndedWhy::Other("é".repeat(100))).close_frame();
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert_eq!(frame[1], 124);
        assert!(std::str::from_utf8(&frame[4..]).is_ok());
    }
}
