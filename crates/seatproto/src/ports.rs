//! Port discovery and the tunnel that previews use.
//!
//! `GET /ports` lists what listens inside the seat. `GET /tunnel/{port}` with `Connection: Upgrade` and
//! `Upgrade: tcp` answers 101 and then carries raw bytes to that port on the seat's loopback (127.0.0.1, else ::1), so
//! that a gateway reaches development servers that listen on loopback only. Only the learner's own listeners on
//! [`FIRST_PORT`] and above can be reached: 403 `PORT_FORBIDDEN` else, 502 `NOT_LISTENING` when nothing answers.

use serde::{Deserialize, Serialize};

/// The lowest port that can be previewed.
pub const FIRST_PORT: u16 = 1024;

/// A TCP listener inside the seat.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// TCP port.
    pub port: u16,
    /// Address it is bound to, e.g. `127.0.0.1`, `0.0.0.0`, `::`.
    pub address: String,
    /// Whether `/tunnel/{port}` would go there: the learner's own, and [`FIRST_PORT`] or above.
    pub preview: bool,
}

/// Answer to `GET /ports`, by port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortList {
    /// The listeners.
    pub ports: Vec<Listener>,
}
