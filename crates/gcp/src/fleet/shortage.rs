//! What Google had none of lately, and how long it is left alone for: machines of a zone, quota.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::error::{GcpError, Kind};
use crate::names::ResourceName;

/// What is short is left alone for so long at first, and for twice as long each time after.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(30 * 60);

#[derive(Debug, Clone)]
struct Rest {
    /// What Google said.
    message: String,
    until: Instant,
    length: Duration,
}

/// What Google had none of lately.
#[derive(Debug, Clone, Default)]
pub struct Shortages {
    zones: BTreeMap<ResourceName, Rest>,
    quota: Option<Rest>,
}

impl Shortages {
    /// Heeds what came of making or starting a machine at `now`.
    pub fn heed<T>(&mut self, zone: &ResourceName, outcome: &Result<T, GcpError>, now: Instant) {
        match outcome {
            Ok(_) => {
                self.zones.remove(zone);
                self.quota = None;
            }
            Err(error) if error.kind() == Kind::ZoneExhausted => {
                let rest = rest(self.zones.get(zone), error, now);
                self.zones.insert(zone.clone(), rest);
            }
            Err(error) if error.kind() == Kind::QuotaExceeded => {
                self.quota = Some(rest(self.quota.as_ref(), error, now));
            }
            Err(_) => {}
        }
    }

    /// Zones to be left alone for now.
    #[must_use]
    pub fn exhausted(&self, now: Instant) -> BTreeSet<ResourceName> {
        let resting = self.zones.iter().filter(|(_, rest)| rest.until > now);
        resting.map(|(zone, _)| zone.clone()).collect()
    }

    /// Whether quota was used up lately.
    #[must_use]
    pub fn is_over_quota(&self, now: Instant) -> bool {
        self.quota.as_ref().is_some_and(|rest| rest.until > now)
    }

    /// What Google said, for people.
    pub fn messages(&self, now: Instant) -> impl Iterator<Item = String> {
        let all = self.zones.values().chain(&self.quota);
        all.filter(move |rest| rest.until > now).map(|rest| rest.message.clone())
    }
}

/// Machines that were asked for at once and all refused make one rest, not one each.
fn rest(before: Option<&Rest>, error: &GcpError, now: Instant) -> Rest {
    match before {
        Some(before) if before.until > now => before.clone(),
        before => {
            let length = before.map_or(FIRST_REST, |before| (before.length * 2).min(LONGEST_REST));
            Rest { message: error.one_line(), until: now + length, length }
        }
    }
}
