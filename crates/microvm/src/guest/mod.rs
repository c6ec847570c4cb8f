//! What goes into a VM, and the control channel to its first process.
//!
//! Every VM boots one kernel and one initramfs; which image it becomes is decided by its drives. The guest's side is
//! `workspace::pid1::guest`, the words between them are `clarateach_seatproto::guest`.
//!
//! | module | what it does |
//! |---|---|
//! | [`initramfs`] | packs the workspace binary and the kernel's modules into what the kernel unpacks and starts |
//! | [`kernel`] | tells a kernel that can be booted from one that can't, and which it is |
//! | [`control`] | asks the first process, and understands its answers |

pub mod control;
mod cpio;
pub mod initramfs;
pub mod kernel;
mod modules;

use std::io;
use std::path::{Path, PathBuf};

/// Kernel arguments for every guest, in front of which a driver puts those of its machine (console, clock).
///
/// A panic resets the machine at once, which ends the VMM (`panic=-1 reboot=t`: by a triple fault, without asking a
/// keyboard controller); the network interface is `eth0`; what a VM does not have is not looked for, crypto algorithms are
/// not tried out at every boot, and messages that nobody reads while it boots are left out.
pub const BOOT_ARGUMENTS: &str = "panic=-1 reboot=t quiet loglevel=4 net.ifnames=0 pci=off random.trust_cpu=on \
     cryptomgr.notests i8042.noaux i8042.nomux i8042.dumbkbd i8042.nopnp";

/// A kernel, module or binary that can't go into a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A file can't be read or written.
    #[error("{operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{} can't be used: {reason}", path.display())]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
}

impl GuestError {
    fn io(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> GuestError {
        let path = path.to_owned();
        move |source| GuestError::Io { operation, path, source }
    }

    fn unfit(path: &Path, reason: impl Into<String>) -> GuestError {
        GuestError::Unfit { path: path.to_owned(), reason: reason.into() }
    }
}
