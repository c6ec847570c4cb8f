//! What did not work, and how long it is left alone for.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FIRST_REST: Duration = Duration::from_secs(20);
const LONGEST_REST: Duration = Duration::from_secs(10 * 60);

#[derive(Debug)]
struct Trouble {
    message: String,
    rest: Duration,
    until: Instant,
}

/// Things that failed, by what was tried.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<String, Trouble>);

impl Troubles {
    /// It failed: leave it alone for a while, for longer each time. What was tried several times at once has failed once.
    pub(super) fn failed(&mut self, what: &str, message: String, now: Instant) {
        let rest = match self.0.get(what) {
            None => FIRST_REST,
            Some(before) if before.until > now => before.rest,
            Some(before) => (before.rest * 2).min(LONGEST_REST),
        };
        self.0.insert(what.to_owned(), Trouble { message, rest, until: now + rest });
    }

    /// It worked, or is not to be done any more.
    pub(super) fn worked(&mut self, what: &str) {
        self.0.remove(what);
    }

    /// Whether it may be tried.
    pub(super) fn may_try(&self, what: &str, now: Instant) -> bool {
        self.0.get(what).is_none_or(|trouble| trouble.until <= now)
    }

    /// Nothing is said of what is not to be done any more.
    pub(super) fn keep(&mut self, what: impl Fn(&str) -> bool) {
        self.0.retain(|tried, _| what(tried));
    }

    pub(super) fn messages(&self) -> impl Iterator<Item = String> {
        self.0.values().map(|trouble| trouble.message.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_rests_longer_each_time_and_is_forgotten_when_it_works() {
        let start = Instant::now();
        let mut troubles = Troubles::default();
        assert!(troubles.may_try("a", start));
        troubles.failed("a", "no".to_owned(), start);
        assert!(!troubles.may_try("a", start + FIRST_REST / 2) && troubles.may_try("b", start));
        assert!(troubles.may_try("a", start + FIRST_REST));
        troubles.failed("a", "no to another one, asked for at once".to_owned(), start);
        assert!(troubles.may_try("a", start + FIRST_REST));
        let again = start + FIRST_REST;
        troubles.failed("a", "still no".to_owned(), again);
        assert!(!troubles.may_try("a", again + FIRST_REST) && troubles.may_try("a", again + FIRST_REST * 2));
        assert_eq!(troubles.messages().collect::<Vec<_>>(), ["still no"]);
        let much_later = again + LONGEST_REST * 20;
        (1..20).for_each(|n| troubles.failed("a", "no".to_owned(), again + LONGEST_REST * n));
        assert!(troubles.may_try("a", much_later));
        troubles.worked("a");
        assert!(troubles.may_try("a", start) && troubles.messages().next().is_none());
    }
}
