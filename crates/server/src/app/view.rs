//! Records as the API shows them.

use clarateach_api::{SeatCounts, SeatView, WorkshopView};
use clarateach_ids::SessionId;
use clarateach_lifecycle::{seat_status, shown_status};
use clarateach_store::{SeatRecord, SessionRecord, WorkshopCounts, WorkshopRecord};

use super::App;

impl App {
    /// A workshop as its instructor sees it. `base` is the URL under which the caller reached the server.
    pub async fn workshop_view(
        &self,
        base: &str,
        workshop: WorkshopRecord,
        counts: WorkshopCounts,
    ) -> WorkshopView {
        let warnings = match self.runtimes.named(&workshop.runtime) {
            Some(runtime) => runtime.warnings().await,
            None => vec![format!("This server has no {} runtime at the moment.", workshop.runtime)],
        };
        let (reason_code, reason) = workshop.reason.unzip();
        WorkshopView {
            join_url: format!("{base}/join/{}", workshop.join_code),
            progress: self.progress.of(&workshop.runtime, &workshop.image),
            id: workshop.id,
            name: workshop.name,
            join_code: workshop.join_code,
            status: shown_status(workshop.status, workshop.wanted).as_str().to_owned(),
            reason_code,
            reason,
            seats: workshop.seats,
            seat_counts: SeatCounts {
                pending: counts.pending,
                starting: counts.starting,
                ready: counts.ready,
                occupied: counts.occupied,
                unreachable: counts.unreachable,
                failed: counts.failed,
            },
            waiting: counts.waiting,
            runtime: workshop.runtime,
            warnings,
            image: workshop.image,
            env_names: workshop.env_names,
            memory_mb: workshop.memory_mb,
            vcpus: workshop.vcpus,
            disk_mb: workshop.disk_mb,
            locked: workshop.locked,
            owner_id: workshop.owner,
            created_at: workshop.created_at,
            ends_at: workshop.ends_at,
        }
    }

    /// A seat as its instructor sees it; `connected` says which sessions have a stream open.
    pub fn seat_view(
        seat: SeatRecord,
        holder: Option<SessionRecord>,
        connected: impl Fn(&SessionId) -> bool,
    ) -> SeatView {
        let (reason_code, reason) = seat.reason.unzip();
        SeatView {
            seat: seat.key.seat,
            status: seat_status(seat.state, holder.is_some()).as_str().to_owned(),
            reason_code,
            reason,
            generation: seat.generation,
            connected: holder.as_ref().is_some_and(|session| connected(&session.id)),
            joined_at: holder.as_ref().map(|session| session.created_at),
            last_seen_at: holder.as_ref().map(|session| session.last_seen_at),
            learner: holder.map(|session| session.name.unwrap_or_else(|| "(no name given)".to_owned())),
        }
    }
}
