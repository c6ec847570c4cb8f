//! Disks that stand by themselves, and their snapshots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{resource, status};

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
