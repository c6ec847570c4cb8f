//! Where a Firecracker is and what it calls its files.
//!
//! A snapshot says by which paths its drives and its vsock were opened, and only those can be restored. So every
//! Firecracker is given paths relative to a directory of its own, the same for every VM: `drive-base`, `control.vsock`. In
//! a clone's directory they lead to the clone's files. That directory is the run directory, with symbolic links to the
//! drives; or, with the jailer, the root of the jail, into which the drives are bind-mounted in a mount namespace of
//! this VM's own, so that they are never copied, linked or chowned, and the mounts go when the process goes.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use super::JailerConfig;
use crate::vmm::spawn::Bind;
use crate::vmm::{VmSpec, VmmError, preflight};

/// Names inside a VM's directory.
pub(super) const API_SOCKET: &str = "api.sock";
pub(super) const VSOCK_SOCKET: &str = "control.vsock";
pub(super) const KERNEL: &str = "kernel";
pub(super) const INITRAMFS: &str = "initramfs";
pub(super) const SNAPSHOT_STATE: &str = "snapshot-state";
pub(super) const SNAPSHOT_MEMORY: &str = "snapshot-memory";
/// Where a jailed Firecracker writes a snapshot to.
const SNAPSHOT_DIR: &str = "snapshot";

/// The directory that one Firecracker's paths are relative to.
#[derive(Debug, Clone)]
pub(super) struct Place {
    root: PathBuf,
    /// The directory that holds nothing but this VM's jail.
    jail: Option<PathBuf>,
}

/// A place that is ready, and what has to be bound into it.
pub(super) struct Furnished {
    pub(super) binds: Vec<Bind>,
    pub(super) uid: u32,
}

impl Place {
    /// Where the Firecracker of a VM is or would be. `program` is the binary that the jailer executes.
    pub(super) fn of(spec: &VmSpec, program: &Path, jailer: Option<&JailerConfig>) -> Self {
        let Some(jailer) = jailer else { return Self { root: spec.run_dir.clone(), jail: None } };
        let name = program.file_name().unwrap_or_else(|| "firecracker".as_ref());
        let jail = jailer.chroot_base.join(name).join(&spec.instance);
        Self { root: jail.join("root"), jail: Some(jail) }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.root
    }

    pub(super) fn api_socket(&self) -> PathBuf {
        self.root.join(API_SOCKET)
    }

    pub(super) fn vsock_socket(&self) -> PathBuf {
        self.root.join(VSOCK_SOCKET)
    }

    /// Puts `files`, each with the name that Firecracker shall find it by, into place.
    pub(super) fn furnish(
        &self,
        files: &[(OsString, PathBuf)],
        jailer: Option<&JailerConfig>,
    ) -> Result<Furnished, VmmError> {
        let Some((jail, jailer)) = self.jail.as_ref().zip(jailer) else {
            for (name, file) in files {
                let link = self.root.join(name);
                preflight::remove_file(&link)?;
                let target = fs::canonicalize(file).map_err(|e| failed("find", file, e))?;
                symlink(target, &link).map_err(|e| failed("link", &link, e))?;
            }
            return Ok(Furnished { binds: Vec::new(), uid: 0 });
        };
        // One of an earlier attempt: its Firecracker is gone, or the caller would have killed it.
        remove_tree(jail)?;
        let uid = self.make_jail(jailer)?;
        let mut binds = Vec::new();
        for (name, file) in files {
            let target = self.root.join(name);
            // Something to mount on.
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&target)
                .map_err(|e| failed("create", &target, e))?;
            binds.push(Bind { source: file.clone(), target });
        }
        Ok(Furnished { binds, uid })
    }

    /// Makes the root of a jail, owned by a uid that no other jail has.
    fn make_jail(&self, jailer: &JailerConfig) -> Result<u32, VmmError> {
        // Choosing a uid and taking it are one step; another agent would have another base.
        static CHOOSING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let _choosing = CHOOSING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let uid = free_uid(jailer).map_err(|e| failed("list the jails in", &jailer.chroot_base, e))?;
        let make = |path: &Path| {
            fs::DirBuilder::new().mode(0o700).recursive(true).create(path)?;
            chown(path, Some(uid), Some(jailer.gid))
        };
        make(&self.root).map_err(|e| failed("make", &self.root, e))?;
        let snapshots = self.root.join(SNAPSHOT_DIR);
        make(&snapshots).map_err(|e| failed("make", &snapshots, e))?;
        Ok(uid)
    }

    /// Where a snapshot is written: as Firecracker calls it, and as this process does.
    pub(super) fn snapshot_dir(&self, wanted: &Path) -> (PathBuf, PathBuf) {
        match self.jail {
            None => (wanted.to_owned(), wanted.to_owned()),
            Some(_) => (PathBuf::from("/").join(SNAPSHOT_DIR), self.root.join(SNAPSHOT_DIR)),
        }
    }

    /// Removes all that [`Place::furnish`] and Firecracker put there; the run directory itself is the caller's.
    pub(super) fn clear(&self, spec: &VmSpec) -> Result<(), VmmError> {
        if let Some(jail) = &self.jail {
            return remove_tree(jail);
        }
        let names = [API_SOCKET, VSOCK_SOCKET, KERNEL, INITRAMFS, SNAPSHOT_STATE, SNAPSHOT_MEMORY]
            .map(OsString::from);
        let drives = spec.drives.iter().map(|drive| drive_name(&drive.id));
        names.into_iter().chain(drives).try_for_each(|name| preflight::remove_file(&self.root.join(name)))
    }
}

/// What a drive is called in a VM's directory.
pub(super) fn drive_name(id: &str) -> OsString {
    format!("drive-{id}").into()
}

/// The lowest uid from the base on that owns no jail.
fn free_uid(jailer: &JailerConfig) -> io::Result<u32> {
    let mut taken = Vec::new();
    for program in read_dir(&jailer.chroot_base)? {
        for jail in read_dir(&program)? {
            taken.extend(fs::metadata(jail.join("root")).map(|meta| meta.uid()));
        }
    }
    let mut uid = jailer.uid_base;
    while taken.contains(&uid) {
        uid += 1;
    }
    Ok(uid)
}

/// The directories in a directory; none if it isn't there.
fn read_dir(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    entries
        .map(|entry| entry.map(|entry| entry.path()))
        .filter(|path| path.as_ref().is_ok_and(|p| p.is_dir()))
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), VmmError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove the jail", path, error)),
        _ => Ok(()),
    }
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> VmmError {
    VmmError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_given_once() {
        if !rustix::process::geteuid().is_root() {
            return clarateach_testkit::skip("a_uid_is_given_once", "not root");
        }
        let dir = tempfile::tempdir().unwrap();
        let jailer = JailerConfig {
            program: "jailer".into(),
            chroot_base: dir.path().join("jails"),
            uid_base: 700_000,
            gid: 700_000,
        };
        let place = |name: &str| {
            let jail = jailer.chroot_base.join("firecracker").join(name);
            Place { root: jail.join("root"), jail: Some(jail) }
        };
        let uid = |name: &str| place(name).furnish(&[], Some(&jailer)).unwrap().uid;
        assert_eq!([uid("a"), uid("b"), uid("c")], [700_000, 700_001, 700_002]);
        remove_tree(place("b").jail.as_ref().unwrap()).unwrap();
        assert_eq!([uid("d"), uid("e")], [700_001, 700_003]);
    }
}
