//! When workers that are cut off end a workshop's seats by themselves, and which of them are yet to be told. Pure.

use std::collections::{BTreeMap, BTreeSet};

use clarateach_ids::{Generation, SeatKey};
use clarateach_runtime::EnvironmentState;
use clarateach_store::WorkshopRecord;
use jiff::{SignedDuration, Timestamp};

use super::plan::{Action, Plan, Sight};

/// A worker that is cut off ends the seats of a workshop so long after the workshop's end.
const CUT_OFF_AFTER: SignedDuration = SignedDuration::from_mins(15);

/// Ends that workers were told, by seat and make: not all show theirs.
pub type ToldEnds = BTreeMap<SeatKey, (Generation, Option<Timestamp>)>;

/// When a worker that is cut off ends a workshop's seats by itself.
#[must_use]
pub fn not_after(workshop: &WorkshopRecord) -> Option<Timestamp> {
    workshop.ends_at.and_then(|end| end.checked_add(CUT_OFF_AFTER).ok())
}

/// Applies that tell workers a workshop's new end; from here on they count as told.
pub(super) fn to_tell(sight: &Sight<'_>, decided: &Plan, told: &mut ToldEnds) -> Vec<Action> {
    let wanted = not_after(sight.workshop);
    let generations: BTreeMap<_, _> =
        sight.seats.iter().map(|(seat, _)| (&seat.key, seat.generation)).collect();
    let acted: BTreeSet<_> = decided
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Apply(seat, _) => Some(*seat),
            Action::Remove(..) => None,
        })
        .collect();
    let mut actions = Vec::new();
    for environment in sight.environments {
        let key = &environment.key;
        let lives = matches!(environment.state, EnvironmentState::Ready)
            && generations.get(key) == Some(&environment.generation);
        let end = (environment.generation, wanted);
        let second = |at: Option<Timestamp>| at.map(Timestamp::as_second);
        if !lives
            || second(environment.not_after) == second(wanted)
            || sight.in_flight.contains(key)
            || acted.contains(&key.seat)
            // One that shows another end has been told that one since, by a call that came late.
            || (environment.not_after.is_none() && told.get(key) == Some(&end))
        {
            continue;
        }
        told.insert(key.clone(), end);
        actions.push(Action::Apply(key.seat, environment.generation));
    }
    actions
}
