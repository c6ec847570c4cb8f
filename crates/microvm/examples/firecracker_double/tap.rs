//! Opening a tap device as Firecracker does: one queue, no packet information, so a busy one fails alike. (A missing one is made,
//! for as long as the process lives, if it has the right to.)

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// From linux/if_tun.h.
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;

pub(crate) fn open(name: &str) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is valid; the name is shorter than the field, which so stays terminated; the kernel reads
    // and writes only that struct.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        if name.len() >= request.ifr_name.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI;
        if libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(file)
}

/// A tap in the reactor.
pub(crate) fn register(tap: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` is open and always the same descriptor until it is dropped, which `AsyncFd` does.
    let registered = unsafe { AsyncFd::register_with_interest(tap, Interest::READABLE) };
    registered.map_err(Into::into)
}
