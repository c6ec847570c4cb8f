//! What must differ between clones of one snapshot and can't come from inside: random numbers and the time.

use std::{fs::OpenOptions, os::fd::AsRawFd};

use base64::{Engine, engine::general_purpose::STANDARD};
use rustix::time::{ClockId, Timespec, clock_settime};

use super::GuestError;

/// Most random bytes that are taken at once.
const MOST: usize = 512;

/// `struct rand_pool_info` of random(4), with its bytes.
#[repr(C)]
struct Pool {
    /// Bits.
    entropy_count: libc::c_int,
    /// Bytes.
    buf_size: libc::c_int,
    buf: [u8; MOST],
}

/// `RNDADDENTROPY` and `RNDRESEEDCRNG` of <linux/random.h>.
const ADD_ENTROPY: libc::Ioctl = 0x4008_5203u32 as libc::Ioctl;
const RESEED: libc::Ioctl = 0x5207;

/// Mixes the host's random bytes into the kernel's pool, counted as random, and makes the kernel draw its key from it anew:
/// two clones must never give the same numbers.
pub(super) fn credit_entropy(encoded: &str) -> Result<(), GuestError> {
    let bytes = decode(encoded)?;
    if bytes.is_empty() {
        return Ok(());
    }
    let mut pool = Pool { entropy_count: 0, buf_size: 0, buf: [0; MOST] };
    pool.buf[..bytes.len()].copy_from_slice(&bytes);
    pool.entropy_count = libc::c_int::try_from(bytes.len() * 8).unwrap_or(0);
    pool.buf_size = libc::c_int::try_from(bytes.len()).unwrap_or(0);
    let device = OpenOptions::new()
        .write(true)
        .open("/dev/urandom")
        .map_err(GuestError::during("opening /dev/urandom"))?;
    // SAFETY: both calls take a descriptor that is open; the first reads `buf_size` bytes behind the head of `pool`, which
    // holds MOST of them, and the second takes nothing.
    let (added, reseeded) = unsafe {
        let added = libc::ioctl(device.as_raw_fd(), ADD_ENTROPY, &raw const pool);
        let added = if added == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        let reseeded = libc::ioctl(device.as_raw_fd(), RESEED);
        let reseeded = if reseeded == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) };
        (added, reseeded)
    };
    added.map_err(GuestError::during("crediting entropy"))?;
    reseeded.map_err(GuestError::during("reseeding the kernel's random numbers"))
}

/// The bytes of a configuration's `entropy`.
pub(super) fn decode(encoded: &str) -> Result<Vec<u8>, GuestError> {
    let bytes =
        STANDARD.decode(encoded).map_err(|_| GuestError::Refused("the entropy is not base64".to_owned()))?;
    if bytes.len() > MOST {
        return Err(GuestError::Refused(format!("the entropy has more than {MOST} bytes")));
    }
    Ok(bytes)
}

/// Sets the clock, in milliseconds since 1970, UTC.
pub(super) fn set_clock(unix_ms: i64) -> Result<(), GuestError> {
    let time = Timespec { tv_sec: unix_ms.div_euclid(1000), tv_nsec: unix_ms.rem_euclid(1000) * 1_000_000 };
    clock_settime(ClockId::Realtime, time).map_err(GuestError::during("setting the clock"))
}
