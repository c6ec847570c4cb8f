//! The VMM's end of a tap, and a guest's network card: both are taps that a test reads and writes.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

mod request {
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
}

/// Opens a tap as a VMM does, in the calling thread's network namespace; makes one if there is none.
pub(crate) fn open(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all zeroes are a valid `ifreq`.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    interface.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI).unwrap();
    // SAFETY: the descriptor is open, and the name ends with a zero.
    unsafe { request::set_interface(tun.as_raw_fd(), &raw const interface) }?;
    Ok(tun)
}

/// Makes a tap stay when it is closed.
pub(crate) fn persist(tun: &File) -> io::Result<()> {
    // SAFETY: the descriptor is open, and TUNSETPERSIST takes an integer.
    unsafe { request::set_persistent(tun.as_raw_fd(), 1) }?;
    Ok(())
}
