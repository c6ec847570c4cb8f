//! One server for one database file, or anything else with a path: an advisory lock on a file beside it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// How long a held lock is waited for: a server that was killed while it started a program leaves its lock to that one
/// until it has become what it is to be.
const FREE_WITHIN: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Held until dropped; the kernel lets go of it when the process dies. The file stays: removing it would let a third
/// process lock a new one while a second still waits for the old.
#[derive(Debug)]
pub struct FileLock {
    _file: File,
}

/// Why the lock could not be had.
#[derive(Debug)]
pub enum LockError {
    /// Somebody else has it: the process, when it wrote down who it is.
    Held(Option<u32>),
    /// The file could not be opened or locked.
    Io(std::io::Error),
}

/// The lock file of a database file.
pub(super) fn lock_path(database: &Path) -> PathBuf {
    let mut path = OsString::from(database);
    path.push(".lock");
    PathBuf::from(path)
}

impl FileLock {
    /// Takes the lock of `database`, waiting for a moment when it is held, and writes down this process' id in it.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(database: &Path) -> Result<Self, LockError> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(lock_path(database))
            .map_err(LockError::Io)?;
        let deadline = Instant::now() + FREE_WITHIN;
        while let Err(errno) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if errno != rustix::io::Errno::WOULDBLOCK {
                return Err(LockError::Io(errno.into()));
            }
            if Instant::now() >= deadline {
                let mut holder = String::new();
                let read = file.read_to_string(&mut holder);
                return Err(LockError::Held(read.ok().and_then(|_| holder.trim().parse().ok())));
            }
            std::thread::sleep(PAUSE);
        }
        // Only a courtesy to whoever is refused: on a full disk the lock holds all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}
