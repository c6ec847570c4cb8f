//! What is spoken between a seat's `workspace`, the gateways in front of it and the learner's browser: the frames of
//! the terminal, the types of the files API and of port discovery, and (feature `token`) the claims of a seat token.
//!
//! Nothing here does I/O. `workspace` is linked into every seat, so the default features are empty and bring in
//! `serde` only; gateways and the control plane turn on `token`.
//!
//! | module | speaks about |
//! |---|---|
//! | [`terminal`] | `WS /terminal`, `/terminals` |
//! | [`files`] | `/files`, `/raw`, `/archive`, `/events` |
//! | [`ports`] | `/ports`, `/tunnel/{port}` |
//! | [`guest`] | the control channel between a host and a microVM |

pub mod files;
pub mod guest;
pub mod ports;
pub mod terminal;
#[cfg(feature = "token")]
pub mod token;

use serde::{Deserialize, Serialize};

/// Header with which a gateway proves itself to a seat's workspace. It is stripped from what clients send and set by
/// the gateway; without it every path but the bare `GET /health` answers 401.
pub const SECRET_HEADER: &str = "x-clarateach-secret";

/// The body of every refusal: `{"error":{"code":"NOT_FOUND","message":"…"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// The inside of an [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// A stable word in capitals, for programs.
    pub code: String,
    /// A sentence for people that says what to do.
    pub message: String,
}

/// Answer to `GET /health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Always `ok`: a workspace that can't serve doesn't answer.
    pub status: String,
}
