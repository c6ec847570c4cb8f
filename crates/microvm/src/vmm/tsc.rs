//! The speed of this host's time stamp counter, which an emulated machine's kernel can't find out.
//!
//! QEMU's `microvm` describes itself as hardware-reduced ACPI: no PIT, no HPET, no PM timer. Under KVM the guest learns its
//! clocks from the hypervisor; under TCG it has nothing to measure its time stamp counter by, gives it up, then waits for a
//! timer tick that never comes, and hangs in `calibrate_APIC_clock`. The counter that TCG shows is the host's own, so the
//! host can say how fast it is.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// For how long is counted: an error of 1 µs in each reading is then 0.004 %.
const SPAN: Duration = Duration::from_millis(50);

/// Thousands of ticks per second of this host's time stamp counter, measured once (50 ms); none where it has none.
#[must_use]
pub fn khz() -> Option<u64> {
    static MEASURED: OnceLock<Option<u64>> = OnceLock::new();
    *MEASURED.get_or_init(measure)
}

/// What a kernel under TCG must be told: its counter's speed, and that it can be relied on. Empty where that is unknown.
#[must_use]
pub fn kernel_argument() -> String {
    khz().map(|khz| format!("tsc_early_khz={khz} tsc=reliable")).unwrap_or_default()
}

#[cfg(target_arch = "x86_64")]
fn measure() -> Option<u64> {
    let (from, ticks_from) = now();
    std::thread::sleep(SPAN);
    let (to, ticks_to) = now();
    let nanoseconds = to.duration_since(from).as_nanos();
    let khz = u128::from(ticks_to.checked_sub(ticks_from)?) * 1_000_000 / nanoseconds;
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

#[cfg(not(target_arch = "x86_64"))]
fn measure() -> Option<u64> {
    None
}

/// Time and ticks as near to each other as can be: of some readings, the one that nothing interrupted.
#[cfg(target_arch = "x86_64")]
fn now() -> (Instant, u64) {
    // SAFETY: RDTSC is part of x86-64 and touches no memory.
    let ticks = || unsafe { std::arch::x86_64::_rdtsc() };
    let reading = || {
        let before = ticks();
        let time = Instant::now();
        let after = ticks();
        (after.wrapping_sub(before), time, before.midpoint(after))
    };
    let (_, time, ticks) =
        (0..16).map(|_| reading()).min_by_key(|(width, _, _)| *width).unwrap_or_else(reading);
    (time, ticks)
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (first, second) = (measure().unwrap(), measure().unwrap());
        assert!(first.abs_diff(second) * 1000 < first, "{first} and {second} kHz differ by more than 0.1 %");
        assert!(kernel_argument().starts_with("tsc_early_khz="));
    }
}
