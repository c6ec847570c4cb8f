//! The root that a learner sees: what is written goes to the upper drive, over the base image.

use std::{
    ffi::{CStr, CString},
    fs,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags},
    mount::{MountFlags, mount, mount_move, mount_remount},
};

use super::{
    GuestError,
    base::{Base, appears, is_directory},
};

/// The drive that takes what is written.
const DRIVE: &str = "/dev/vdb";
/// Drives come together: the base is mounted, so this one is there or never comes.
const PATIENCE: Duration = Duration::from_millis(500);

/// The upper drive's mount, which lies below the new root where no path leads to it.
#[derive(Debug)]
pub(super) struct Upper(pub(super) OwnedFd);

/// Puts the overlay together and makes it the root. With a hostname (that is, in a seat) the upper drive must be there;
/// without one, memory takes its place.
pub(super) fn switch(base: Base, hostname: Option<&str>) -> Result<Option<Upper>, GuestError> {
    let on_drive = appears(DRIVE, PATIENCE);
    if hostname.is_some() && !on_drive && base.initramfs {
        return Err(GuestError::Absent(format!("the VM has no upper drive: {DRIVE} is not there")));
    }
    let lower = base.directory("base")?;
    let upper = base.directory("upper")?;
    let root = base.directory("root")?;
    let kind = if on_drive { "ext4" } else { "tmpfs" };
    let from = if on_drive { DRIVE } else { "tmpfs" };
    mount(from, upper.as_str(), kind, MountFlags::NOATIME, None)
        .map_err(GuestError::during(format!("mounting {from} ({kind}) to take what is written")))?;
    let handle = rustix::fs::open(upper.as_str(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
        .map_err(GuestError::during(format!("opening {upper}")))?;
    overlay(&lower, &upper, &root)?;
    populate(&root)?;
    enter(&base, &root)?;
    Ok(on_drive.then_some(Upper(handle)))
}

fn overlay(lower: &str, upper: &str, root: &str) -> Result<(), GuestError> {
    for directory in ["upper", "work"] {
        let path = format!("{upper}/{directory}");
        fs::create_dir_all(&path).map_err(GuestError::during(format!("making {path}")))?;
    }
    let layers = format!("lowerdir={lower},upperdir={upper}/upper,workdir={upper}/work");
    // Directories of the base can be renamed with redirect_dir; kernels built without it still have overlays.
    let mounted = |options: String| {
        let options = CString::new(options).unwrap_or_default();
        mount("overlay", root, "overlay", MountFlags::NOATIME, Some(options.as_c_str()))
    };
    mounted(format!("{layers},redirect_dir=on"))
        .or_else(|_| mounted(layers))
        .map_err(GuestError::during("mounting the overlay of base image and upper drive"))
}

/// Moves the kernel's file systems into the new root and adds what programs expect.
fn populate(root: &str) -> Result<(), GuestError> {
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("{root}/{name}"));
        mount_point(&to)?;
        mount_move(from.as_str(), to.as_str()).map_err(GuestError::during(format!("moving {from}")))?;
    }
    let tight = MountFlags::NOSUID | MountFlags::NODEV;
    let tighter = tight | MountFlags::NOEXEC;
    add(
        root,
        "dev/pts",
        "devpts",
        MountFlags::NOSUID | MountFlags::NOEXEC,
        c"gid=5,mode=0620,ptmxmode=0666",
    )?;
    add(root, "dev/shm", "tmpfs", tight, c"mode=1777,size=50%")?;
    add(root, "run", "tmpfs", tight, c"mode=0755,size=20%")?;
    // Kernels without these do without.
    let _ = add(root, "dev/mqueue", "mqueue", tighter, c"");
    if is_directory(&format!("{root}/sys/fs/cgroup")) {
        let _ = add(root, "sys/fs/cgroup", "cgroup2", tighter, c"nsdelegate");
    }
    for (name, target) in [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")]
    {
        // Some kernels' devtmpfs survives from an earlier stage that made them.
        let _ = symlink(target, format!("{root}/dev/{name}"));
    }
    let tmp = format!("{root}/tmp");
    if !Path::new(&tmp).exists() {
        mount_point(&tmp)?;
        rustix::fs::chmod(tmp.as_str(), Mode::from_raw_mode(0o1777))
            .map_err(GuestError::during(format!("setting the mode of {tmp}")))?;
    }
    Ok(())
}

fn add(root: &str, at: &str, kind: &str, flags: MountFlags, options: &CStr) -> Result<(), GuestError> {
    let path = format!("{root}/{at}");
    mount_point(&path)?;
    mount(kind, path.as_str(), kind, flags, options)
        .map_err(GuestError::during(format!("mounting {kind} on /{at}")))
}

/// An image may have no such directory, or something else in its place.
fn mount_point(path: &str) -> Result<(), GuestError> {
    let is_real = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !is_real {
        let _ = fs::remove_file(path);
        fs::create_dir_all(path).map_err(GuestError::during(format!("making {path}")))?;
    }
    Ok(())
}

/// Makes `root` the root, over the old one, and gives back the memory of the initramfs.
fn enter(base: &Base, root: &str) -> Result<(), GuestError> {
    std::env::set_current_dir(root).map_err(GuestError::during("going to the new root"))?;
    if base.initramfs {
        // Only plain files, only at the top: everything else there is a mount by now.
        for entry in fs::read_dir("/").into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
    mount_move(".", "/").map_err(GuestError::during("moving the new root"))?;
    rustix::process::chroot(".").map_err(GuestError::during("changing to the new root"))?;
    std::env::set_current_dir("/").map_err(GuestError::during("entering the new root"))
}

/// Makes both the overlay and the upper drive read-only, so that the drive is clean and complete. Fails while anything on
/// it is open for writing.
pub(super) fn seal(upper: Option<&Upper>) -> rustix::io::Result<()> {
    mount_remount("/", MountFlags::RDONLY | MountFlags::NOATIME, "")?;
    if let Some(Upper(handle)) = upper {
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(handle));
        mount_remount(path.as_str(), MountFlags::RDONLY | MountFlags::NOATIME, "")?;
    }
    Ok(())
}
