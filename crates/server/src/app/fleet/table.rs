//! What the store says of who may hold what, kept at hand.
//!
//! Whoever decides for a workshop is the only one who writes its rows (but for a worker being forgotten), so what this
//! server wrote down is added here as it is written. A reading that began before such a write does not undo it.

use std::collections::BTreeMap;

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_store::Placement;

/// Workers that may hold something of a seat, each with the highest generation.
pub type Holders = BTreeMap<String, Generation>;

#[derive(Debug, Clone)]
enum Change {
    Put(Placement),
    Gone(SeatKey, String, Generation),
    Forgotten(String),
}

/// The rows, with their sums.
#[derive(Debug, Default)]
pub struct Table {
    rows: BTreeMap<SeatKey, Holders>,
    /// Seats being placed: not written down yet, but room is taken.
    reserved: BTreeMap<SeatKey, String>,
    by_worker: BTreeMap<String, u32>,
    by_workshop: BTreeMap<WorkshopId, BTreeMap<String, u32>>,
    changes: Vec<(u64, Change)>,
    moment: u64,
    readings: u32,
}

/// A reading of the store under way.
#[derive(Debug)]
pub struct Reading(u64);

impl Table {
    /// To be called before the store is asked.
    pub fn begin_reading(&mut self) -> Reading {
        self.readings += 1;
        Reading(self.moment)
    }

    /// A reading that came to nothing.
    pub fn drop_reading(&mut self) {
        self.readings = self.readings.saturating_sub(1);
        self.trim();
    }

    /// Takes over what the store said, of one workshop or of all.
    pub fn finish_reading(&mut self, reading: &Reading, of: Option<&WorkshopId>, rows: Vec<Placement>) {
        self.rows.retain(|key, _| of.is_some_and(|of| key.workshop != *of));
        for row in rows {
            self.rows.entry(row.key).or_default().insert(row.worker, row.generation);
        }
        let since: Vec<_> =
            self.changes.iter().filter(|(moment, _)| *moment > reading.0).map(|(_, c)| c.clone()).collect();
        for change in since {
            match change {
                Change::Put(row) => {
                    self.rows.entry(row.key).or_default().insert(row.worker, row.generation);
                }
                Change::Gone(key, worker, generation) => self.cross_out(&key, &worker, generation),
                Change::Forgotten(worker) => self.cross_out_worker(&worker),
            }
        }
        self.drop_reading();
        self.count_again();
    }

    fn trim(&mut self) {
        if self.readings == 0 {
            self.changes.clear();
        }
    }

    fn note(&mut self, change: Change) {
        self.moment += 1;
        if self.readings > 0 {
            self.changes.push((self.moment, change));
        }
    }

    fn count_again(&mut self) {
        self.by_worker.clear();
        self.by_workshop.clear();
        let keys: Vec<_> = self
            .rows
            .iter()
            .flat_map(|(key, holders)| holders.keys().map(|worker| (key.workshop.clone(), worker.clone())))
            .collect();
        for (workshop, worker) in keys {
            self.count(&workshop, &worker, 1);
        }
        let reserved: Vec<_> =
            self.reserved.iter().map(|(key, worker)| (key.clone(), worker.clone())).collect();
        for (key, worker) in reserved {
            if !self.holders(&key).is_some_and(|holders| holders.contains_key(&worker)) {
                self.count(&key.workshop, &worker, 1);
            }
        }
    }

    fn count(&mut self, workshop: &WorkshopId, worker: &str, by: i64) {
        let step = |count: &mut u32| {
            *count = u32::try_from(i64::from(*count) + by).unwrap_or(0);
        };
        step(self.by_worker.entry(worker.to_owned()).or_default());
        let of_workshop = self.by_workshop.entry(workshop.clone()).or_default();
        let count = of_workshop.entry(worker.to_owned()).or_default();
        step(count);
        if *count == 0 {
            of_workshop.remove(worker);
            if of_workshop.is_empty() {
                self.by_workshop.remove(workshop);
            }
        }
    }

    fn is_counted(&self, key: &SeatKey, worker: &str) -> bool {
        self.holders(key).is_some_and(|holders| holders.contains_key(worker))
            || self.reserved.get(key).is_some_and(|reserved| reserved == worker)
    }

    /// Takes room on a worker for a seat that is about to be written down.
    pub fn reserve(&mut self, key: &SeatKey, worker: &str) {
        self.release(key);
        if !self.is_counted(key, worker) {
            self.count(&key.workshop, worker, 1);
        }
        self.reserved.insert(key.clone(), worker.to_owned());
    }

    /// Whether room is taken for a seat that is about to be written down.
    pub fn is_reserved(&self, key: &SeatKey) -> bool {
        self.reserved.contains_key(key)
    }

    /// Gives the room back; what was written down meanwhile keeps it.
    pub fn release(&mut self, key: &SeatKey) {
        if let Some(worker) = self.reserved.remove(key)
            && !self.is_counted(key, &worker)
        {
            self.count(&key.workshop, &worker, -1);
        }
    }

    /// A row was written.
    pub fn put(&mut self, row: Placement) {
        self.note(Change::Put(row.clone()));
        if !self.is_counted(&row.key, &row.worker) {
            self.count(&row.key.workshop, &row.worker, 1);
        }
        self.rows.entry(row.key).or_default().insert(row.worker, row.generation);
    }

