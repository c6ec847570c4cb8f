//! What is written down of a VM.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_runtime::{ImageRef, Reason};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::config::Readiness;
use crate::net::Slot;
use crate::vm::Phase;
use crate::vmm::{VmProcess, VmSpec};

/// Everything that another process must know to take a VM over, or to remove what was made of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) workshop: WorkshopId,
    pub(crate) seat: SeatNumber,
    pub(crate) generation: Generation,
    pub(crate) slot: Slot,
    pub(crate) spec: VmSpec,
    /// The image as the wish named it.
    pub(crate) image: ImageRef,
    /// Which make of the image: its file in `bases/` is kept while a VM uses it.
    pub(crate) base: String,
    /// The upper drive.
    pub(crate) upper: PathBuf,
    /// Its size in MiB.
    pub(crate) disk_mb: u32,
    pub(crate) env: BTreeMap<String, String>,
    /// Asked by the workspace of every caller. The journal's file is closed to others.
    pub(crate) secret: String,
    pub(crate) not_after: Option<Timestamp>,
    pub(crate) readiness: Readiness,
    pub(crate) created_at: Timestamp,
    pub(crate) phase: Phase,
    /// Why, for phases that need one.
    pub(crate) reason: Option<Reason>,
    /// The VMM, from the moment it was spawned.
    pub(crate) process: Option<VmProcess>,
}

impl Record {
    pub(crate) fn key(&self) -> SeatKey {
        SeatKey { workshop: self.workshop.clone(), seat: self.seat }
    }

    pub(crate) fn instance(&self) -> &str {
        &self.spec.instance
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("seat", &format_args!("{}", self.key()))
            .field("generation", &self.generation)
            .field("instance", &self.spec.instance)
            .field("phase", &self.phase)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A VM is to be made, or to be made again; replaces what was said of this instance before.
    Intended(Box<Record>),
    /// Its VMM has been spawned; the guest does not run yet.
    Spawned { instance: String, process: VmProcess },
    /// It has come to another phase.
    Phase { instance: String, phase: Phase, reason: Option<Reason> },
    /// Nothing of it is left.
    Gone { instance: String },
}
