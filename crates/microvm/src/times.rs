//! Where the time of a create goes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Upper bounds of the buckets in microseconds, doubling: 64 µs to 134 s.
const SMALLEST: u64 = 64;
const BUCKETS: usize = 22;

/// How often a phase took how long. Buckets double, so a quantile is right within a factor of two; the sum is exact.
#[derive(Debug, Default)]
pub(crate) struct Histogram(Mutex<Counts>);

#[derive(Debug, Default, Clone)]
struct Counts {
    buckets: [u64; BUCKETS],
    count: u64,
    sum: Duration,
    longest: Duration,
}

/// What a phase took so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhaseTimes {
    /// Which phase: `own`, `write_down`, `disk`, `network`, `vmm`, `configure`, `configure_restored`, `ready`.
    pub phase: &'static str,
    /// How many were measured.
    pub count: u64,
    /// All of them together.
    pub sum: Duration,
    /// The longest.
    pub longest: Duration,
    /// Upper bound in microseconds and how many took no longer, cumulative, as Prometheus has it.
    pub buckets: Vec<(u64, u64)>,
}

impl Histogram {
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = micros.div_ceil(SMALLEST).next_power_of_two().trailing_zeros() as usize;
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.buckets[bucket.min(BUCKETS - 1)] += 1;
        counts.count += 1;
        counts.sum += took;
        counts.longest = counts.longest.max(took);
    }

    fn read(&self, phase: &'static str) -> PhaseTimes {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut below = 0;
        let buckets = counts.buckets.iter().enumerate().map(|(number, count)| {
            below += count;
            (SMALLEST << number, below)
        });
        PhaseTimes {
            phase,
            count: counts.count,
            sum: counts.sum,
            longest: counts.longest,
            buckets: buckets.collect(),
        }
    }
}

/// All phases of a create.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// From the wish to the answer, without the VMM's part.
    pub(crate) own: Histogram,
    pub(crate) write_down: Histogram,
    pub(crate) disk: Histogram,
    pub(crate) network: Histogram,
    pub(crate) vmm: Histogram,
    configured: Histogram,
    configured_restored: Histogram,
    pub(crate) ready: Histogram,
}

impl Times {
    /// From the running guest to the configured one.
    pub(crate) fn configure(&self, restored: bool) -> &Histogram {
        if restored { &self.configured_restored } else { &self.configured }
    }

    pub(crate) fn read(&self) -> Vec<PhaseTimes> {
        vec![
            self.own.read("own"),
            self.write_down.read("write_down"),
            self.disk.read("disk"),
            self.network.read("network"),
            self.vmm.read("vmm"),
            self.configured.read("configure"),
            self.configured_restored.read("configure_restored"),
            self.ready.read("ready"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_where_they_belong() {
        let histogram = Histogram::default();
        for micros in [1, 64, 65, 1_000, u64::MAX / 2] {
            histogram.note(Duration::from_micros(micros));
        }
        let read = histogram.read("own");
        assert_eq!(read.count, 5);
        assert_eq!(read.buckets[0], (64, 2));
        assert_eq!(read.buckets[1], (128, 3));
        assert_eq!(read.buckets[4], (1024, 4));
        assert_eq!(read.buckets.last().unwrap().1, 5);
    }
}
