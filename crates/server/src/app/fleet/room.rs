//! How many more seats workers can be given, and which seats leave one that is being drained.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use clarateach_ids::{SeatNumber, WorkshopId};
use clarateach_runtime::RuntimeKind;

use super::member::{Member, Seen};
use super::table::Table;
use super::{Fleet, lock};

/// At most so many free seats of one workshop leave a worker at a time.
const LEAVE_AT_ONCE: usize = 8;

impl Fleet {
    /// How many more seats workers of a kind can be given now.
    #[must_use]
    pub fn room(&self, kind: RuntimeKind) -> u32 {
        let members = self.of_kind(kind);
        let table = lock(&self.table);
        members.iter().map(|member| self.room_on(&table, member)).sum()
    }

    /// How many more seats a worker can be given now.
    pub(super) fn room_on(&self, table: &Table, member: &Arc<Member>) -> u32 {
        member.with(|seen| {
            if !seen.takes_seats(&self.around.local) || seen.is_full() {
                return 0;
            }
            seen.capacity().saturating_sub(table.seats_on(member.id()).max(seen.shown()))
        })
    }

    /// Whether seats are to leave any worker.
    #[must_use]
    pub fn is_anyone_leaving(&self) -> bool {
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        members.values().any(|member| member.with(Seen::is_leaving))
    }

    /// Seats of a workshop whose worker is being drained, and how many of them may be made anew elsewhere now.
    #[must_use]
    pub fn leaving(&self, kind: RuntimeKind, workshop: &WorkshopId) -> (BTreeSet<SeatNumber>, usize) {
        let members = self.of_kind(kind);
        let (leaving, staying): (Vec<_>, Vec<_>) =
            members.into_iter().partition(|member| member.with(Seen::is_leaving));
        if leaving.is_empty() {
            return (BTreeSet::new(), 0);
        }
        let table = lock(&self.table);
        let room: u32 = staying.iter().map(|member| self.room_on(&table, member)).sum();
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(LEAVE_AT_ONCE);
        let on_leaving = table.of_workshop(workshop).filter(|(key, _)| {
            table.newest(key).is_some_and(|(worker, _)| leaving.iter().any(|member| member.id() == worker))
        });
        (on_leaving.map(|(key, _)| key.seat).collect(), room)
    }
}
