//! Removing what nobody wants, in the background: what a crash has left, or a damaged record no longer speaks of.
//!
//! Only what is ours is touched: names that carry this runtime's mark, in its own directories, and taps and firewall
//! elements that the network says are ours.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clarateach_runtime::Egress;

use crate::disk;
use crate::host::Host;
use crate::journal::{Event, Record};
use crate::net::{Slot, Subnet};
use crate::vm::undo;
use crate::vmm::VmSpec;

const CGROUPS: &str = "/sys/fs/cgroup";

/// Taps that were there before this process and belong to no VM.
#[derive(Debug, Default)]
pub(crate) struct StrayTaps {
    /// Those of addresses that VMs here may get. Out of use until they are gone.
    reserved: Vec<Slot>,
}

/// Finds stray taps and takes their addresses out of use, so that no new VM meets one.
pub(crate) async fn mark(host: &Host) -> StrayTaps {
    let taps: HashSet<String> = match host.network.taps().await {
        Ok(taps) => taps.into_iter().collect(),
        Err(error) => {
            tracing::warn!(%error, "the taps on this host could not be listed");
            return StrayTaps::default();
        }
    };
    let own: HashSet<String> = host.board.slots().into_iter().map(|slot| slot.tap).collect();
    let mut strays: HashSet<&String> = taps.difference(&own).collect();
    let mut reserved = Vec::new();
    if !strays.is_empty() {
        for address in host.pool() {
            let slot = host.slot(address, Egress::Internet);
            if strays.remove(&slot.tap) && host.board.begin_sweep(address) {
                reserved.push(slot);
            }
        }
    }
    StrayTaps { reserved }
}

/// Removes everything of ours that no record speaks of.
pub(crate) async fn sweep(host: Arc<Host>, taps: StrayTaps) {
    let strangers = {
        let host = host.clone();
        // Reading /proc and long directories blocks.
        tokio::task::spawn_blocking(move || strangers(&host)).await.unwrap_or_default()
    };
    let count = strangers.len();
    for Stranger { instance, alive } in strangers {
        if host.closing.is_cancelled() {
            return;
        }
        if let Err(error) = end(&host, &instance, alive).await {
            tracing::warn!(%instance, %error, "a left-over could not be removed");
        }
    }
    host.images.sweep();
    sweep_boot(&host).await;
    host.snapshots.sweep(&host).await;
    // Last: a VMM that still ran had its tap in use.
    let removed = sweep_taps(&host, taps).await;
    if count > 0 || removed > 0 {
        tracing::info!(vms = count, taps = removed, "left-overs were removed");
    }
}

