//! Seats that no machine helps: they have been on no worker for long, although there was room.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use clarateach_ids::SeatKey;

/// A seat that has been on no worker for so long, although there is room, is left out of what is needed.
const PATIENCE: Duration = Duration::from_secs(10 * 60);
/// And counts again after this time: somebody may have mended what kept it from being made.
const LEFT_OUT: Duration = Duration::from_secs(60 * 60);

/// Since when seats have been on no worker although there was room.
#[derive(Debug, Default)]
pub(super) struct Unhelped(BTreeMap<SeatKey, Instant>);

impl Unhelped {
    /// How many of the `unplaced` seats machines are needed for. `room`: seats that still fit on the workers that there are.
    pub(super) fn needing(&mut self, unplaced: &[SeatKey], room: u32, now: Instant) -> u32 {
        self.0.retain(|_, since| now.saturating_duration_since(*since) < PATIENCE + LEFT_OUT);
        let needing = unplaced.iter().filter(|key| !self.is_left_out(key, now));
        let count = u32::try_from(needing.count()).unwrap_or(u32::MAX);
        for key in unplaced {
            if count <= room {
                self.0.entry(key.clone()).or_insert(now);
            } else if !self.is_left_out(key, now) {
                self.0.remove(key);
            }
        }
        count
    }

    /// Seats that are not unplaced any more are forgotten.
    pub(super) fn keep(&mut self, unplaced: &BTreeSet<SeatKey>) {
        self.0.retain(|key, _| unplaced.contains(key));
    }

    /// For people: how many are left out, and where to look.
    pub(super) fn message(&self, now: Instant) -> Option<String> {
        let left_out: Vec<_> = self.0.keys().filter(|key| self.is_left_out(key, now)).collect();
        let workshops: BTreeSet<String> = left_out.iter().map(|key| key.workshop.to_string()).collect();
        let workshops: Vec<String> = workshops.into_iter().collect();
        (!left_out.is_empty()).then(|| {
            format!(
                "no worker takes seats that there is room for ({} of them), so no machine is made for these; their reasons are in the \
                 seats of the workshops {}",
                left_out.len(),
                workshops.join(", ")
            )
        })
    }

    fn is_left_out(&self, key: &SeatKey, now: Instant) -> bool {
        self.0.get(key).is_some_and(|since| now.saturating_duration_since(*since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(number: u32) -> SeatKey {
        SeatKey { workshop: "w".parse().unwrap(), seat: clarateach_ids::SeatNumber::new(number).unwrap() }
    }

    #[test]
    fn a_seat_that_stays_without_a_worker_although_there_is_room_is_left_out_for_an_hour() {
        let (mut unhelped, start) = (Unhelped::default(), Instant::now());
        let (one, minute) = ([seat(1)], Duration::from_secs(60));
        // While there is no room, it waits for a machine.
        for minutes in 0..60 {
            assert_eq!(unhelped.needing(&one, 0, start + minute * minutes), 1);
        }
        let room_since = start + minute * 60;
        assert_eq!(unhelped.needing(&one, 5, room_since), 1);
        assert_eq!(unhelped.needing(&one, 5, room_since + minute * 9), 1);
        assert!(unhelped.message(room_since + minute * 9).is_none());
        let later = room_since + minute * 10;
        assert_eq!(unhelped.needing(&one, 5, later), 0);
        assert!(unhelped.message(later).unwrap().contains("(1 of them)"));
        // Others count beside it; and it stays left out when the workers are gone.
        assert_eq!(unhelped.needing(&[seat(1), seat(2)], 0, later), 1);
        assert_eq!(unhelped.needing(&one, 0, later + minute * 59), 0);
        assert_eq!(unhelped.needing(&one, 0, later + minute * 60), 1, "tried again");
        unhelped.keep(&BTreeSet::new());
        assert!(unhelped.message(later).is_none());
    }
}
