//! The output file: written beside its place, synced, and put there in one step.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::interrupt::TemporaryPath;

/// Why the output can't be written.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The path can't be that of an image.
    #[error("{}: {reason}", path.display())]
    BadPath {
        /// The output that was asked for.
        path: PathBuf,
        /// Why not.
        reason: &'static str,
    },
    /// Its directory is not there.
    #[error("the directory {} does not exist: create it or give another --output", .0.display())]
    NoDirectory(PathBuf),
    /// Somebody else is writing it.
    #[error("another rootfs-builder is writing {}: wait for it, or give another --output", .0.display())]
    Locked(PathBuf),
    /// Somebody is using what is there.
    #[error("{} is in use by {user}: release it, or give another --output", path.display())]
    Busy {
        /// The output that was asked for.
        path: PathBuf,
        /// Who uses it.
        user: String,
    },
    /// The filesystem refuses.
    #[error("{operation} {}: {}", path.display(), hint(source))]
    Io {
        /// What was being done.
        operation: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// What to do about an error, after what it is.
pub(crate) fn hint(error: &io::Error) -> String {
    let advice = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space or give an --output elsewhere"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            ": give an --output in a directory you can write to"
        }
        io::ErrorKind::FileTooLarge => ": this filesystem can't hold a file of that --size",
        _ => "",
    };
    let text = match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => "the filesystem is read-only".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("{text}{advice}")
}

/// An output that is being written, under a lock that only one can hold.
#[derive(Debug)]
pub struct Output {
    target: PathBuf,
    temporary: TemporaryPath,
    // Its lock is what keeps others out.
    file: File,
}

impl Output {
    /// The absolute path of an output whose directory is there.
    ///
    /// # Errors
    /// [`PublishError::NoDirectory`], [`PublishError::BadPath`].
    pub fn resolve(path: &Path) -> Result<PathBuf, PublishError> {
        let bad = |reason| PublishError::BadPath { path: path.to_owned(), reason };
        let name = path.file_name().ok_or_else(|| bad("it names no file"))?;
        if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Err(bad("it names a directory, not a file"));
        }
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = fs::canonicalize(directory).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                PublishError::NoDirectory(directory.to_owned())
            }
            _ => PublishError::Io { operation: "opening", path: directory.to_owned(), source },
        })?;
        let target = directory.join(name);
        if target.is_symlink() {
            // The file behind a link is replaced, not the link.
            return fs::canonicalize(&target).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => {
                    bad("it is a symbolic link that leads nowhere: remove it, or give another --output")
                }
                _ => PublishError::Io { operation: "following", path: target.clone(), source },
            });
        }
        Ok(target)
    }

    /// Starts writing to `target`, which must come from [`Output::resolve`]. What is there stays until the end.
    ///
    /// # Errors
    /// [`PublishError`].
    pub fn create(target: PathBuf) -> Result<Self, PublishError> {
        check_free(&target)?;
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let partial = target.with_file_name(format!(".{name}.partial"));
        let io = |operation| {
            let path = target.clone();
            move |source| PublishError::Io { operation, path, source }
        };
        let (temporary, file) = TemporaryPath::made(|| {
            loop {
                let mut options = OpenOptions::new();
                options.read(true).write(true).create(true).truncate(false);
                let file = match options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&partial) {
                    // A link that somebody left there: what it leads to is not ours.
                    Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                        fs::remove_file(&partial).map_err(io("creating"))?;
                        continue;
                    }
                    file => file.map_err(io("creating"))?,
                };
                match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => {}
                    Err(Errno::WOULDBLOCK) => return Err(PublishError::Locked(target.clone())),
                    Err(error) => return Err(io("locking")(error.into())),
                }
                // Whoever held the lock may have published or removed this file in the meantime.
                let ours = file.metadata().map_err(io("creating"))?;
                if !fs::symlink_metadata(&partial)
                    .is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()))
                {
                    continue;
                }
                if ours.nlink() == 1 {
                    return Ok((partial.clone(), file));
                }
                // It has another name, under which it is somebody's.
                fs::remove_file(&partial).map_err(io("creating"))?;
            }
        })?;
        // Readable by all like any other file of this kind, whatever the umask of a cron job.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.set_permissions(mode).map_err(io("creating"))?;
        Ok(Self { target, temporary, file })
    }

    /// The file to write to.
    ///
    /// # Errors
    /// If its handle can't be duplicated.
    pub fn file(&self) -> Result<File, PublishError> {
        let fail = |source| PublishError::Io { operation: "opening", path: self.target.clone(), source };
        self.file.try_clone().map_err(fail)
    }

    /// Syncs the file and puts it in its place.
    ///
    /// # Errors
    /// [`PublishError`]; what was there before is untouched then.
    pub fn publish(self) -> Result<(), PublishError> {
        let Self { target, temporary, file } = self;
        let io = |operation| {
            let path = target.clone();
            move |source| PublishError::Io { operation, path, source }
        };
        file.sync_all().map_err(io("syncing"))?;
        check_free(&target)?;
        temporary.publish(&target).map_err(io("publishing"))?;
        if let Some(directory) = target.parent().and_then(|parent| File::open(parent).ok()) {
            directory.sync_all().map_err(io("syncing the directory of"))?;
        }
        Ok(())
    }
}