/// Removes what VMs of another workspace or other modules booted from.
async fn sweep_boot(host: &Host) {
    let Ok(current) = host.initramfs().await else { return };
    for entry in fs::read_dir(host.boot()).into_iter().flatten().flatten() {
        if entry.path() != current {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// A VM of ours that is in no record.
#[derive(Debug)]
struct Stranger {
    instance: String,
    /// Whether more than directories may be left of it: a process, a control group, sockets.
    alive: bool,
}

/// Names of VMs of ours that run, or have a directory or a control group, and are in no record.
fn strangers(host: &Host) -> Vec<Stranger> {
    let mut found: HashMap<String, bool> = HashMap::new();
    for name in names(&host.vms()).filter(|name| host.instances.is_ours(name)) {
        found.insert(name, false);
    }
    for name in names(&host.config.socket_dir).filter(|name| host.instances.is_ours(name)) {
        let empty = names(&host.config.socket_dir.join(&name)).next().is_none();
        found.insert(name, !empty);
    }
    let hierarchies = names(Path::new(CGROUPS)).map(|name| Path::new(CGROUPS).join(name));
    for hierarchy in hierarchies.chain([PathBuf::from(CGROUPS)]) {
        let groups = names(&hierarchy.join("clarateach")).filter(|name| host.instances.is_ours(name));
        found.extend(groups.map(|name| (name, true)));
    }
    for process in names(Path::new("/proc")).filter(|name| name.starts_with(|c: char| c.is_ascii_digit())) {
        if let Ok(line) = fs::read(Path::new("/proc").join(process).join("cmdline"))
            && let Some(name) = host.instances.named_in(&line)
        {
            found.insert(name.to_owned(), true);
        }
    }
    // Looked at last: what was made meanwhile is on the board.
    let known = host.known_instances();
    let strangers = found.into_iter().filter(|(name, _)| !known.contains(name));
    strangers.map(|(instance, alive)| Stranger { instance, alive }).collect()
}

fn names(directory: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

async fn end(host: &Host, instance: &str, alive: bool) -> std::io::Result<()> {
    let home = host.vm_directory(instance);
    let spec = VmSpec {
        instance: instance.to_owned(),
        run_dir: host.config.socket_dir.join(instance),
        console: home.join("console.log"),
        vcpus: 1,
        memory_mb: 1,
        kernel: PathBuf::new(),
        initramfs: None,
        kernel_args: String::new(),
        drives: Vec::new(),
        nic: None,
        control: false,
    };
    if alive {
        host.vmm.kill(&spec, None).await.map_err(std::io::Error::other)?;
    }
    remove(&spec.run_dir).await?;
    remove(&home).await
}

async fn remove(directory: &Path) -> std::io::Result<()> {
    let directory = directory.to_owned();
    tokio::task::spawn_blocking(move || disk::remove(&directory)).await?
}

async fn sweep_taps(host: &Host, taps: StrayTaps) -> usize {
    let mut removed = 0;
    for slot in taps.reserved {
        match host.network.detach(&slot).await {
            Ok(()) => removed += 1,
            // Its address is used again all the same: an attach mends what it finds.
            Err(error) => tracing::warn!(tap = slot.tap, %error, "a left-over tap could not be removed"),
        }
        host.board.end_sweep(slot.address);
    }
    // What the firewall says of addresses without a VM is settled too. Meanwhile no VM is made that must not reach the
    // internet: what is said of it in the firewall could be taken for a left-over.
    let _turn = host.closed_egress.write().await;
    match host.network.sweep(&host.keep()).await {
        Ok(count) => removed + count,
        Err(error) => {
            tracing::warn!(%error, "left-over taps could not be removed");
            removed
        }
    }
}

impl Host {
    /// The addresses that VMs can have here.
    fn pool(&self) -> Vec<Ipv4Addr> {
        let (gateway, prefix) = self.network.gateway();
        Subnet::new(gateway, prefix).map(|subnet| subnet.pool().collect()).unwrap_or_default()
    }

    /// The slots that a sweep must leave alone: those of VMs, and of all that may come while it goes on.
    fn keep(&self) -> Vec<Slot> {
        let mut keep = self.board.slots();
        let own: HashSet<Ipv4Addr> = keep.iter().map(|slot| slot.address).collect();
        let free = self.pool().into_iter().filter(|address| !own.contains(address));
        keep.extend(free.map(|address| self.slot(address, Egress::Internet)));
        keep
    }

    /// The names of all VMs that somebody speaks of.
    pub(crate) fn known_instances(&self) -> HashSet<String> {
        let mut known = self.board.instances();
        known.extend(self.journal.instances());
        known
    }

    /// Removes a make of a seat that a later one has replaced.
    pub(crate) fn forget_later(self: &Arc<Self>, record: Record) {
        let host = self.clone();
        tokio::spawn(async move {
            match undo(&host, &record).await {
                Ok(()) => {
                    let _ = host.journal.write(Event::Gone { instance: record.instance().to_owned() });
                }
                Err(fault) => {
                    tracing::warn!(instance = record.instance(), error = %fault, "a replaced VM could not be removed");
                }
            }
        });
    }
}
