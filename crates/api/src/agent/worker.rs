//! The worker itself: health, what it is, its images, drain.

use clarateach_ids::{InstallationId, WorkerId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `GET /health`: open to anyone.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkerHealth {
    /// `ok`.
    pub status: String,
    /// Which worker.
    #[schema(value_type = String)]
    pub worker_id: WorkerId,
    /// VMs there are.
    pub vm_count: u32,
    /// VMs that fit.
    pub capacity: u32,
    /// How long the agent has been up, in seconds.
    pub uptime_seconds: u64,
}

/// The VMM that makes VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmmView {
    /// `firecracker` or `qemu`.
    pub kind: String,
    /// Its own version string.
    pub version: Option<String>,
    /// Why it can't be used now.
    pub problem: Option<String>,
}

/// The bridge that VMs are on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgeView {
    /// Its name.
    pub name: String,
    /// Its address and prefix length, like `192.168.100.1/24`.
    pub address: String,
}

/// The host's memory in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemoryView {
    /// All of it.
    pub total_mb: u64,
    /// What could be used now without swapping.
    pub available_mb: u64,
}

/// The host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostView {
    /// Its name.
    pub hostname: String,
    /// Its kernel's release.
    pub kernel: String,
    /// Its processors.
    pub cpus: u32,
}

/// `GET /info`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WorkerInfo {
    /// Which worker.
    #[schema(value_type = String)]
    pub worker_id: WorkerId,
    /// The agent's version.
    pub version: String,
    /// The VMM that makes VMs.
    pub vmm: VmmView,
    /// The bridge that VMs are on; none where nothing real is made.
    pub bridge: Option<BridgeView>,
    /// VMs that fit.
    pub capacity: u32,
    /// VMs there are.
    pub vm_count: u32,
    /// The host's memory.
    pub memory: MemoryView,
    /// Images that VMs can be made from at once.
    pub images: Vec<ImageView>,
    /// The guests' kernel, like `6.1.102`.
    pub kernel_version: Option<String>,
    /// Whether no new VMs are taken.
    pub draining: bool,
    /// The control plane that asked for the drain; none where a person did, and where there is no drain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub drained_by: Option<InstallationId>,
    /// Whether this host has been told that it is about to be taken away (a preemptible GCP instance).
    #[serde(default)]
    pub preempted: bool,
    /// Whether learners may come directly: `/proxy` under this base URL.
    pub public_url: Option<String>,
    /// How long the agent has been up, in seconds.
    pub uptime_seconds: u64,
    /// The host.
    pub host: HostView,
    /// Anything to know about the isolation of VMs here and now.
    pub warnings: Vec<String>,
}

/// An image on this worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    /// As VMs name it.
    pub image: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Whether VMs that name no image get it.
    pub default: bool,
}

/// `GET /images`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImagesBody {
    /// In order of their names.
    pub images: Vec<ImageView>,
}

/// `POST /images`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrepareImage {
    /// The image to get ready.
    #[schema(max_length = 512)]
    pub image: String,
}

/// An image that is ready, by the name to give for VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageBody {
    /// The canonical name.
    pub image: String,
}

/// One line of `POST /images` with `Accept: application/x-ndjson`: how far it is. The last line is an [`ImageBody`] or
/// an error body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrepareStep {
    /// What is being done.
    pub step: String,
    /// Bytes done, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done: Option<u64>,
    /// Bytes in all, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
}

/// `POST /drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// Whether new VMs are refused from now on; survives a restart of the agent.
    pub draining: bool,
}

/// What drain there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DrainBody {
    /// Whether new VMs are refused.
    pub draining: bool,
    /// VMs that are still here.
    pub vm_count: u32,
}
