//! What a snapshot is of, written beside it, so that one that does not fit is refused in words.

use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Snapshot, VmSpec, VmmError};

/// Raised when machines are put together otherwise, or files mean something else.
const FORMAT: u32 = 1;

/// What a machine must have in common with the one that was snapshotted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    version: String,
    vcpus: u32,
    memory_mb: u32,
    drives: Vec<(String, bool)>,
    nic: bool,
    control: bool,
}

impl Manifest {
    pub(super) fn of(spec: &VmSpec, version: &str) -> Self {
        Self {
            format: FORMAT,
            version: version.to_owned(),
            vcpus: spec.vcpus,
            memory_mb: spec.memory_mb,
            drives: spec.drives.iter().map(|drive| (drive.id.clone(), drive.read_only)).collect(),
            nic: spec.nic.is_some(),
            control: spec.control,
        }
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), VmmError> {
        let path = dir.join("manifest.json");
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::from);
        text.and_then(|text| fs::write(&path, text)).map_err(|source| VmmError::Io {
            operation: "write",
            path,
            source,
        })
    }

    /// Reads a snapshot's manifest and holds it against what is to be restored.
    pub(super) fn check(snapshot: &Snapshot, spec: &VmSpec, version: &str) -> Result<(), VmmError> {
        let path = snapshot.dir.join("manifest.json");
        let io_error = |source| VmmError::Io { operation: "read", path: path.clone(), source };
        let text = fs::read(&path).map_err(io_error)?;
        let found: Self = serde_json::from_slice(&text).map_err(|error| io_error(error.into()))?;
        let wanted = Self::of(spec, version);
        if found == wanted {
            return Ok(());
        }
        Err(VmmError::Refused {
            instance: spec.instance.clone(),
            call: "restore".to_owned(),
            message: format!("the snapshot is of another machine: {found:?}, not {wanted:?}"),
        })
    }
}
