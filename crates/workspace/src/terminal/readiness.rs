//! Waiting for descriptors.

use std::{io, os::fd::OwnedFd};

use tokio::io::unix::AsyncFd;

use super::pty::Pty;

/// Registers a descriptor that is nobody else's with the event loop.
pub(crate) fn watch_descriptor(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is an open descriptor, gives out the same number always and closes it only when dropped.
    Ok(unsafe { AsyncFd::register(descriptor) }?)
}

/// Registers a terminal with the event loop.
pub(super) fn watch_pty(pty: Pty) -> io::Result<AsyncFd<Pty>> {
    // SAFETY: a Pty gives out the number of the OwnedFd that it holds and never changes, see above.
    unsafe { AsyncFd::register(pty) }
        .map_err(|_| io::Error::other("the event loop takes no more descriptors"))
}
