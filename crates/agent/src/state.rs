//! The agent's own small files in `STATE_DIR`: who it is, whether it drains, whether its host is taken away, whose tokens it
//! accepts.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clarateach_api::agent::{RevokedSession, SeatKeys};
use clarateach_ids::{InstallationId, WorkerId};
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// How long the lock of another agent is waited for: one that was killed while it started a program leaves its lock to
/// that one until it has become what it is to be.
const FREE_WITHIN: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

const WORKER_ID: &str = "worker-id";
const DRAINING: &str = "draining";
const PREEMPTED: &str = "preempted";
const OWNERS: &str = "owners.json";
const KEYS: &str = "seat-keys.json";
const REVOKED: &str = "revoked.json";

/// A session whose tokens are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// When its tokens have run out by themselves, in seconds since the epoch.
    pub until: i64,
    /// Which, and what its learner is told.
    pub session: RevokedSession,
}

/// Why the state can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file or directory failed.
    #[error("STATE_DIR: {operation} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Another agent uses it.
    #[error("STATE_DIR: another agent is running with {}; stop it, or give this one a directory of its own", .0.display())]
    InUse(PathBuf),
    /// A file does not hold what it should.
    #[error("STATE_DIR: {} is broken: {problem}; remove it to start without", .path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// The directory, held by one agent at a time.
#[derive(Debug)]
pub struct State {
    dir: PathBuf,
    /// Held while the revoked are read and written again.
    revoked: Mutex<()>,
    /// Locked for as long as it is open.
    _lock: File,
}

impl State {
    /// Opens `{state_dir}/agent`, for this process only.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn open(state_dir: &Path) -> Result<Self, StateError> {
        let dir = state_dir.join("agent");
        // What it lies in is not ours to close: images are there too.
        let above = state_dir.parent().unwrap_or(state_dir);
        fs::create_dir_all(above).map_err(io_error("make", above))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io_error("make", &dir))?;
        let path = dir.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        let deadline = Instant::now() + FREE_WITHIN;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(io_error("lock", &path)(error.into()));
            }
            if Instant::now() >= deadline {
                return Err(StateError::InUse(state_dir.to_owned()));
            }
            std::thread::sleep(LOCK_PAUSE);
        }
        Ok(Self { dir, revoked: Mutex::default(), _lock: lock })
    }

    /// The worker's name: `given`, else [`State::owner`].
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn worker_id(&self, given: Option<&WorkerId>) -> Result<WorkerId, StateError> {
        given.cloned().map_or_else(|| self.owner(), Ok)
    }

    /// What everything on this host is marked with as this directory's own: made at the first start, and never another,
    /// whatever the worker is called.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn owner(&self) -> Result<WorkerId, StateError> {
        let path = self.dir.join(WORKER_ID);
        if let Some(text) = read(&path)? {
            let text = text.trim();
            return text
                .parse()
                .map_err(|_| StateError::Broken { path, problem: format!("{text:?} is no worker id") });
        }
        let made = WorkerId::random();
        self.write(WORKER_ID, format!("{made}\n").as_bytes())?;
        Ok(made)
    }

    /// Whether new VMs are refused.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.dir.join(DRAINING).exists()
    }

    /// The control plane for which new VMs are refused; none where a person asked for it, and where none are refused.
    #[must_use]
    pub fn drained_by(&self) -> Option<InstallationId> {
        read(&self.dir.join(DRAINING)).ok()??.trim().parse().ok()
    }

    /// Remembers whether new VMs are refused, and for which control plane.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn set_draining(&self, draining: bool, by: Option<&InstallationId>) -> Result<(), StateError> {
        if !draining {
            return self.remove(DRAINING);
        }
        self.write(DRAINING, by.map_or("", InstallationId::as_str).as_bytes())
    }

    /// Whether, since this host was booted, it was said to be taken away.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn is_preempted(&self) -> Result<bool, StateError> {
        Ok(read(&self.dir.join(PREEMPTED))?.is_some_and(|boot| !boot.is_empty() && boot.trim() == boot_id()))
    }

    /// Remembers, until this host is booted again, whether it is taken away.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn set_preempted(&self, preempted: bool) -> Result<(), StateError> {
        if preempted { self.write(PREEMPTED, boot_id().as_bytes()) } else { self.remove(PREEMPTED) }
    }

    /// Who made which VM, by seat.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn owners(&self) -> Result<BTreeMap<String, InstallationId>, StateError> {
        Ok(self.read_json(OWNERS)?.unwrap_or_default())
    }

    /// Remembers who made which VM.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn set_owners(&self, owners: &BTreeMap<String, InstallationId>) -> Result<(), StateError> {
        self.write_json(OWNERS, owners)
    }

    /// The keys that were pushed last.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn keys(&self) -> Result<Option<SeatKeys>, StateError> {
        self.read_json(KEYS)
    }

    /// Remembers pushed keys.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn set_keys(&self, keys: &SeatKeys) -> Result<(), StateError> {
        self.write_json(KEYS, keys)
    }

    /// The sessions whose tokens are refused at `now`, in seconds since the epoch.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn revoked(&self, now: i64) -> Result<Vec<Revoked>, StateError> {
        let mut all: Vec<Revoked> = self.read_json(REVOKED)?.unwrap_or_default();
        all.retain(|revoked| revoked.until > now);
        Ok(all)
    }

    /// Remembers more of them.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn revoke(&self, more: Vec<Revoked>, now: i64) -> Result<(), StateError> {
        let _one_at_a_time = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = self.revoked(now)?;
        all.extend(more);
        self.write_json(REVOKED, &all)
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.dir.join(name);
        let Some(text) = read(&path)? else { return Ok(None) };
        let broken = |error: serde_json::Error| StateError::Broken { path, problem: error.to_string() };
        serde_json::from_str(&text).map(Some).map_err(broken)
    }

    fn write_json<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.dir.join(name);
        let bytes =
            serde_json::to_vec(value).map_err(|error| io_error("write", &path)(io::Error::other(error)))?;
        self.write(name, &bytes)
    }

    fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// On disk, whole or not at all, when it returns.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.draft")));
        let put = || {
            let mut options = OpenOptions::new();
            let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        put().map_err(io_error("write", &path))
    }
}

