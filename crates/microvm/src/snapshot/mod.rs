//! Starting VMs from a snapshot of one that is parked.
//!
//! The first VM of a kind boots to its park point: base mounted, upper attached and not mounted, no address, no secret.
//! There it is snapshotted, ended, and restored from that snapshot itself, so a snapshot that others start from has
//! been seen to work. Every VM of the kind that is made later is restored from it, and told who it is exactly as one that has
//! booted. Whatever goes wrong with a snapshot, the VM is booted instead, and the snapshot is not used again.
//!
//! A kind is everything that a snapshot depends on: image, kernel, initramfs, processors, memory, size of the drive, the VMM's
//! version, the host's processor. When one of them changes the kind is another, and the old one's files are removed.
//!
//! ```text
//! {state}/snapshots/{kind}/       what the VMM writes
//! {state}/snapshots/{kind}.json   what it was taken from; written last, so what has none is no snapshot
//! ```

mod kind;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::error::Fault;
use crate::host::Host;
use crate::journal::Record;
use crate::vmm::{Snapshot, VmProcess};

pub(crate) use kind::Kind;

/// How a VM is started.
#[derive(Debug)]
pub(crate) enum Start {
    /// By booting its kernel. With a kind, it is the first of it and to be snapshotted when it is parked.
    Boot(Option<Kind>),
    /// From a snapshot.
    Restore(Kind, Box<Snapshot>),
}

/// How far a kind's snapshot is.
#[derive(Debug, Clone)]
enum State {
    /// A VM is on its way to being snapshotted.
    Making,
    /// It was restored and answered.
    Ready(Box<Snapshot>),
    /// It can't be made or restored; VMs of the kind boot.
    Broken,
}

/// The file beside a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Taken {
    kind: Kind,
    snapshot: Snapshot,
}

/// The snapshots of this host.
#[derive(Debug)]
pub(crate) struct Snapshots {
    directory: PathBuf,
    enabled: bool,
    kinds: Mutex<HashMap<String, State>>,
}

fn lock(kinds: &Mutex<HashMap<String, State>>) -> MutexGuard<'_, HashMap<String, State>> {
    kinds.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Snapshots {
    /// Finds the snapshots that an earlier process has taken.
    pub(crate) fn open(directory: PathBuf, enabled: bool) -> Self {
        let mut kinds = HashMap::new();
        for taken in all(&directory) {
            kinds.insert(taken.kind.name(), State::Ready(Box::new(taken.snapshot)));
        }
        Self { directory, enabled, kinds: Mutex::new(kinds) }
    }

    /// How to start a VM that is made now. Who is told to make a snapshot says later how it went.
    pub(crate) async fn start_of(&self, host: &Host, record: &Record) -> Start {
        if !self.enabled || !record.spec.control {
            return Start::Boot(None);
        }
        let Ok(kind) = Kind::of(host, record).await else { return Start::Boot(None) };
        let mut kinds = lock(&self.kinds);
        match kinds.get(&kind.name()) {
            Some(State::Ready(snapshot)) => Start::Restore(kind, snapshot.clone()),
            Some(State::Making | State::Broken) => Start::Boot(None),
            None => {
                kinds.insert(kind.name(), State::Making);
                Start::Boot(Some(kind))
            }
        }
    }

    /// Snapshots a parked VM, which stays paused.
    ///
    /// # Errors
    /// Whatever the VMM failed at.
    pub(crate) async fn take(
        &self,
        host: &Host,
        record: &Record,
        process: &VmProcess,
        kind: &Kind,
    ) -> Result<Snapshot, Fault> {
        let directory = self.directory.join(kind.name());
        clear(&self.directory, &kind.name())
            .map_err(|error| Fault::io("SNAPSHOT_FAILED", "removing an old snapshot", &error))?;
        Ok(host.vmm.snapshot(&record.spec, process, &directory).await?)
    }

    /// A VM was restored from this snapshot and has answered: others may be too.
    pub(crate) fn works(&self, kind: Kind, snapshot: Snapshot) {
        let name = kind.name();
        if matches!(lock(&self.kinds).get(&name), Some(State::Ready(_))) {
            return;
        }
        let superseded: Vec<String> = all(&self.directory)
            .filter(|other| other.kind.is_replaced_by(&kind))
            .map(|other| other.kind.name())
            .collect();
        let taken = Taken { kind, snapshot: snapshot.clone() };
        let file = self.directory.join(format!("{name}.json"));
        let written = serde_json::to_vec_pretty(&taken).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| publish(&file, &text)) {
            tracing::warn!(%error, "a snapshot is used, but not beyond this process: it could not be noted");
        }
        tracing::info!(kind = name, "VMs of this kind start from a snapshot now");
        lock(&self.kinds).insert(name, State::Ready(Box::new(snapshot)));
        for old in superseded {
            self.forget(&old);
        }
    }

    /// Nobody makes it any more, and nothing is known against it.
    pub(crate) fn abandon(&self, kind: &Kind) {
        let mut kinds = lock(&self.kinds);
        if matches!(kinds.get(&kind.name()), Some(State::Making)) {
            kinds.remove(&kind.name());
        }
    }

    /// It could not be taken or restored, or nothing answered after that: VMs of its kind boot from now on.
    pub(crate) fn broken(&self, kind: &Kind, why: &Fault) {
        tracing::warn!(kind = kind.name(), error = %why, "a snapshot can't be used; VMs of this kind boot");
        lock(&self.kinds).insert(kind.name(), State::Broken);
        if let Err(error) = clear(&self.directory, &kind.name()) {
            tracing::warn!(%error, "a snapshot that can't be used could not be removed");
        }
    }

    fn forget(&self, name: &str) {
        lock(&self.kinds).remove(name);
        // What runs from it has its files open.
        if let Err(error) = clear(&self.directory, name) {
            tracing::warn!(%error, "an old snapshot could not be removed");
        }
    }

    /// Removes what is of no use: half-written snapshots, and those of kinds that no VM can have any more.
    pub(crate) async fn sweep(&self, host: &Host) {
        for taken in all(&self.directory).collect::<Vec<_>>() {
            if !self.enabled || !taken.kind.is_current(host).await {
                self.forget(&taken.kind.name());
            }
        }
        let known: Vec<String> = lock(&self.kinds).keys().cloned().collect();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = name.split('.').next().unwrap_or_default();
            if !known.iter().any(|known| known == kind)
                && let Err(error) = clear_path(&entry.path())
            {
                tracing::warn!(%error, "what is left of a snapshot could not be removed");
            }
        }
    }
}

fn all(directory: &Path) -> impl Iterator<Item = Taken> + use<> {
    let directory = directory.to_owned();
    let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
    entries.filter_map(move |entry| {
        let path = entry.path();
        let is_note = path.extension().is_some_and(|extension| extension == "json");
        let taken: Taken = is_note.then(|| serde_json::from_slice(&fs::read(&path).ok()?).ok()).flatten()?;
        (taken.snapshot.dir.is_dir() && path.file_stem()? == taken.kind.name().as_str()).then_some(taken)
    })
}

fn publish(file: &Path, text: &[u8]) -> io::Result<()> {
    let draft = file.with_extension("draft");
    fs::write(&draft, text)?;
    fs::File::open(&draft)?.sync_all()?;
    fs::rename(&draft, file)
}

fn clear(directory: &Path, name: &str) -> io::Result<()> {
    clear_path(&directory.join(format!("{name}.json")))?;
    clear_path(&directory.join(name))
}

fn clear_path(path: &Path) -> io::Result<()> {
    let outcome = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
