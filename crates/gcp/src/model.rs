//! Compute Engine's resources: the fields that we write or read, under the names of the discovery document. Unknown fields of
//! answers are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The last part of a resource's URL: its name.
#[must_use]
pub fn last_segment(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

macro_rules! resource {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $field: Option<$type>,)*
        }
    };
}

macro_rules! status {
    ($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $text)] $variant,)*
            /// One that this version does not know.
            #[default]
            #[serde(other, rename = "UNKNOWN")]
            Unknown,
        }

        impl $name {
            /// As the API spells it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown => "UNKNOWN",
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

status! {
    /// An instance's life cycle.
    InstanceStatus {
        /// Waiting for capacity.
        Pending = "PENDING",
        /// Resources are being allocated.
        Provisioning = "PROVISIONING",
        /// It is being started.
        Staging = "STAGING",
        /// It runs.
        Running = "RUNNING",
        /// Shutting down gracefully.
        PendingStop = "PENDING_STOP",
        /// Being stopped, deleted or preempted.
        Stopping = "STOPPING",
        /// Stopped.
        Stopped = "STOPPED",
        /// Stopped, by somebody, by preemption or by a failure.
        Terminated = "TERMINATED",
        /// Being suspended.
        Suspending = "SUSPENDING",
        /// Suspended.
        Suspended = "SUSPENDED",
        /// Being repaired.
        Repairing = "REPAIRING",
        /// Being torn down.
        Deprovisioning = "DEPROVISIONING",
    }
}

impl InstanceStatus {
    /// Whether it holds no machine: it can be started, and its disks are at rest.
    #[must_use]
    pub fn is_stopped(self) -> bool {
        matches!(self, Self::Terminated | Self::Stopped)
    }
}

status! {
    /// A snapshot's life.
    SnapshotStatus {
        /// Being made.
        Creating = "CREATING",
        /// Being uploaded.
        Uploading = "UPLOADING",
        /// It can be used.
        Ready = "READY",
        /// It could not be made.
        Failed = "FAILED",
        /// Being deleted.
        Deleting = "DELETING",
    }
}

status! {
    /// An operation's life.
    OperationStatus {
        /// Not yet begun.
        Pending = "PENDING",
        /// At it.
        Running = "RUNNING",
        /// Over, with or without errors.
        Done = "DONE",
    }
}

resource! {
    /// A virtual machine.
    Instance {
        /// Given by the API; never used again.
        id: String,
        /// RFC 1035 label.
        name: String,
        /// Shown to people.
        description: String,
        /// URL of the zone.
        zone: String,
        /// `zones/{zone}/machineTypes/{type}`.
        machine_type: String,
        /// Life cycle.
        status: InstanceStatus,
        /// Why it has that status.
        status_message: String,
        /// RFC 3339.
        creation_timestamp: String,
        /// RFC 3339; when it was last started.
        last_start_timestamp: String,
        /// RFC 3339; when it was last stopped.
        last_stop_timestamp: String,
        /// For people and for filters.
        labels: BTreeMap<String, String>,
        /// Has to be given back when labels are set.
        label_fingerprint: String,
        /// The first one is booted from.
        disks: Vec<AttachedDisk>,
        /// Nested virtualisation among others.
        advanced_machine_features: AdvancedMachineFeatures,
        /// Spot or standard.
        scheduling: Scheduling,
        /// Addresses.
        network_interfaces: Vec<NetworkInterface>,
        /// Who the machine is to other services.
        service_accounts: Vec<ServiceAccount>,
        /// For firewall rules.
        tags: Tags,
        /// Told to the machine.
        metadata: Metadata,
        /// Has to be switched off before it can be deleted.
        deletion_protection: bool,
    }
}

impl Instance {
    /// The instance's name, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Name of the zone.
    #[must_use]
    pub fn zone_name(&self) -> &str {
        last_segment(self.zone.as_deref().unwrap_or_default())
    }

    /// Name of the machine type.
    #[must_use]
    pub fn machine_type_name(&self) -> &str {
        last_segment(self.machine_type.as_deref().unwrap_or_default())
    }

    /// Life cycle.
    #[must_use]
    pub fn status(&self) -> InstanceStatus {
        self.status.unwrap_or_default()
    }

    /// The disk that it boots from.
    #[must_use]
    pub fn boot_disk(&self) -> Option<&AttachedDisk> {
        self.disks.iter().flatten().find(|disk| disk.boot == Some(true))
    }

    /// Its address within the network.
    #[must_use]
    pub fn internal_ip(&self) -> Option<&str> {
        self.network_interfaces.as_ref()?.first()?.network_ip.as_deref()
    }

    /// Its address on the internet, if it has one.
    #[must_use]
    pub fn external_ip(&self) -> Option<&str> {
        let interface = self.network_interfaces.as_ref()?.first()?;
        interface.access_configs.as_ref()?.first()?.nat_ip.as_deref()
    }

    /// Whether microVMs can run in it.
    #[must_use]
    pub fn nested_virtualization(&self) -> bool {
        self.advanced_machine_features.as_ref().and_then(|features| features.enable_nested_virtualization)
            == Some(true)
    }

    /// Whether it may be preempted.
    #[must_use]
    pub fn is_spot(&self) -> bool {
        let scheduling = self.scheduling.as_ref();
        scheduling.and_then(|how| how.provisioning_model.as_deref()) == Some("SPOT")
            || scheduling.and_then(|how| how.preemptible) == Some(true)
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(String::as_str)
    }
}

resource! {
    /// A disk of an instance.
    AttachedDisk {
        /// Booted from.
        boot: bool,
        /// Goes with the instance.
        auto_delete: bool,
        /// `PERSISTENT` or `SCRATCH`.
        r#type: String,
        /// `READ_WRITE` or `READ_ONLY`.
        mode: String,
        /// Name below `/dev/disk/by-id/google-`.
        device_name: String,
        /// URL of the disk.
        source: String,
        /// GB, as text.
        disk_size_gb: String,
        /// For a disk that is made with the instance.
        initialize_params: InitializeParams,
    }
}

resource! {
    /// How a disk is made.
    InitializeParams {
        /// The instance's name unless given.
        disk_name: String,
        /// GB, as text.
        disk_size_gb: String,
        /// `zones/{zone}/diskTypes/{type}`.
        disk_type: String,
        /// `projects/{project}/global/images/family/{family}`.
        source_image: String,
        /// `global/snapshots/{snapshot}`.
        source_snapshot: String,
        /// For people and for filters.
        labels: BTreeMap<String, String>,
    }
}

resource! {
    /// CPU features.
    AdvancedMachineFeatures {
        /// KVM inside the machine. Can't be changed while it exists.
        enable_nested_virtualization: bool,
    }
}

resource! {
    /// When a machine may be stopped, and what becomes of it.
    Scheduling {
        /// `STANDARD` or `SPOT`.
        provisioning_model: String,
        /// `STOP` or `DELETE`, when it is preempted.
        instance_termination_action: String,
        /// Never with Spot.
        automatic_restart: bool,
        /// `MIGRATE` or `TERMINATE`; Spot and nested virtualisation terminate.
        on_host_maintenance: String,
        /// The older word for Spot.
        preemptible: bool,
    }
}

resource! {
    /// One of a machine's networks.
    NetworkInterface {
        /// `global/networks/{network}`.
        network: String,
        /// `regions/{region}/subnetworks/{subnetwork}`.
        subnetwork: String,
        /// Internal address.
        #[serde(rename = "networkIP")]
        network_ip: String,
        /// External addresses.
        access_configs: Vec<AccessConfig>,
    }
}

resource! {
    /// An external address.
    AccessConfig {
        /// `ONE_TO_ONE_NAT`.
        r#type: String,
        /// `external-nat`.
        name: String,
        /// The address.
        #[serde(rename = "natIP")]
        nat_ip: String,
    }
}

resource! {
    /// Who a machine is to other services.
    ServiceAccount {
        /// Address, or `default`.
        email: String,
        /// OAuth scopes.
        scopes: Vec<String>,
    }
}

resource! {
    /// Network tags.
    Tags {
        /// The tags.
        items: Vec<String>,
    }
}

resource! {
    /// What a machine is told.
    Metadata {
        /// Keys and values.
        items: Vec<MetadataItem>,
    }
}

resource! {
    /// One thing a machine is told.
    MetadataItem {
        /// Up to 128 of `a-zA-Z0-9_-`.
        key: String,
        /// Up to 256 KB.
        value: String,
    }
}

resource! {
    /// A disk.
    Disk {
        /// Given by the API; never used again.
        id: String,
        /// RFC 1035 label.
        name: String,
        /// URL of the zone.
        zone: String,
        /// `CREATING`, `RESTORING`, `READY`, `FAILED`, `DELETING` or `UNAVAILABLE`.
        status: String,
        /// GB, as text.
        size_gb: String,
        /// URL of the disk type.
        r#type: String,
        /// URLs of the instances that it is attached to.
        users: Vec<String>,
        /// URL of the snapshot that it was made of.
        source_snapshot: String,
        /// Id of that snapshot.
        source_snapshot_id: String,
        /// URL of the image that it was made of.
        source_image: String,
        /// For people and for filters.
        labels: BTreeMap<String, String>,
        /// RFC 3339.
        creation_timestamp: String,
    }
}

impl Disk {
    /// The disk's name, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

resource! {
    /// A snapshot of a disk.
    Snapshot {
        /// Given by the API; never used again.
        id: String,
        /// RFC 1035 label.
        name: String,
        /// Shown to people.
        description: String,
        /// Whether it can be used.
        status: SnapshotStatus,
        /// RFC 3339.
        creation_timestamp: String,
        /// URL of the disk.
        source_disk: String,
        /// Id of that disk.
        source_disk_id: String,
        /// GB of the disk, as text.
        disk_size_gb: String,
        /// Bytes stored, as text.
        storage_bytes: String,
        /// For people and for filters.
        labels: BTreeMap<String, String>,
        /// Has to be given back when labels are set.
        label_fingerprint: String,
    }
}

impl Snapshot {
    /// The snapshot's name, or nothing.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// Whether it can be used.
    #[must_use]
    pub fn status(&self) -> SnapshotStatus {
        self.status.unwrap_or_default()
    }
}

resource! {
    /// Something that takes a while.
    Operation {
        /// Given by the API.
        id: String,
        /// Its name, to ask after it.
        name: String,
        /// `insert`, `delete`, `start`, `stop`, `createSnapshot`, `compute.instances.preempted`, …
        operation_type: String,
        /// Whether it is over.
        status: OperationStatus,
        /// What it is about, for people.
        status_message: String,
        /// 0 to 100.
        progress: u32,
        /// URL of what it changes.
        target_link: String,
        /// Id of what it changes.
        target_id: String,
        /// URL of its zone; none: a global one.
        zone: String,
        /// RFC 3339.
        insert_time: String,
        /// RFC 3339.
        start_time: String,
        /// RFC 3339.
        end_time: String,
        /// What went wrong.
        error: OperationErrors,
        /// What somebody should know.
        warnings: Vec<Warning>,
        /// The status that the error would have had as an answer.
        http_error_status_code: u16,
        /// And its message.
        http_error_message: String,
    }
}

impl Operation {
    /// Name of the thing that is changed.
    #[must_use]
    pub fn target(&self) -> &str {
        last_segment(self.target_link.as_deref().unwrap_or_default())
    }
}

resource! {
    /// What went wrong with an operation.
    OperationErrors {
        /// One or more.
        errors: Vec<OperationErrorItem>,
    }
}

resource! {
    /// One thing that went wrong.
    OperationErrorItem {
        /// `QUOTA_EXCEEDED`, `ZONE_RESOURCE_POOL_EXHAUSTED`, …
        code: String,
        /// For people.
        message: String,
        /// The field that is at fault.
        location: String,
    }
}

resource! {
    /// What somebody should know of an operation.
    Warning {
        /// `DISK_SIZE_LARGER_THAN_IMAGE_SIZE`, …
        code: String,
        /// For people.
        message: String,
    }
}

resource! {
    /// A piece of a serial console.
    SerialPortOutput {
        /// The text.
        contents: String,
        /// Where it begins, in bytes; later than asked for when what was before is gone.
        start: String,
        /// Where the next piece begins.
        next: String,
    }
}

/// A page of a list.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", bound = "T: serde::de::DeserializeOwned")]
pub(crate) struct Page<T> {
    #[serde(default = "Vec::new")]
    pub(crate) items: Vec<T>,
    #[serde(default)]
    pub(crate) next_page_token: Option<String>,
}
