//! Which worker gets a seat. Pure.

/// Whether a worker can make a seat of an image at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ImageSight {
    /// It is ready there.
    Ready,
    /// Nobody has asked yet.
    Unknown,
    /// It is being made ready.
    Preparing,
    /// It could not be had there.
    Missing,
}

/// A worker that may get seats of the right kind now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: String,
    /// How many more seats it holds. What it has of this very seat does not count: that would be replaced.
    pub room: u32,
    /// How many seats of this workshop it has.
    pub of_workshop: u32,
    /// Whether it has an older make of this seat, which may be what failed.
    pub had_it: bool,
    /// Whether it has the image.
    pub image: ImageSight,
}

/// The one that gets the seat: with the image, with room, with the fewest seats of the workshop (so that a lost worker
/// hurts few of a class), then another one than before, then with the most room; the id decides between equals.
#[must_use]
pub fn choose(candidates: &[Candidate]) -> Option<&Candidate> {
    candidates.iter().filter(|worker| worker.room > 0 && worker.image != ImageSight::Missing).min_by(
        |a, b| {
            let rank = |worker: &Candidate| {
                (worker.image, worker.of_workshop, worker.had_it, u32::MAX - worker.room)
            };
            rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
        },
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn worker(id: &str, room: u32, of_workshop: u32) -> Candidate {
        Candidate { id: id.to_owned(), room, of_workshop, had_it: false, image: ImageSight::Ready }
    }

    /// Places `seats` seats one after the other.
    fn place(workers: &mut [Candidate], seats: u32) -> u32 {
        for placed in 0..seats {
            let Some(id) = choose(workers).map(|worker| worker.id.clone()) else { return placed };
            for worker in workers.iter_mut().filter(|worker| worker.id == id) {
                worker.room -= 1;
                worker.of_workshop += 1;
            }
        }
        seats
    }

    #[test]
    fn thirty_seats_on_three_workers_are_ten_each() {
        let mut workers = [worker("a", 50, 0), worker("b", 20, 0), worker("c", 11, 0)];
        assert_eq!(place(&mut workers, 30), 30);
        assert!(workers.iter().all(|worker| worker.of_workshop == 10), "{workers:?}");
    }

    #[test]
    fn a_small_worker_is_filled_and_the_rest_goes_elsewhere() {
        let mut workers = [worker("a", 50, 0), worker("b", 2, 0)];
        assert_eq!(place(&mut workers, 20), 20);
        assert_eq!((workers[0].of_workshop, workers[1].of_workshop), (18, 2));
        assert_eq!(place(&mut workers, 100), 32, "full is full");
    }

    #[test]
    fn one_with_the_image_goes_before_an_emptier_one_without() {
        let mut without = worker("a", 50, 0);
        without.image = ImageSight::Preparing;
        let with = worker("b", 1, 5);
        assert_eq!(choose(&[without.clone(), with]).unwrap().id, "b");
        assert_eq!(choose(std::slice::from_ref(&without)).unwrap().id, "a");
        without.image = ImageSight::Missing;
        assert_eq!(choose(&[without]), None);
    }

    #[test]
    fn a_seat_that_failed_is_made_elsewhere_among_equals() {
        let mut had = worker("a", 10, 0);
        had.had_it = true;
        assert_eq!(choose(&[had, worker("b", 9, 0)]).unwrap().id, "b");
    }

    proptest! {
        #[test]
        fn nobody_is_overfilled_and_a_class_is_spread(rooms in prop::collection::vec(0..40u32, 1..8), seats in 0..200u32) {
            let mut workers: Vec<_> =
                rooms.iter().enumerate().map(|(n, room)| worker(&format!("w{n}"), *room, 0)).collect();
            let placed = place(&mut workers, seats);
            prop_assert_eq!(placed, seats.min(rooms.iter().sum()));
            for worker in &workers {
                // Whoever has room left has no two seats fewer than another.
                let most = workers.iter().map(|other| other.of_workshop).max().unwrap_or(0);
                prop_assert!(worker.room == 0 || most - worker.of_workshop <= 1, "{:?}", workers);
            }
        }
    }
}
