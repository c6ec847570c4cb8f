//! Virtual machines, and what they are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{last_segment, resource, status};

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
