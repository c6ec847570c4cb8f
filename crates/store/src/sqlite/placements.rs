//! What workers may hold.

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::Wanted;
use rusqlite::{Connection, OptionalExtension};

use super::failure::{Outcome, conflict};
use super::writer::Write;
use super::{leases, rows, seats, workers, workshops};
use crate::{Fence, Placement, WorkerWish};

/// Whether any worker may hold anything of a workshop.
pub(super) fn any(db: &Connection, workshop: &WorkshopId) -> Outcome<bool> {
    let mut statement =
        db.prepare_cached("SELECT EXISTS (SELECT 1 FROM placements WHERE workshop_id = ?1)")?;
    Ok(statement.query_row([workshop.as_str()], |row| row.get(0))?)
}

/// The highest placement of a seat from a generation on.
fn placed(db: &Connection, key: &SeatKey, from: Generation) -> Outcome<Option<Placement>> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM placements WHERE workshop_id = (SELECT ?1) AND seat = (SELECT ?2) AND generation >= ?3
         ORDER BY generation DESC, worker LIMIT 1",
    )?;
    let parameters = (key.workshop.as_str(), key.seat.get(), from.0.cast_signed());
    Ok(statement.query_row(parameters, rows::placement).optional()?)
}

pub(super) fn place(write: &mut Write<'_>, fence: Option<&Fence>, wish: &Placement) -> Outcome<Placement> {
    leases::hold(write.db, fence)?;
    if workshops::get(write.db, &wish.key.workshop)?.wanted != Wanted::Running {
        return Err(conflict("the workshop is not wanted running"));
    }
    let generation = seats::get(write.db, &wish.key)?.generation;
    if generation != wish.generation {
        return Err(conflict(format!("seat {} is at {generation}, not {}", wish.key, wish.generation)));
    }
    match workers::find(write.db, &wish.worker)? {
        Some(worker) if worker.wish != WorkerWish::Forgotten => {}
        _ => return Err(conflict(format!("there is no worker {}", wish.worker))),
    }
    if let Some(placement) = placed(write.db, &wish.key, wish.generation)? {
        return Ok(placement);
    }
    write
        .db
        .prepare_cached(
            "INSERT INTO placements (workshop_id, seat, worker, generation) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (workshop_id, seat, worker) DO UPDATE SET generation = excluded.generation",
        )?
        .execute((
            wish.key.workshop.as_str(),
            wish.key.seat.get(),
            &wish.worker,
            wish.generation.0.cast_signed(),
        ))?;
    Ok(wish.clone())
}

pub(super) fn list(db: &Connection, workshop: Option<&WorkshopId>) -> Outcome<Vec<Placement>> {
    let mut statement = db.prepare_cached(match workshop {
        Some(_) => {
            "SELECT * FROM placements WHERE workshop_id = (SELECT ?1)
             ORDER BY seat, generation DESC, worker"
        }
        None => {
            "SELECT * FROM placements WHERE ?1 IS NULL
             ORDER BY workshop_id, seat, generation DESC, worker"
        }
    })?;
    let placements = statement.query_map([workshop.map(WorkshopId::as_str)], rows::placement)?;
    Ok(placements.collect::<Result<_, _>>()?)
}

pub(super) fn remove(
    write: &mut Write<'_>,
    key: &SeatKey,
    worker: &str,
    generation: Generation,
) -> Outcome<()> {
    write
        .db
        .prepare_cached(
            "DELETE FROM placements WHERE workshop_id = ?1 AND seat = ?2 AND worker = ?3 AND generation <= ?4",
        )?
        .execute((
            key.workshop.as_str(),
            key.seat.get(),
            worker,
            i64::try_from(generation.0).unwrap_or(i64::MAX),
        ))?;
    Ok(())
}