    /// A row was deleted, if it was not above `generation`.
    pub fn gone(&mut self, key: &SeatKey, worker: &str, generation: Generation) {
        self.note(Change::Gone(key.clone(), worker.to_owned(), generation));
        let before = self.is_counted(key, worker);
        self.cross_out(key, worker, generation);
        if before && !self.is_counted(key, worker) {
            self.count(&key.workshop, worker, -1);
        }
    }

    /// All rows of a worker were deleted.
    pub fn forgotten(&mut self, worker: &str) {
        self.note(Change::Forgotten(worker.to_owned()));
        self.cross_out_worker(worker);
        self.count_again();
    }

    fn cross_out(&mut self, key: &SeatKey, worker: &str, generation: Generation) {
        if let Some(holders) = self.rows.get_mut(key) {
            if holders.get(worker).is_some_and(|row| *row <= generation) {
                holders.remove(worker);
            }
            if holders.is_empty() {
                self.rows.remove(key);
            }
        }
    }

    fn cross_out_worker(&mut self, worker: &str) {
        self.rows.retain(|_, holders| {
            holders.remove(worker);
            !holders.is_empty()
        });
    }

    /// Who may hold something of a seat.
    #[must_use]
    pub fn holders(&self, key: &SeatKey) -> Option<&Holders> {
        self.rows.get(key)
    }

    /// Who has the newest make of a seat, and which.
    #[must_use]
    pub fn newest(&self, key: &SeatKey) -> Option<(&str, Generation)> {
        let newest = self.holders(key)?.iter().max_by_key(|(worker, generation)| (**generation, *worker))?;
        Some((newest.0, *newest.1))
    }

    /// All rows.
    #[must_use]
    pub const fn rows(&self) -> &BTreeMap<SeatKey, Holders> {
        &self.rows
    }

    /// Rows of one workshop.
    pub fn of_workshop(&self, id: &WorkshopId) -> impl Iterator<Item = (&SeatKey, &Holders)> {
        let first = SeatKey {
            workshop: id.clone(),
            seat: clarateach_ids::SeatNumber::new(1).expect("1 is a seat's number"),
        };
        let id = id.clone();
        self.rows.range(first..).take_while(move |(key, _)| key.workshop == id)
    }

    /// How many seats a worker has, or is about to have.
    #[must_use]
    pub fn seats_on(&self, worker: &str) -> u32 {
        self.by_worker.get(worker).copied().unwrap_or(0)
    }

    /// How many of them are of one workshop.
    #[must_use]
    pub fn seats_of(&self, workshop: &WorkshopId, worker: &str) -> u32 {
        self.by_workshop.get(workshop).and_then(|of| of.get(worker)).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seat: u32) -> SeatKey {
        SeatKey { workshop: "w".parse().unwrap(), seat: seat.try_into().unwrap() }
    }

    fn row(seat: u32, generation: u64, worker: &str) -> Placement {
        Placement { key: key(seat), generation: Generation(generation), worker: worker.to_owned() }
    }

    #[test]
    fn a_reading_does_not_undo_what_was_written_meanwhile() {
        let mut table = Table::default();
        table.put(row(1, 1, "a"));
        table.put(row(2, 1, "a"));
        let reading = table.begin_reading();
        table.put(row(3, 1, "b"));
        table.gone(&key(1), "a", Generation(1));
        table.finish_reading(&reading, None, vec![row(1, 1, "a"), row(2, 1, "a"), row(9, 4, "c")]);
        assert!(table.holders(&key(1)).is_none());
        assert_eq!(table.newest(&key(3)), Some(("b", Generation(1))));
        assert_eq!(table.newest(&key(9)), Some(("c", Generation(4))));
        assert_eq!((table.seats_on("a"), table.seats_on("b"), table.seats_on("c")), (1, 1, 1));
    }

    #[test]
    fn room_is_taken_once_from_reservation_to_removal() {
        let mut table = Table::default();
        table.reserve(&key(1), "a");
        assert_eq!(table.seats_on("a"), 1);
        table.put(row(1, 1, "a"));
        table.release(&key(1));
        assert_eq!((table.seats_on("a"), table.seats_of(&key(1).workshop, "a")), (1, 1));
        table.reserve(&key(1), "b");
        table.release(&key(1));
        assert_eq!(table.seats_on("b"), 0);
        table.gone(&key(1), "a", Generation(0));
        assert_eq!(table.seats_on("a"), 1, "a newer make stays");
        table.gone(&key(1), "a", Generation(1));
        assert_eq!((table.seats_on("a"), table.rows().len()), (0, 0));
    }

    #[test]
    fn of_two_makes_the_newest_counts() {
        let mut table = Table::default();
        table.put(row(1, 1, "a"));
        table.put(row(1, 2, "b"));
        assert_eq!(table.newest(&key(1)), Some(("b", Generation(2))));
        assert_eq!(table.of_workshop(&"w".parse().unwrap()).count(), 1);
        table.forgotten("b");
        assert_eq!(table.newest(&key(1)), Some(("a", Generation(1))));
    }
}
