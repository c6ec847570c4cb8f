//! Starting VMs from a snapshot of one that is parked.

use std::sync::Arc;

use crate::error::Fault;
use crate::host::Host;
use crate::journal::Record;
use crate::vmm::Snapshot;

/// How a VM is started.
#[derive(Debug)]
pub(crate) enum Start {
    /// By booting its kernel.
    Boot,
    /// From a snapshot.
    Restore(Box<Snapshot>),
}

/// The snapshots of this host.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {}

impl Snapshots {
    /// How to start a VM now.
    pub(crate) fn start_of(&self, _host: &Arc<Host>, _record: &Record) -> Start {
        Start::Boot
    }

    /// A restore has failed.
    pub(crate) fn failed(&self, record: &Record, fault: &Fault) {
        tracing::warn!(instance = record.instance(), error = %fault, "a snapshot could not be restored; booting instead");
    }
}
