//! Counts failures by address, so that codes can't be guessed and a class behind one address is not shut out.

use std::net::IpAddr;
use std::num::NonZeroU32;

use clarateach_api::ErrorCode;
use governor::clock::Clock;
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::error::AppError;

/// A building of learners may mistype together. At this pace a join code of 36 bits takes two centuries to guess.
const BURST: NonZeroU32 = NonZeroU32::new(600).expect("not zero");
const PER_SECOND: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Failures of one kind by address. Successes cost nothing.
pub struct Throttle {
    failures: DefaultKeyedRateLimiter<IpAddr>,
    shut: std::sync::Mutex<std::collections::HashMap<IpAddr, std::time::Instant>>,
}

impl std::fmt::Debug for Throttle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Throttle")
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            failures: RateLimiter::keyed(Quota::per_second(PER_SECOND).allow_burst(BURST)),
            shut: std::sync::Mutex::default(),
        }
    }
}

impl Throttle {
    /// Whether `address` may try now.
    ///
    /// # Errors
    /// `TOO_MANY_ATTEMPTS` while its failures are above the limit.
    pub fn admit(&self, address: IpAddr) -> Result<(), AppError> {
        let mut shut = self.shut.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match shut.get(&address) {
            Some(until) if *until > std::time::Instant::now() => Err(AppError::new(
                ErrorCode::TooManyAttempts,
                "Too many wrong codes or tokens came from this address; wait a few seconds and try again.",
            )),
            Some(_) => {
                shut.remove(&address);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Notes a failure of `address`.
    pub fn failed(&self, address: IpAddr) {
        if let Err(not_until) = self.failures.check_key(&address) {
            let wait = not_until.wait_time_from(governor::clock::DefaultClock::default().now());
            let mut shut = self.shut.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            shut.insert(address, std::time::Instant::now() + wait);
        }
    }

    /// Forgets addresses that have been quiet.
    pub fn sweep(&self) {
        self.failures.retain_recent();
        let now = std::time::Instant::now();
        self.shut.lock().unwrap_or_else(std::sync::PoisonError::into_inner).retain(|_, until| *until > now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_count_and_only_for_their_address() {
        let throttle = Throttle::default();
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        for _ in 0..10_000 {
            assert!(throttle.admit(one).is_ok());
        }
        for _ in 0..=BURST.get() {
            throttle.failed(one);
        }
        assert_eq!(throttle.admit(one).unwrap_err().code, ErrorCode::TooManyAttempts);
        assert!(throttle.admit(two).is_ok());
    }
}
