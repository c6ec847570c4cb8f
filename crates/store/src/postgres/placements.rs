//! What workers may hold.

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::Wanted;

use super::database::{Session, Write};
use super::failure::{Outcome, conflict, not_found};
use super::{leases, rows, seats, workers, workshops};
use crate::{Fence, Placement, WorkerWish};

/// Whether any worker may hold anything of a workshop.
pub(super) async fn any(db: &Session, workshop: &WorkshopId) -> Outcome<bool> {
    let any = db
        .query_one("SELECT EXISTS (SELECT 1 FROM placements WHERE workshop_id = $1)", &[&workshop.as_str()])
        .await?;
    Ok(any.try_get(0)?)
}

/// The highest placement of a seat from a generation on.
async fn placed(db: &Session, key: &SeatKey, from: Generation) -> Outcome<Option<Placement>> {
    let placement = db
        .query_opt(
            "SELECT workshop_id, seat, worker, generation FROM placements
             WHERE workshop_id = $1 AND seat = $2 AND generation >= $3 ORDER BY generation DESC, worker LIMIT 1",
            &[&key.workshop.as_str(), &i64::from(key.seat.get()), &from.0.cast_signed()],
        )
        .await?;
    placement.as_ref().map(rows::placement).transpose()
}

pub(super) async fn place(write: &Write, fence: Option<&Fence>, wish: &Placement) -> Outcome<Placement> {
    leases::hold(write, fence).await?;
    if workshops::lock(write, &wish.key.workshop).await?.wanted != Wanted::Running {
        return Err(conflict("the workshop is not wanted running"));
    }
    let seat = seats::find(write, &wish.key).await?.ok_or_else(|| not_found("seat"))?;
    let generation = seat.record.generation;
    if generation != wish.generation {
        return Err(conflict(format!("seat {} is at {generation}, not {}", wish.key, wish.generation)));
    }
    match workers::hold(write, &wish.worker).await? {
        Some(worker) if worker.wish != WorkerWish::Forgotten => {}
        _ => return Err(conflict(format!("there is no worker {}", wish.worker))),
    }
    if let Some(placement) = placed(write, &wish.key, wish.generation).await? {
        return Ok(placement);
    }
    write
        .execute(
            "INSERT INTO placements (workshop_id, seat, worker, generation) VALUES ($1, $2, $3, $4)
             ON CONFLICT (workshop_id, seat, worker) DO UPDATE SET generation = excluded.generation",
            &[
                &wish.key.workshop.as_str(),
                &i64::from(wish.key.seat.get()),
                &wish.worker,
                &wish.generation.0.cast_signed(),
            ],
        )
        .await?;
    Ok(wish.clone())
}

pub(super) async fn list(db: &Session, workshop: Option<&WorkshopId>) -> Outcome<Vec<Placement>> {
    let placements = match workshop {
        Some(id) => {
            db.query(
                "SELECT workshop_id, seat, worker, generation FROM placements WHERE workshop_id = $1
                 ORDER BY seat, generation DESC, worker",
                &[&id.as_str()],
            )
            .await?
        }
        None => {
            db.query(
                "SELECT workshop_id, seat, worker, generation FROM placements
                 ORDER BY workshop_id, seat, generation DESC, worker",
                &[],
            )
            .await?
        }
    };
    placements.iter().map(rows::placement).collect()
}

pub(super) async fn remove(
    write: &Write,
    key: &SeatKey,
    worker: &str,
    generation: Generation,
) -> Outcome<()> {
    write
        .execute(
            "DELETE FROM placements WHERE workshop_id = $1 AND seat = $2 AND worker = $3 AND generation <= $4",
            &[
                &key.workshop.as_str(),
                &i64::from(key.seat.get()),
                &worker,
                &i64::try_from(generation.0).unwrap_or(i64::MAX),
            ],
        )
        .await?;
    Ok(())
}
