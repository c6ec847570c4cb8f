//! What workers may hold. Placements of a workshop are written in groups: a class is placed all at once.

use std::cmp::Reverse;

use clarateach_ids::{Generation, SeatKey, WorkshopId};
use clarateach_lifecycle::Wanted;

use super::database::{Database, Session, Write};
use super::failure::{Outcome, conflict, not_found};
use super::grouped::Groupable;
use super::{leases, rows, seats, workers, workshops};
use crate::{Fence, Placement, StoreError, WorkerWish};

/// Whether any worker may hold anything of a workshop.
pub(super) async fn any(db: &Session, workshop: &WorkshopId) -> Outcome<bool> {
    let any = db
        .query_one("SELECT EXISTS (SELECT 1 FROM placements WHERE workshop_id = $1)", &[&workshop.as_str()])
        .await?;
    Ok(any.try_get(0)?)
}

/// A seat that is to be placed, on the strength of a lease.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) fence: Option<Fence>,
    pub(super) wish: Placement,
}

impl Groupable for Place {
    type Key = (WorkshopId, Option<Fence>);
    type Answer = Placement;
    const OPERATION: &'static str = "place a seat";

    fn key(&self) -> Self::Key {
        (self.wish.key.workshop.clone(), self.fence.clone())
    }

    async fn in_one(database: &Database, works: &[&Self]) -> Result<Vec<Placement>, StoreError> {
        database.write("place seats", |write| async move { place(&write, works).await }).await
    }
}

/// A placement of which nothing is left.
#[derive(Debug)]
pub(super) struct Unplace {
    pub(super) key: SeatKey,
    pub(super) worker: String,
    /// Up to which make.
    pub(super) generation: Generation,
}

impl Groupable for Unplace {
    type Key = WorkshopId;
    type Answer = ();
    const OPERATION: &'static str = "forget a placement";

    fn key(&self) -> WorkshopId {
        self.key.workshop.clone()
    }

    async fn in_one(database: &Database, works: &[&Self]) -> Result<Vec<()>, StoreError> {
        database.write("forget placements", |write| async move { remove(&write, works).await }).await
    }
}

/// Seats of one workshop, under one fence. Where somebody was quicker theirs stands.
async fn place(write: &Write, works: &[&Place]) -> Outcome<Vec<Placement>> {
    let Some(Place { fence, wish: Placement { key: SeatKey { workshop, .. }, .. } }) = works.first() else {
        return Ok(Vec::new());
    };
    leases::hold(write, fence.as_ref()).await?;
    if workshops::lock(write, workshop).await?.wanted != Wanted::Running {
        return Err(conflict("the workshop is not wanted running"));
    }
    let numbers: Vec<i64> = works.iter().map(|work| i64::from(work.wish.key.seat.get())).collect();
    let generations = seats::generations(write, workshop, &numbers).await?;
    let workers: Vec<&str> = works.iter().map(|work| work.wish.worker.as_str()).collect();
    let workers = workers::hold(write, &workers).await?;
    let mut placed = of_seats(write, workshop, &numbers).await?;
    let (mut answers, mut added) = (Vec::with_capacity(works.len()), Vec::new());
    for Place { wish, .. } in works {
        let generation = generations.get(&wish.key.seat).ok_or_else(|| not_found("seat"))?;
        if *generation != wish.generation {
            return Err(conflict(format!("seat {} is at {generation}, not {}", wish.key, wish.generation)));
        }
        if !workers.iter().any(|worker| worker.id == wish.worker && worker.wish != WorkerWish::Forgotten) {
            return Err(conflict(format!("there is no worker {}", wish.worker)));
        }
        let newest = placed
            .iter()
            .filter(|other| other.key.seat == wish.key.seat && other.generation >= wish.generation)
            .min_by_key(|other| (Reverse(other.generation), &other.worker));
        let answer = newest.unwrap_or(wish).clone();
        if newest.is_none() {
            placed.push(wish.clone());
            added.push(wish);
        }
        answers.push(answer);
    }
    insert(write, workshop, &added).await?;
    Ok(answers)
}

async fn of_seats(db: &Session, workshop: &WorkshopId, seats: &[i64]) -> Outcome<Vec<Placement>> {
    let placements = db
        .query(
            "SELECT workshop_id, seat, worker, generation FROM placements
             WHERE workshop_id = $1 AND seat = ANY($2::int8[])",
            &[&workshop.as_str(), &seats],
        )
        .await?;
    placements.iter().map(rows::placement).collect()
}

async fn insert(write: &Write, workshop: &WorkshopId, added: &[&Placement]) -> Outcome<()> {
    if added.is_empty() {
        return Ok(());
    }
    let seats: Vec<i64> = added.iter().map(|row| i64::from(row.key.seat.get())).collect();
    let workers: Vec<&str> = added.iter().map(|row| row.worker.as_str()).collect();
    let generations: Vec<i64> = added.iter().map(|row| row.generation.0.cast_signed()).collect();
    write
        .execute(
            "INSERT INTO placements (workshop_id, seat, worker, generation)
             SELECT $1, seat, worker, generation
             FROM unnest($2::int8[], $3::text[], $4::int8[]) AS new (seat, worker, generation)
             ON CONFLICT (workshop_id, seat, worker) DO UPDATE SET generation = excluded.generation",
            &[&workshop.as_str(), &seats, &workers, &generations],
        )
        .await?;
    Ok(())
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

/// Of one workshop.
async fn remove(write: &Write, works: &[&Unplace]) -> Outcome<Vec<()>> {
    let Some(first) = works.first() else { return Ok(Vec::new()) };
    let seats: Vec<i64> = works.iter().map(|work| i64::from(work.key.seat.get())).collect();
    let workers: Vec<&str> = works.iter().map(|work| work.worker.as_str()).collect();
    let generations: Vec<i64> =
        works.iter().map(|work| i64::try_from(work.generation.0).unwrap_or(i64::MAX)).collect();
    write
        .execute(
            "DELETE FROM placements USING unnest($2::int8[], $3::text[], $4::int8[]) AS gone (seat, worker, generation)
             WHERE workshop_id = $1 AND placements.seat = gone.seat AND placements.worker = gone.worker
                 AND placements.generation <= gone.generation",
            &[&first.key.workshop.as_str(), &seats, &workers, &generations],
        )
        .await?;
    Ok(works.iter().map(|_| ()).collect())
}
