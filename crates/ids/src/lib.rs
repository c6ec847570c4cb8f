//! Typed ids, join and session codes: parse, print, nothing else.
//!
//! Every id is a newtype, so that a workshop id can't be passed where a session id is wanted. All of them parse from
//! and print to the string that travels in URLs, labels and JSON.

mod code;
mod id;
mod mac;

pub use code::{JoinCode, SessionCode};
pub use id::{
    EventSeq, Generation, InstallationId, KeyId, ParseIdError, SeatKey, SeatNumber, SessionId, UserId,
    WorkerId, WorkshopId,
};
pub use mac::MacAddr;
