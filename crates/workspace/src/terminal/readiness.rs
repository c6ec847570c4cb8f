//! Waiting for descriptors.

use std::{io, os::fd::OwnedFd};

use tokio::io::{Interest, unix::AsyncFd};

use super::pty::Pty;

/// Registers a descriptor that is nobody else's with the event loop.
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is an open descriptor, gives out the same number always and closes it only when dropped.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Registers a terminal's output with the event loop. Its input is registered only while some can't be written: else
/// the program's every read of a key would wake us.
pub(super) fn watch_pty(pty: Pty) -> io::Result<AsyncFd<Pty>> {
    // SAFETY: a Pty gives out the number of the OwnedFd that it holds and never changes, see above.
    unsafe { AsyncFd::register_with_interest(pty, Interest::READABLE) }
        .map_err(|_| io::Error::other("the event loop takes no more descriptors"))
}
