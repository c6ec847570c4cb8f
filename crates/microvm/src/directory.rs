//! Directories of this runtime's own.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::error::OpenError;

/// `sockaddr_un` holds 108 bytes with the final NUL, see unix(7).
const LONGEST_SOCKET: usize = 107;
/// Longest name of a socket that a VMM makes in a VM's run directory.
const SOCKET_NAME: usize = 24;
/// How long a lock is waited for: a process that was killed while it started a VMM lives on in its child, with everything that
/// was open, until that executes the VMM.
const ENDING: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(10);
const RUN_DIR_NAME: usize = crate::instance::LENGTH;

/// Makes `path`, or finds it, and closes it to others.
///
/// # Errors
/// When it can't be made, or is somebody else's.
pub(crate) fn private(path: &Path) -> Result<PathBuf, OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(OpenError::directory("making", path))?;
    let found = fs::symlink_metadata(path).map_err(OpenError::directory("looking at", path))?;
    let wanted = rustix::process::geteuid().as_raw();
    if found.uid() != wanted {
        return Err(OpenError::ForeignDirectory { path: path.to_owned(), uid: found.uid(), wanted });
    }
    if !found.is_dir() {
        let error = io::Error::new(io::ErrorKind::NotADirectory, "it is not a directory");
        return Err(OpenError::directory("using", path)(error));
    }
    if found.mode() & 0o777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700))
            .map_err(OpenError::directory("closing to others", path))?;
    }
    path.canonicalize().map_err(OpenError::directory("looking at", path))
}

/// As [`private`], short enough for the sockets of VMs.
///
/// # Errors
/// As [`private`], and when it is too long.
pub(crate) fn for_sockets(path: &Path) -> Result<PathBuf, OpenError> {
    let path = private(path)?;
    let length = path.as_os_str().len() + 1 + RUN_DIR_NAME + 1 + SOCKET_NAME;
    if length > LONGEST_SOCKET {
        return Err(OpenError::LongSocketDirectory { path, surplus: length - LONGEST_SOCKET });
    }
    Ok(path)
}

/// The right to use a state directory, for as long as this lives or until [`Lock::release`].
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) async fn take(state: &Path) -> Result<Self, OpenError> {
        let path = state.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(OpenError::directory("opening", &path))?;
        let deadline = Instant::now() + ENDING;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self(file)),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(OpenError::InUse { path: state.to_owned() });
                }
                Err(error) => return Err(OpenError::directory("locking", path)(error.into())),
            }
        }
    }

    /// At once, though others may still hold a reference.
    pub(crate) fn release(&self) {
        // Nothing to be done if it fails: then it is released when the file is closed.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}
