//! VMs as they are asked for and shown.

use std::collections::BTreeMap;
use std::fmt;

use clarateach_ids::{Generation, SeatNumber, WorkshopId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a VM may connect to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EgressView {
    /// The internet, but no private, link-local, carrier or metadata address, and not the host.
    #[default]
    Internet,
    /// Nowhere.
    None,
}

/// When a VM is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessView {
    /// When its workspace answers.
    Health,
    /// When it answers a ping: for guests without a workspace.
    Ping,
}

/// `POST /vms`.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// The workshop: 1 to 63 characters from a-z, A-Z, 0-9, `-` and `_`, the first a letter or digit.
    #[schema(value_type = String, max_length = 63)]
    pub workshop_id: WorkshopId,
    /// The seat.
    #[schema(value_type = u32, minimum = 1, maximum = 65535)]
    pub seat_id: SeatNumber,
    /// The image; the worker's default image unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 512)]
    pub image: Option<String>,
    /// Processors; 2 unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32)]
    pub vcpus: Option<u32>,
    /// Memory in MiB; 512 unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 64, maximum = 1048576)]
    pub memory_mb: Option<u32>,
    /// Disk in MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 16, maximum = 16777216)]
    pub disk_mb: Option<u32>,
    /// The learner's environment variables.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "crate::unique::deserialize"
    )]
    pub env: BTreeMap<String, String>,
    /// What the VM's workspace asks of every caller, 16 to 256 printable ASCII characters; a random one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 16, max_length = 256)]
    pub secret: Option<String>,
    /// Where it may connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<EgressView>,
    /// Which make of the seat; the next unused one unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, minimum = 1)]
    pub generation: Option<Generation>,
    /// When the worker ends the VM by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_after: Option<Timestamp>,
    /// How it is found ready; the worker's own way unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness: Option<ReadinessView>,
}

impl fmt::Debug for NewVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewVm")
            .field("workshop_id", &self.workshop_id)
            .field("seat_id", &self.seat_id)
            .finish_non_exhaustive()
    }
}

/// `PUT /vms/{workshop}/{seat}`: all that a control plane wants of a seat.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DesiredVm {
    /// Which make of the seat.
    #[schema(value_type = u64, minimum = 1)]
    pub generation: Generation,
    /// The image, as `GET /images/resolve` gave it.
    #[schema(max_length = 512)]
    pub image: String,
    /// Processors.
    #[schema(minimum = 1, maximum = 32)]
    pub vcpus: u32,
    /// Memory in MiB.
    #[schema(minimum = 64, maximum = 1048576)]
    pub memory_mb: u32,
    /// Disk in MiB.
    #[schema(minimum = 16, maximum = 16777216)]
    pub disk_mb: u32,
    /// The learner's environment variables.
    #[serde(default, deserialize_with = "crate::unique::deserialize")]
    pub env: BTreeMap<String, String>,
    /// What the VM's workspace asks of every caller, 16 to 256 printable ASCII characters.
    #[schema(min_length = 16, max_length = 256)]
    pub secret: String,
    /// Where it may connect to.
    #[serde(default)]
    pub egress: EgressView,
    /// When the worker ends the VM by itself.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_after: Option<Timestamp>,
}

impl fmt::Debug for DesiredVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DesiredVm")
            .field("generation", &self.generation)
            .field("image", &self.image)
            .finish_non_exhaustive()
    }
}

/// Why a VM is as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReasonView {
    /// Upper snake case, like `IMAGE_NOT_FOUND`.
    pub code: String,
    /// One sentence that an instructor understands.
    pub message: String,
}

/// What a VM is made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmDetails {
    /// The image it was made from.
    pub image: String,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// Disk in MiB.
    pub disk_mb: u32,
    /// When it was asked for.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the worker ends it by itself.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub not_after: Option<Timestamp>,
}

/// A VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmView {
    /// The workshop it was made for.
    #[schema(value_type = String)]
    pub workshop_id: WorkshopId,
    /// The seat it was made for.
    #[schema(value_type = u32)]
    pub seat_id: SeatNumber,
    /// Its address on the bridge.
    pub ip: Option<String>,
    /// `starting`, `ready`, `unresponsive`, `stopped`, `failed` or `removing`.
    pub status: String,
    /// Which make of the seat.
    #[schema(value_type = u64)]
    pub generation: Generation,
    /// Why, for `unresponsive`, `stopped` and `failed`.
    pub reason: Option<ReasonView>,
    /// What its runtime calls it, for operators: the VMM's process.
    pub handle: Option<String>,
    /// The end of what its console printed; only when one VM is asked for and is not well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub console: Option<String>,
    /// What it is made of.
    #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
    pub details: Option<VmDetails>,
}

/// `{"vms":[…]}`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VmsBody {
    /// By workshop and seat.
    pub vms: Vec<VmView>,
}

/// `GET /watch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WatchBody {
    /// Moves on whenever what `GET /vms` says may have changed; to be given as `since` next time.
    pub revision: u64,
}

/// `GET /vms/{workshop}/{seat}/logs`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VmLogs {
    /// The end of what its console printed, at most 64 KiB.
    pub log: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_printed() {
        let text = r#"{"workshop_id":"w","seat_id":1,"secret":"hush-hush-hush-hush","env":{"A":"quiet"}}"#;
        let wish: NewVm = serde_json::from_str(text).unwrap();
        let printed = format!("{wish:?}");
        assert!(!printed.contains("hush") && !printed.contains("quiet"), "{printed}");
    }
}
