//! Counts wrong tokens by address, so that the token can't be guessed and a right one is never shut out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// A control plane with an old token retries for a while before somebody notices.
const BURST: NonZeroU32 = NonZeroU32::new(60).expect("not zero");
const PER_SECOND: NonZeroU32 = NonZeroU32::new(2).expect("not zero");

/// Failures by address. Successes cost nothing.
pub struct Throttle {
    failures: DefaultKeyedRateLimiter<IpAddr>,
    shut: Mutex<HashMap<IpAddr, Instant>>,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Throttle")
    }
}

impl Default for Throttle {
    fn default() -> Self {
        let failures = RateLimiter::keyed(Quota::per_second(PER_SECOND).allow_burst(BURST));
        Self { failures, shut: Mutex::default() }
    }
}

impl Throttle {
    /// Notes a failure of `address`; true when there are too many.
    pub fn failed(&self, address: IpAddr) -> bool {
        let mut shut = self.shut.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if shut.get(&address).is_some_and(|until| *until > now) {
            return true;
        }
        shut.remove(&address);
        if let Err(not_until) = self.failures.check_key(&address) {
            shut.insert(address, now + not_until.wait_time_from(DefaultClock::default().now()));
            return true;
        }
        false
    }

    /// Forgets addresses that have been quiet.
    pub fn sweep(&self) {
        self.failures.retain_recent();
        let now = Instant::now();
        self.shut.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_address_that_guesses_is_shut_out() {
        let throttle = Throttle::default();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        assert_eq!((0..BURST.get()).filter(|_| throttle.failed(one)).count(), 0);
        assert!(throttle.failed(one));
        assert!(!throttle.failed(two));
    }
}
