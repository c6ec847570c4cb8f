//! What is wanted of a runtime.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use clarateach_ids::{Generation, SeatKey};
use jiff::Timestamp;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// What makes environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuntimeKind {
    /// Containers of a Docker Engine.
    Docker,
    /// Firecracker microVMs.
    Firecracker,
    /// QEMU microVMs.
    Qemu,
    /// Child processes without isolation; development only.
    Process,
    /// Nothing real; tests and scale runs.
    Simulated,
}

impl RuntimeKind {
    /// The name as it travels in the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Firecracker => "firecracker",
            Self::Qemu => "qemu",
            Self::Process => "process",
            Self::Simulated => "simulated",
        }
    }
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RuntimeKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Docker, Self::Firecracker, Self::Qemu, Self::Process, Self::Simulated]
            .into_iter()
            .find(|kind| kind.as_str() == text)
            .ok_or_else(|| "not a runtime: docker, firecracker, qemu, process or simulated".to_owned())
    }
}

/// An image as the runtime names it, like `clarateach-workspace` or `python:3.12-slim`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ImageRef(pub String);

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an environment may connect to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// The internet, but no private, link-local, carrier or metadata address, and not the host.
    #[default]
    Internet,
    /// Nowhere.
    None,
}

/// What is wanted for one seat; never how.
#[derive(Debug, Clone)]
pub struct DesiredSeat {
    /// The seat.
    pub key: SeatKey,
    /// Which make of it.
    pub generation: Generation,
    /// The image, as [`crate::Runtime::resolve`] gave it.
    pub image: ImageRef,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB; runtimes that can't limit it say so in their warnings.
    pub disk_mb: u32,
    /// The workshop's environment variables; they win over the image's.
    pub env: BTreeMap<String, String>,
    /// What the seat's workspace asks of every caller. The learner's shell can't read it.
    pub secret: SecretString,
    /// Where it may connect to.
    pub egress: Egress,
    /// When the runtime ends the environment by itself, should nobody tell it otherwise.
    pub not_after: Option<Timestamp>,
}

/// Which port of a seat to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SeatPort {
    /// Its workspace server.
    Workspace,
    /// A learner's own listener, on any address of the seat, loopback included.
    App(u16),
}

/// How far a prepare is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrepareProgress {
    /// What is being done, in a few words.
    pub step: String,
    /// Bytes done of bytes in all, where that is known.
    pub bytes: Option<(u64, u64)>,
}

/// Called with each step of a prepare; must not block.
pub type ProgressFn = Arc<dyn Fn(PrepareProgress) + Send + Sync>;