/// Another after every boot of this host: random(4). Nothing where the kernel doesn't say.
fn boot_id() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { operation, path, source }
}

fn read(path: &Path) -> Result<Option<String>, StateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_said_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        let id = state.worker_id(None).unwrap();
        assert!(!state.is_draining());
        state.set_draining(true, None).unwrap();
        assert_eq!(state.drained_by(), None);
        let installation: InstallationId = "i1".parse().unwrap();
        state.set_draining(true, Some(&installation)).unwrap();
        let keys = SeatKeys { installation_id: "i1".parse().unwrap(), keys: Vec::new() };
        state.set_keys(&keys).unwrap();
        drop(state);
        let state = State::open(dir.path()).unwrap();
        assert_eq!(state.worker_id(None).unwrap(), id);
        assert_eq!(state.worker_id(Some(&"mine".parse().unwrap())).unwrap().as_str(), "mine");
        assert_eq!(state.keys().unwrap(), Some(keys));
        let session = RevokedSession { session_id: "s1".parse().unwrap(), reason: "over".to_owned() };
        state.revoke(vec![Revoked { until: 100, session: session.clone() }], 50).unwrap();
        state.revoke(vec![Revoked { until: 200, session }], 150).unwrap();
        assert_eq!(state.revoked(150).unwrap().len(), 1);
        assert!(state.is_draining());
        assert_eq!(state.drained_by(), Some(installation));
        state.set_draining(false, None).unwrap();
        state.set_draining(false, None).unwrap();
        assert!(!state.is_draining());
        assert_eq!(state.drained_by(), None);
    }

    #[test]
    fn a_host_is_taken_away_until_it_is_booted_again() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        assert!(!state.is_preempted().unwrap());
        state.set_preempted(true).unwrap();
        drop(state);
        let state = State::open(dir.path()).unwrap();
        assert!(state.is_preempted().unwrap());
        state.write(PREEMPTED, b"b1c7a9f0-0000-0000-0000-000000000000").unwrap();
        assert!(!state.is_preempted().unwrap(), "of an earlier boot");
        state.set_preempted(true).unwrap();
        state.set_preempted(false).unwrap();
        assert!(!state.is_preempted().unwrap());
    }

    #[test]
    fn two_agents_never_share_a_directory() {
        let dir = tempfile::tempdir().unwrap();
        let first = State::open(dir.path()).unwrap();
        let error = State::open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("another agent is running"), "{error}");
        drop(first);
        State::open(dir.path()).unwrap();
    }

    #[test]
    fn a_broken_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(dir.path()).unwrap();
        fs::write(dir.path().join("agent/seat-keys.json"), "{").unwrap();
        let error = state.keys().unwrap_err().to_string();
        assert!(error.contains("seat-keys.json is broken"), "{error}");
    }
}
