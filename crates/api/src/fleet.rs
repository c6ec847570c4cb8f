//! Workers as the admin sees and changes them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A worker.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkerView {
    /// Its id: its address unless it was made on a cloud.
    pub id: String,
    /// `HOST:PORT` of its agent.
    pub address: String,
    /// `setting`, `api` or `gcp`.
    pub source: String,
    /// `starting` (has not answered yet), `alive`, `suspect` (silent for 10 s), `lost` (for 60 s), `unauthorized` (refuses the
    /// token) or `incompatible` (another version, or no agent).
    pub state: String,
    /// `active`, `draining` or `forgotten`.
    pub wish: String,
    /// `firecracker`, `qemu` or `simulated`, once it was seen.
    pub kind: Option<String>,
    /// The agent's version.
    pub version: Option<String>,
    /// The name that the agent gives itself.
    pub worker_id: Option<String>,
    /// Seats that it has, or may have.
    pub seats: u32,
    /// Seats that fit.
    pub capacity: u32,
    /// MiB that its host could use now without swapping.
    pub free_memory_mb: Option<u64>,
    /// Its clock minus the server's, in milliseconds, to about a second.
    pub clock_skew_ms: Option<i64>,
    /// How long it takes to answer, in milliseconds.
    pub round_trip_ms: Option<f64>,
    /// When it answered last.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_seen_at: Option<Timestamp>,
    /// Whether its cloud is about to take it away.
    pub preempted: bool,
    /// Whether new seats are placed on it now.
    pub takes_seats: bool,
    /// What is wrong with it, or why no new seats are placed on it: one sentence.
    pub problem: Option<String>,
    /// Where learners reach it directly.
    pub public_url: Option<String>,
    /// For people.
    pub labels: BTreeMap<String, String>,
    /// Whether it is reached over TLS.
    pub tls: bool,
    /// When it was added.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
}

/// `{"workers":[…]}`: empty on a single machine.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AdminWorkersBody {
    /// By id; forgotten ones are not shown.
    pub workers: Vec<WorkerView>,
    /// The part of the fleet that grows and shrinks by itself; missing where it doesn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fleet: Option<FleetView>,
}

/// The workers that are made and deleted as seats need them, as the server that looks after them sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FleetView {
    /// So many are always there.
    pub min: u32,
    /// Never more than these.
    pub max: u32,
    /// Machines that there are, whatever they are doing; missing before the first look, and at a server that doesn't look.
    pub machines: Option<u32>,
    /// What does not work, in sentences.
    pub problems: Vec<String>,
}

/// `{"worker":{…}}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkerBody {
    /// The worker.
    pub worker: WorkerView,
}

/// `POST /api/admin/workers`.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddWorker {
    /// `HOST:PORT` of its agent.
    #[schema(max_length = 300)]
    pub address: String,
    /// The agent's `AGENT_TOKEN`. Not shown again.
    #[schema(min_length = 1, max_length = 512)]
    pub token: String,
    /// Where learners reach it directly: a URL without a path. Without it they come through the server.
    #[serde(default)]
    #[schema(max_length = 300)]
    pub public_url: Option<String>,
    /// For people.
    #[serde(default, deserialize_with = "crate::unique::deserialize")]
    pub labels: BTreeMap<String, String>,
    /// How many seats it is to have at most; its agent may say less.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 100000)]
    pub capacity: Option<u32>,
    /// PEM of authorities that issued its certificate, or of the certificate itself; `public` for public authorities.
    /// Without it: plain HTTP.
    #[serde(default)]
    #[schema(max_length = 65536)]
    pub tls_ca: Option<String>,
}

impl std::fmt::Debug for AddWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddWorker").field("address", &self.address).finish_non_exhaustive()
    }
}

/// `POST /api/admin/workers/{id}/drain`.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DrainWorker {
    /// Whether it takes no more seats, and free ones are moved elsewhere.
    pub draining: bool,
}
