//! Google Compute Engine, as far as worker VMs need it: instances with nested virtualisation, their disks, snapshots, and the
//! operations that change them.
//!
//! [`Call`] is one REST call as data, so that it can be shown before it is made; [`Compute`] makes calls, tries again what may be
//! tried again, and waits for operations. [`InstanceSpec`] is what is wanted of a worker VM; [`gcloud`] says the same as a
//! command line. Source of every path and field name: Compute Engine's discovery document (`compute/v1`), of which
//! `crates/gcp/data/compute-v1-excerpt.json` is an excerpt that tests hold this crate against.

pub mod credentials;
#[cfg(feature = "double")]
pub mod double;
pub mod fleet;
pub mod gcloud;

mod call;
mod compute;
mod error;
mod machine_type;
mod model;
mod names;
mod spec;
mod startup;

pub use call::Call;
pub use compute::{Compute, Endpoint, Patience, ProjectInZone};
pub use credentials::Credentials;
pub use error::{GcpError, Kind, OperationError, Refusal};
pub use machine_type::{MachineType, UnfitMachineType};
pub use model::{
    AccessConfig, AdvancedMachineFeatures, AttachedDisk, Disk, Everywhere, InitializeParams, Instance,
    InstanceStatus, Metadata, MetadataItem, NetworkInterface, Operation, OperationStatus, Scheduling,
    SerialPortOutput, ServiceAccount, Snapshot, SnapshotStatus, Tags, Warning, last_segment,
};
pub use names::{BadName, Label, ResourceName};
pub use spec::{Boot, DEFAULT_SCOPES, Image, InstanceSpec};
pub use startup::{AGENT_TOKEN_ATTRIBUTE, STARTUP_SCRIPT, StartupFrom};
