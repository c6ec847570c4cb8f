//! Taking over what an earlier process has left.
//!
//! Nothing is asked of anybody but /proc: 200 VMs are taken over before the listener is up. What has to be waited for
//! (killing what is half-made, starting what the host's reboot has ended) is done by the seats' tasks.

use std::collections::HashMap;
use std::fs;
use std::net::Ipv4Addr;
use std::sync::Arc;

use clarateach_ids::SeatKey;
use clarateach_runtime::{Egress, Generations};
use tokio::sync::mpsc;

use crate::host::Host;
use crate::journal::Record;
use crate::net::Slot;
use crate::vm::{self, Adoption, Origin, Phase, Request, Vm};

/// Starts a task for every seat that is written down.
pub(crate) fn adopt(host: &Arc<Host>, records: Vec<Record>) {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut newest: HashMap<SeatKey, Record> = HashMap::new();
    let mut superseded = Vec::new();
    for record in records {
        if let Some(other) = newest.remove(&record.key()) {
            // A higher generation was begun and the lower one not yet gone.
            let (older, newer) =
                if other.generation < record.generation { (other, record) } else { (record, other) };
            superseded.push(older);
            newest.insert(newer.key(), newer);
        } else {
            newest.insert(record.key(), record);
        }
    }
    let found = newest.into_values().map(|record| take(host, record, boot_id.trim()));
    // Begun when all are known: what is undone of one must not be another's.
    for (key, requests, origin) in found.collect::<Vec<_>>() {
        tokio::spawn(vm::run(host.clone(), key, requests, origin));
    }
    for record in superseded {
        host.forget_later(record);
    }
}

/// The places of VMs that may still run and may connect to nowhere, but for those that another VM has by now.
pub(crate) fn confined(records: &[Record], generations: &Generations) -> Vec<Slot> {
    let is_let_out = |address: Ipv4Addr| {
        records.iter().any(|record| {
            record.slot.address == address
                && record.slot.egress == Egress::Internet
                && record.phase.has_process()
                && generations.is_wanted(&record.key(), record.generation)
        })
    };
    let shut_in =
        records.iter().filter(|record| record.slot.egress == Egress::None && record.phase.has_process());
    shut_in.map(|record| &record.slot).filter(|slot| !is_let_out(slot.address)).cloned().collect()
}

/// Shows a VM and says what its seat's task begins with.
fn take(
    host: &Arc<Host>,
    mut record: Record,
    boot_id: &str,
) -> (SeatKey, mpsc::UnboundedReceiver<Request>, Origin) {
    let key = record.key();
    let seen = host.generations.seen(&key).filter(|seen| seen.generation == record.generation);
    if let Some(seen) = seen {
        record.not_after = seen.not_after;
    }
    let wanted = host.generations.is_wanted(&key, record.generation);
    let process = record.process.clone();
    let alive = process.as_ref().is_some_and(|process| host.vmm.is_alive(&record.spec, process));
    let same_boot = process.as_ref().is_none_or(|process| process.boot_id.trim() == boot_id);
    let adoption = record.phase.adopt(wanted, alive, same_boot);
    tracing::info!(seat = %key, instance = record.instance(), phase = ?record.phase, alive, ?adoption, "found");
    if record.phase.holds_address() {
        host.images.hold_again(&record.base);
    }
    let (vm, phase) = view(&record, adoption);
    let requests = host.board.adopt(vm, phase, record.slot.clone(), record.secret.clone().into());
    (key, requests, Origin::Adopted(Box::new(record), adoption))
}

/// What is shown of an adopted VM until it has been asked.
fn view(record: &Record, adoption: Adoption) -> (Vm, Phase) {
    let phase = match adoption {
        Adoption::Undo => Phase::Removing,
        Adoption::StartAgain => Phase::Restarting,
        Adoption::Stop => Phase::Stopped,
        Adoption::TakeOver | Adoption::Keep => record.phase,
    };
    let vm = Vm {
        key: record.key(),
        generation: record.generation,
        instance: record.instance().to_owned(),
        address: record.slot.address,
        mac: record.slot.mac,
        state: vm::shown(phase, None),
        reason: record.reason.clone(),
        pid: record.process.as_ref().filter(|_| adoption == Adoption::TakeOver).map(|process| process.pid),
        started: adoption == Adoption::TakeOver,
        restored: false,
        created_at: record.created_at,
        not_after: record.not_after,
        readiness: record.readiness,
        image: record.image.clone(),
        vcpus: record.spec.vcpus,
        memory_mb: record.spec.memory_mb,
        disk_mb: record.disk_mb,
    };
    (vm, phase)
}
