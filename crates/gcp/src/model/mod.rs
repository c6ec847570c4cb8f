//! Compute Engine's resources: the fields that we write or read, under the names of the discovery document. Unknown fields of
//! answers are ignored.

mod instance;
mod operation;
mod storage;

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

pub use instance::{
    AccessConfig, AdvancedMachineFeatures, AttachedDisk, InitializeParams, Instance, InstanceStatus,
    Metadata, MetadataItem, NetworkInterface, Scheduling, SerialPortOutput, ServiceAccount, Tags,
};
pub use operation::{Operation, OperationStatus, Warning};
pub use storage::{Disk, Snapshot, SnapshotStatus};

/// The last part of a resource's URL: its name.
#[must_use]
pub fn last_segment(url: &str) -> &str {
    url.rsplit('/').next().unwrap_or(url)
}

/// A resource: each field may be missing, in what is sent as in what comes.
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
use resource;

/// A status that is written in capitals.
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
use status;

/// Instances of every zone.
#[derive(Debug, Clone, Default)]
pub struct Everywhere {
    /// The instances.
    pub instances: Vec<Instance>,
    /// Zones that did not answer: what they have is not among the instances.
    pub unreachable: BTreeSet<String>,
}

/// A page of a list over all zones.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ScopedPage {
    /// By `zones/{zone}`.
    #[serde(default)]
    pub(crate) items: BTreeMap<String, Scope>,
    #[serde(default)]
    pub(crate) unreachables: Vec<String>,
    #[serde(default)]
    pub(crate) next_page_token: Option<String>,
}

/// What one zone has.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Scope {
    #[serde(default)]
    pub(crate) instances: Vec<Instance>,
    /// Why there are none: `NO_RESULTS_ON_PAGE`, `UNREACHABLE`.
    #[serde(default)]
    pub(crate) warning: Option<Warning>,
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
