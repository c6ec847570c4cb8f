//! What a runtime says is there.

use clarateach_ids::{Generation, SeatKey};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Counts changes of a runtime's observed state; only compared with revisions of the same runtime object.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(pub u64);

/// How far an environment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvironmentState {
    /// Being made or started; its workspace has not answered yet.
    Starting,
    /// Its workspace answered the last health check.
    Ready,
    /// It runs, but its workspace does not answer.
    Unresponsive,
    /// It ran and has ended; its disk is still there and an apply of the same generation starts it again.
    Stopped,
    /// It could not be made; the reason says why.
    Failed,
    /// Being removed.
    Removing,
}

/// Why something is as it is: a code for programs and a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// Upper snake case, like `IMAGE_NOT_FOUND`.
    pub code: String,
    /// One sentence that an instructor understands.
    pub message: String,
}

impl Reason {
    /// A reason from its two halves.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// One environment as its runtime sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The seat it was made for.
    pub key: SeatKey,
    /// Which make of the seat it is.
    pub generation: Generation,
    /// How far it is.
    pub state: EnvironmentState,
    /// Why, for [`EnvironmentState::Failed`], [`EnvironmentState::Stopped`] and [`EnvironmentState::Unresponsive`].
    pub reason: Option<Reason>,
    /// Where it can be found on its host (an IP address or a socket), for operators.
    pub address: Option<String>,
    /// What its runtime calls it (a container id, a pid), for operators.
    pub handle: Option<String>,
    /// When its runtime ends it by itself; none where it doesn't, or was not told when.
    pub not_after: Option<Timestamp>,
}

/// How many environments fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// The most environments this runtime holds at once.
    pub total: u32,
    /// How many there are now.
    pub used: u32,
}
