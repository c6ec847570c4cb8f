//! Tap devices: their names, and making them.
//!
//! Netlink can't make a tap; `/dev/net/tun` and three ioctls can, see the kernel's
//! Documentation/networking/tuntap.rst.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::net::if_::if_nametoindex;

/// Where taps are made.
pub(crate) const DEVICE: &str = "/dev/net/tun";

/// Crockford's alphabet in lower case: nothing in it looks like something else.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

mod request {
    use std::mem::size_of;

    // Numbers from the kernel's include/uapi/linux/if_tun.h.
    nix::ioctl_write_ptr_bad!(
        set_interface,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );
    nix::ioctl_write_int_bad!(set_persistent, nix::request_code_write!(b'T', 203, size_of::<libc::c_int>()));
    nix::ioctl_write_int_bad!(set_owner, nix::request_code_write!(b'T', 204, size_of::<libc::c_int>()));
}

/// How the names of all taps of one owner begin: `ct` and 25 bits of the owner's hash.
pub(crate) fn prefix(owner: &str) -> String {
    let hash = blake3::hash(owner.as_bytes());
    let digits = hash.as_bytes().iter().take(5).map(|byte| char::from(ALPHABET[usize::from(byte % 32)]));
    "ct".chars().chain(digits).collect()
}

/// The name of the tap of the guest with this address: 15 characters, as many as Linux takes, and different for
/// every owner and address, so that it can be pinned before there is a guest.
#[must_use]
pub fn tap_name(owner: &str, address: Ipv4Addr) -> String {
    format!("{}{:08x}", prefix(owner), u32::from(address))
}

/// The address in a tap's name.
pub(crate) fn address_of(prefix: &str, name: &str) -> Option<Ipv4Addr> {
    let digits = name.strip_prefix(prefix).filter(|digits| digits.len() == 8)?;
    u32::from_str_radix(digits, 16).ok().map(Ipv4Addr::from)
}

/// Makes a persistent tap that is down, on no bridge and not in use, and gives its interface index. Fails with
/// [`io::ErrorKind::ResourceBusy`] when a VMM holds a tap of this name.
///
/// The device takes packets with a virtio-net header, as VMMs expect it. It belongs to nobody, so that a VMM of any user
/// can open it, and so can, while no VMM holds it, whoever may open `/dev/net/tun`; see [`give_tap`].
pub(crate) fn create(name: &str) -> io::Result<u32> {
    let tun = attach(name)?;
    // SAFETY: the descriptor is open, and TUNSETPERSIST takes an integer.
    unsafe { request::set_persistent(tun.as_raw_fd(), 1) }?;
    Ok(if_nametoindex(name)?)
}

/// Lets nobody but `uid` (and who is privileged over networks) open the tap. For a jailed VMM with a user of its own,
/// before it starts: another that broke out of its jail can't take this one's tap then.
///
/// # Errors
/// When there is no such tap, or a VMM has it.
pub fn give_tap(name: &str, uid: u32) -> io::Result<()> {
    if_nametoindex(name)?;
    let tun = attach(name)?;
    let uid = libc::c_int::try_from(uid).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open, and TUNSETOWNER takes an integer.
    unsafe { request::set_owner(tun.as_raw_fd(), uid) }?;
    Ok(())
}

fn attach(name: &str) -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(DEVICE)?;
    // SAFETY: all zeroes are a valid `ifreq`: its fields are integers, arrays of them, and a pointer.
    let mut interface: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= interface.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (slot, byte) in interface.ifr_name.iter_mut().zip(name.bytes()) {
        *slot = libc::c_char::from_ne_bytes([byte]);
    }
    interface.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the descriptor is open; TUNSETIFF takes an `ifreq` whose name ends with a zero, and keeps no pointer to it.
    unsafe { request::set_interface(tun.as_raw_fd(), &raw const interface) }?;
    Ok(tun)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_fit_and_tell_their_address(owner: String, one: u32, other: u32) {
            let name = tap_name(&owner, one.into());
            prop_assert_eq!(name.len(), 15);
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
            prop_assert_eq!(address_of(&prefix(&owner), &name), Some(one.into()));
            prop_assert_eq!(one == other, name == tap_name(&owner, other.into()));
        }
    }

    #[test]
    fn owners_have_names_of_their_own() {
        let address = Ipv4Addr::new(192, 168, 100, 11);
        assert_ne!(tap_name("one", address), tap_name("other", address));
        assert_eq!(address_of("ct00000", "ct00000c0a8640"), None);
        assert_eq!(address_of("ct00000", "ct00000c0a8640bb"), None);
        assert_eq!(address_of("ct00000", "ct00001c0a8640b"), None);
    }
}
