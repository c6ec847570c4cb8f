//! What must be there before anything else: the kernel's own file systems, a console, drivers.

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, mount},
};

use super::GuestError;

/// Where the initramfs keeps kernel modules, named so that their order is the order to load them in.
const MODULES: &str = "/modules";

/// Mounts /proc, /sys and /dev, opens the console, loads the modules of the initramfs.
pub(super) fn prepare() -> Result<(), GuestError> {
    // Before there is a console, nothing can be said: errors are kept until there is one.
    let inert = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::NODEV;
    let mounted = [
        own("proc", "/proc", inert),
        own("sysfs", "/sys", inert),
        own("devtmpfs", "/dev", MountFlags::NOSUID),
    ];
    let console = open_console();
    for result in mounted {
        result?;
    }
    console?;
    load_modules();
    Ok(())
}

/// Mounts one of the kernel's own file systems, unless the kernel or an earlier stage has.
fn own(kind: &str, at: &str, flags: MountFlags) -> Result<(), GuestError> {
    let _ = fs::create_dir(at);
    match mount(kind, at, kind, flags, None) {
        Ok(()) | Err(Errno::BUSY) => Ok(()),
        Err(error) => Err(GuestError::during(format!("mounting {kind} on {at}"))(error)),
    }
}

/// Standard input, output and error are the console: the initramfs of some builds has no node for the kernel to open.
fn open_console() -> Result<(), GuestError> {
    let fail = |error| GuestError::during("opening /dev/console")(error);
    let console = match rustix::fs::open("/dev/console", OFlags::RDWR | OFlags::NOCTTY, Mode::empty()) {
        Ok(console) => console,
        // A machine without a console has nobody to talk to; that is no reason not to serve.
        Err(Errno::NODEV | Errno::NXIO | Errno::NOENT | Errno::IO) => {
            rustix::fs::open("/dev/null", OFlags::RDWR, Mode::empty()).map_err(fail)?
        }
        Err(error) => return Err(fail(error)),
    };
    rustix::stdio::dup2_stdin(&console).map_err(fail)?;
    rustix::stdio::dup2_stdout(&console).map_err(fail)?;
    rustix::stdio::dup2_stderr(&console).map_err(fail)
}

/// Loads what the initramfs brought. A module that can't be loaded is said and passed over: if it was needed, what needs
/// it says so too.
fn load_modules() {
    let Ok(entries) = fs::read_dir(MODULES) else { return };
    let mut modules: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    modules.sort();
    for module in modules {
        if let Err(error) = load(&module) {
            crate::say(&format!("loading {}: {error}", module.display()));
        }
        let _ = fs::remove_file(&module);
    }
}

fn load(module: &Path) -> io::Result<()> {
    let file = fs::File::open(module)?;
    let no_parameters = CString::default();
    // SAFETY: finit_module(2) reads from a descriptor that is open, and a NUL-terminated string.
    let result =
        unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), no_parameters.as_ptr(), 0) };
    match result {
        0 => Ok(()),
        _ => match io::Error::last_os_error() {
            // It is there, built in or loaded.
            error if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            error => Err(error),
        },
    }
}
