//! The base image: `/dev/vda`, mounted read-only, shared by all VMs made from it.

use std::{
    ffi::CStr,
    fmt, fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, mount, mount_bind};

use super::GuestError;

/// The drive with the base image.
const DRIVE: &str = "/dev/vda";
/// For a drive to appear.
const PATIENCE: Duration = Duration::from_secs(10);
/// `f_type` of statfs(2) for what the kernel unpacks an initramfs into.
const MEMORY_FILE_SYSTEMS: [i64; 2] = [0x8584_58f6, 0x0102_1994];

/// The base image, mounted.
#[derive(Debug)]
pub(super) struct Base {
    /// Below this directory everything is made that is needed before the roots are switched.
    pub(super) scratch: &'static str,
    /// Whether the old root is an initramfs, which is to be emptied.
    pub(super) initramfs: bool,
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.initramfs { "base image mounted" } else { "base image is the kernel's root" })
    }
}

impl Base {
    /// Waits for the drive and mounts it; or takes what the kernel has mounted as its root.
    pub(super) fn mount() -> Result<Base, GuestError> {
        let root = rustix::fs::statfs("/").map_err(GuestError::during("looking at /"))?;
        let initramfs = MEMORY_FILE_SYSTEMS.contains(&root.f_type);
        // The base image's own root is read-only: a file system in memory gives us room.
        let scratch = if initramfs { "/clarateach" } else { "/run" };
        let base = Base { scratch, initramfs };
        if initramfs {
            fs::create_dir_all(scratch).map_err(GuestError::during(format!("making {scratch}")))?;
        } else {
            mount("tmpfs", scratch, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, c"mode=0700")
                .map_err(GuestError::during(format!("mounting tmpfs on {scratch}")))?;
        }
        let at = base.directory("base")?;
        if initramfs {
            if !appears(DRIVE, PATIENCE) {
                return Err(GuestError::Absent(format!(
                    "{DRIVE} did not appear within {} s: the VM has no base drive, or its driver is missing",
                    PATIENCE.as_secs()
                )));
            }
            mount_read_only(&at)?;
        } else {
            mount_bind("/", at.as_str()).map_err(GuestError::during(format!("binding / to {at}")))?;
        }
        Ok(base)
    }

    /// A directory of ours, made.
    pub(super) fn directory(&self, name: &str) -> Result<String, GuestError> {
        let path = format!("{}/{name}", self.scratch);
        fs::create_dir_all(&path).map_err(GuestError::during(format!("making {path}")))?;
        Ok(path)
    }
}

/// Mounts the base; without reading its journal if that would have to be played back, which a read-only drive forbids.
fn mount_read_only(at: &str) -> Result<(), GuestError> {
    let flags = MountFlags::RDONLY | MountFlags::NOATIME;
    let mounted = |options: Option<&CStr>| mount(DRIVE, at, "ext4", flags, options);
    mounted(None)
        .or_else(|_| mounted(Some(c"noload")))
        .map_err(GuestError::during(format!("mounting {DRIVE} (ext4, read-only) as the base image")))
}

/// Waits for a block device.
pub(super) fn appears(device: &str, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if fs::metadata(device).is_ok_and(|found| found.file_type().is_block_device() && found.rdev() != 0) {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a path is a directory, symbolic links followed.
pub(super) fn is_directory(path: &str) -> bool {
    Path::new(path).is_dir()
}