/// Refuses to replace what is no image file, or one that is attached to a loop device or locked.
fn check_free(target: &Path) -> Result<(), PublishError> {
    let metadata = match fs::symlink_metadata(target) {
        Ok(metadata) => metadata,
        Err(_) => return Ok(()),
    };
    if !metadata.is_file() {
        let reason = "there is something at the output that is no regular file: give another --output";
        return Err(PublishError::BadPath { path: target.to_owned(), reason });
    }
    let busy = |user: String| PublishError::Busy { path: target.to_owned(), user };
    if let Some(device) = loop_device(target) {
        return Err(busy(format!("{device} (a mount or `losetup`)")));
    }
    if let Ok(file) = File::open(target)
        && rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
    {
        return Err(busy("a process that holds a lock on it".to_owned()));
    }
    Ok(())
}

/// The loop device that a file is attached to.
fn loop_device(target: &Path) -> Option<String> {
    let devices = fs::read_dir("/sys/block").ok()?;
    devices.filter_map(Result::ok).find_map(|device| {
        let name = device.file_name().into_string().ok().filter(|name| name.starts_with("loop"))?;
        let backing = fs::read_to_string(device.path().join("loop/backing_file")).ok()?;
        (Path::new(backing.trim_end_matches('\n')) == target).then(|| format!("/dev/{name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn only_one_writes_and_the_old_stays_until_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rootfs.ext4");
        fs::write(&path, "old").unwrap();
        let target = Output::resolve(&path).unwrap();
        let output = Output::create(target.clone()).unwrap();
        assert!(matches!(Output::create(target.clone()), Err(PublishError::Locked(_))));
        output.file().unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        output.publish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);

        drop(Output::create(target).unwrap());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing temporary stays");
    }

    #[test]
    fn what_a_link_in_the_way_leads_to_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, other) = (directory.path().join("rootfs.ext4"), directory.path().join("precious"));
        let partial = directory.path().join(".rootfs.ext4.partial");
        fs::write(&path, "old").unwrap();
        fs::write(&other, "precious").unwrap();
        for link in ["precious", "nowhere", "hard"] {
            match link {
                "hard" => fs::hard_link(&other, &partial).unwrap(),
                target => std::os::unix::fs::symlink(target, &partial).unwrap(),
            }
            let output = Output::create(Output::resolve(&path).unwrap()).unwrap();
            output.file().unwrap().set_len(0).unwrap();
            output.file().unwrap().write_all(link.as_bytes()).unwrap();
            assert_eq!(fs::read(&other).unwrap(), b"precious", "{link}");
            output.publish().unwrap();
            assert!(fs::symlink_metadata(&path).unwrap().is_file(), "{link}");
            assert_eq!(fs::read_to_string(&path).unwrap(), link);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "{link}");
        }
    }

    #[test]
    fn what_is_locked_or_no_file_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rootfs.ext4");
        fs::write(&path, "old").unwrap();
        let held = File::open(&path).unwrap();
        rustix::fs::flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(matches!(Output::create(Output::resolve(&path).unwrap()), Err(PublishError::Busy { .. })));
        drop(held);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Output::create(Output::resolve(&path).unwrap()), Err(PublishError::BadPath { .. })));
        let nowhere = directory.path().join("no/rootfs.ext4");
        assert!(matches!(Output::resolve(&nowhere), Err(PublishError::NoDirectory(_))));
    }
}
