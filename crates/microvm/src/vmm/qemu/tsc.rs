//! How fast the time stamp counter of this host runs.
//!
//! TCG passes the host's counter on to the guest, and on the `microvm` machine there is nothing that a kernel could
//! measure it against: it calls the counter unstable and, more often than not, hangs a moment later without a clock. So
//! it is told the frequency on its command line (`tsc_early_khz`).

#![allow(unsafe_code)]

use std::time::{Duration, Instant};

/// Long enough that the time it takes to read the clocks is below 20 parts in a million.
const SAMPLE: Duration = Duration::from_millis(100);

/// Kilohertz of the time stamp counter. Blocks for a tenth of a second.
pub(super) fn measure_khz() -> Option<u64> {
    let (began, from) = (Instant::now(), read()?);
    std::thread::sleep(SAMPLE);
    let (to, nanoseconds) = (read()?, began.elapsed().as_nanos());
    let ticks = u128::from(to.checked_sub(from)?);
    u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).ok().filter(|khz| *khz > 0)
}

#[cfg(target_arch = "x86_64")]
fn read() -> Option<u64> {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets every process use it.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn two_measurements_agree() {
        let (one, other) = (super::measure_khz().unwrap(), super::measure_khz().unwrap());
        assert!(one > 100_000 && one.abs_diff(other) < one / 1000, "{one} {other}");
    }
}
