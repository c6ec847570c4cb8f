//! Workers as the admin sees them.

use std::sync::Arc;

use clarateach_api::WorkerView;

use super::member::Member;
use super::{Fleet, lock};

impl Fleet {
    /// Every worker that is not forgotten, by id.
    #[must_use]
    pub fn views(&self) -> Vec<WorkerView> {
        self.members().values().map(|member| self.view_of(member)).collect()
    }

    /// One worker.
    #[must_use]
    pub fn view(&self, id: &str) -> Option<WorkerView> {
        self.member(id).map(|member| self.view_of(&member))
    }

    /// How many workers there are, and how many of them take seats.
    #[must_use]
    pub fn count(&self) -> (u32, u32) {
        let members = self.members();
        let usable =
            members.values().filter(|member| member.with(|seen| seen.takes_seats(&self.around.local)));
        let count = |many: usize| u32::try_from(many).unwrap_or(u32::MAX);
        (count(members.len()), count(usable.count()))
    }

    fn view_of(&self, member: &Arc<Member>) -> WorkerView {
        let seats = lock(&self.table).seats_on(member.id());
        let health = member.health();
        member.with(|seen| {
            let (record, sighting) = (seen.record(), seen.sighting());
            let info = sighting.map(|sighting| &sighting.info);
            WorkerView {
                id: record.id.clone(),
                address: record.address.clone(),
                source: record.source.as_str().to_owned(),
                state: health.as_str().to_owned(),
                wish: record.wish.as_str().to_owned(),
                kind: info.map(|info| info.vmm.kind.clone()).or_else(|| record.kind.clone()),
                version: info.map(|info| info.version.clone()),
                worker_id: info.map(|info| info.worker_id.to_string()),
                seats,
                capacity: seen.capacity(),
                free_memory_mb: info.map(|info| info.memory.available_mb),
                clock_skew_ms: sighting
                    .and_then(|sighting| sighting.clock_skew)
                    .and_then(|skew| i64::try_from(skew.as_millis()).ok()),
                round_trip_ms: sighting.map(|sighting| sighting.round_trip.as_secs_f64() * 1e3),
                last_seen_at: seen.last_seen_at(),
                preempted: info.is_some_and(|info| info.preempted),
                takes_seats: seen.takes_seats(&self.around.local),
                problem: seen.problem(&self.around.local),
                public_url: record.public_url.clone(),
                labels: record.labels.clone(),
                tls: record.tls.is_some(),
                created_at: record.created_at,
            }
        })
    }
}
