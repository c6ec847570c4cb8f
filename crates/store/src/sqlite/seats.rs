//! Seats, and giving them to sessions.

use std::collections::HashMap;

use clarateach_ids::{SeatKey, WorkshopId};
use clarateach_lifecycle::{SeatStatus, seat_status};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row};

use super::failure::{Failure, Outcome, not_found};
use super::writer::Write;
use super::{events, rows, sessions};
use crate::{SeatRecord, SeatWrite, SessionRecord, StoreError, event_data};

/// A seat and the id of the session that holds it.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) record: SeatRecord,
    holder: Option<String>,
}

impl Held {
    fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { record: rows::seat(row)?, holder: row.get("session_id")? })
    }

    /// Its seat anew, with whoever holds it.
    fn renewed(&self) -> Self {
        Self { record: self.record.renewed(), ..self.clone() }
    }

    fn status(&self) -> SeatStatus {
        seat_status(self.record.state, self.holder.is_some())
    }
}

fn find(db: &Connection, key: &SeatKey) -> Outcome<Option<Held>> {
    let mut statement = db.prepare_cached("SELECT * FROM seats WHERE workshop_id = ?1 AND n = ?2")?;
    Ok(statement.query_row((key.workshop.as_str(), key.seat.get()), Held::of).optional()?)
}

pub(super) fn get(db: &Connection, key: &SeatKey) -> Outcome<SeatRecord> {
    find(db, key)?.map(|held| held.record).ok_or_else(|| not_found("seat"))
}

fn all(db: &Connection, id: &WorkshopId) -> Outcome<Vec<Held>> {
    let mut statement =
        db.prepare_cached("SELECT * FROM seats WHERE workshop_id = (SELECT ?1) ORDER BY n")?;
    let seats = statement.query_map([id.as_str()], Held::of)?;
    Ok(seats.collect::<Result<_, _>>()?)
}

pub(super) fn list(db: &Connection, id: &WorkshopId) -> Outcome<Vec<(SeatRecord, Option<SessionRecord>)>> {
    let mut statement =
        db.prepare_cached("SELECT * FROM sessions WHERE workshop_id = ?1 AND state = 'active'")?;
    let sessions = statement.query_map([id.as_str()], rows::session)?;
    let mut holders = HashMap::new();
    for session in sessions {
        let session = session?;
        holders.insert(session.seat, session);
    }
    let seats = all(db, id)?;
    Ok(seats
        .into_iter()
        .map(|held| {
            let holder = holders.remove(&Some(held.record.key.seat));
            (held.record, holder)
        })
        .collect())
}

/// The ready free seat with the lowest number. The planner, left alone, walks all seats from the first.
pub(super) fn first_free(db: &Connection, id: &WorkshopId) -> Outcome<Option<Held>> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM seats INDEXED BY seats_free
         WHERE workshop_id = (SELECT ?1) AND state = 'ready' AND session_id IS NULL ORDER BY n LIMIT 1",
    )?;
    Ok(statement.query_row([id.as_str()], Held::of).optional()?)
}

/// How many free seats are ready or may become so: failed ones are tried again.
pub(super) fn obtainable(db: &Connection, id: &WorkshopId) -> Outcome<u32> {
    let mut statement = db.prepare_cached(
        "SELECT count(*) FROM seats INDEXED BY seats_free
         WHERE workshop_id = ?1 AND session_id IS NULL",
    )?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0))?)
}

/// Records `seats` seats at their first generation, pending.
pub(super) fn create(db: &Connection, id: &WorkshopId, seats: u32) -> Outcome<()> {
    let mut statement = db.prepare_cached(
        "INSERT INTO seats (workshop_id, n, generation, state) VALUES (?1, ?2, 1, 'pending')",
    )?;
    for n in 1..=seats {
        statement.execute((id.as_str(), n))?;
    }
    Ok(())
}

/// Adds `seat.<status>`.
fn announce(write: &mut Write<'_>, held: &Held, learner: Option<&str>, now: Timestamp) -> Outcome<()> {
    let kind = format!("seat.{}", held.status());
    let data = event_data::of_seat(&held.record, learner);
    events::add(write, &held.record.key.workshop, now, &kind, &data)?;
    Ok(())
}

fn learner(db: &Connection, held: &Held) -> Outcome<Option<String>> {
    let Some(holder) = &held.holder else { return Ok(None) };
    let mut statement = db.prepare_cached("SELECT name FROM sessions WHERE id = ?1")?;
    Ok(statement.query_row([holder], |row| row.get(0)).optional()?.flatten())
}

/// Writes a seat down, and announces what people can see of the difference.
fn replace(write: &mut Write<'_>, before: &Held, after: &Held, now: Timestamp) -> Outcome<()> {
    let seat = &after.record;
    let (code, text) = seat.reason.as_ref().map(|(code, text)| (code, text)).unzip();
    write
        .db
        .prepare_cached(
            "UPDATE seats SET generation = ?3, state = ?4, reason_code = ?5, reason_text = ?6, attempts = ?7,
                 retry_at = ?8, session_id = ?9,
                 ready_generation = CASE WHEN ?10 THEN ?3 ELSE ready_generation END
             WHERE workshop_id = ?1 AND n = ?2",
        )?
        .execute(rusqlite::params![
            seat.key.workshop.as_str(),
            seat.key.seat.get(),
            seat.generation.0.cast_signed(),
            seat.state.as_str(),
            code,
            text,
            seat.attempts,
            seat.retry_at.map(Timestamp::as_millisecond),
            after.holder,
            seat.was_ready,
        ])?;
    let seen = |held: &Held| (held.status(), held.record.generation, held.record.reason.clone());
    if seen(before) != seen(after) {
        let learner = learner(write.db, after)?;
        announce(write, after, learner.as_deref(), now)?;
    }
    Ok(())
}

/// A start: no seat is what it was before the stop.
pub(super) fn renew_all(write: &mut Write<'_>, id: &WorkshopId, now: Timestamp) -> Outcome<()> {
    for held in all(write.db, id)? {
        replace(write, &held, &held.renewed(), now)?;
    }
    Ok(())
}

/// Whoever holds it keeps it.
pub(super) fn reset(write: &mut Write<'_>, key: &SeatKey, now: Timestamp) -> Outcome<SeatRecord> {
    let held = find(write.db, key)?.ok_or_else(|| not_found("seat"))?;
    let next = held.renewed();
    let learner = learner(write.db, &next)?;
    let data = event_data::of_seat(&next.record, learner.as_deref());
    events::add(write, &key.workshop, now, "seat.reset", &data)?;
    replace(write, &held, &next, now)?;
    Ok(next.record)
}

/// Its session is over: the next learner gets a fresh one.
pub(super) fn vacate(write: &mut Write<'_>, key: &SeatKey, now: Timestamp) -> Outcome<()> {
    let Some(held) = find(write.db, key)? else { return Ok(()) };
    let mut next = held.renewed();
    next.holder = None;
    replace(write, &held, &next, now)
}

/// All sessions are over, and so are the environments: nothing is made anew.
pub(super) fn vacate_all(write: &mut Write<'_>, id: &WorkshopId) -> Outcome<()> {
    write
        .db
        .prepare_cached(
            "UPDATE seats SET session_id = NULL WHERE workshop_id = ?1 AND session_id IS NOT NULL",
        )?
        .execute([id.as_str()])?;
    Ok(())
}

/// Gives a ready free seat to an active session, which is in the table already.
pub(super) fn occupy(
    write: &mut Write<'_>,
    seat: &Held,
    session: &SessionRecord,
    now: Timestamp,
) -> Outcome<()> {
    let key = &seat.record.key;
    let taken = write
        .db
        .prepare_cached(
            "UPDATE seats SET session_id = ?3 WHERE workshop_id = ?1 AND n = ?2 AND session_id IS NULL",
        )?
        .execute((key.workshop.as_str(), key.seat.get(), session.id.as_str()))?;
    if taken != 1 {
        return Err(wrong("give a free seat to a session", format!("seat {key} is held")));
    }
    let occupied = Held { record: seat.record.clone(), holder: Some(session.id.as_str().to_owned()) };
    announce(write, &occupied, session.name.as_deref(), now)
}

/// First come, first served: gives ready free seats to those in line.
pub(super) fn seat_those_in_line(
    write: &mut Write<'_>,
    id: &WorkshopId,
    now: Timestamp,
) -> Outcome<Vec<SessionRecord>> {
    let mut seated = Vec::new();
    while let Some(first) = sessions::first_in_line(write.db, id)? {
        let Some(seat) = first_free(write.db, id)? else { break };
        let session = sessions::activate(write, first, seat.record.key.seat, now)?;
        occupy(write, &seat, &session, now)?;
        seated.push(session);
    }
    Ok(seated)
}

/// Writes down what the reconciler saw of a seat, unless a newer decision has been made since.
pub(super) fn observe(
    write: &mut Write<'_>,
    id: &WorkshopId,
    wish: &SeatWrite,
    now: Timestamp,
) -> Outcome<()> {
    let key = SeatKey { workshop: id.clone(), seat: wish.seat };
    let Some(held) = find(write.db, &key)? else { return Ok(()) };
    if held.record.generation != wish.generation {
        return Ok(());
    }
    // A held seat that was ready never becomes a new one by itself: its learner's work would be gone.
    let renews = wish.next_generation > wish.generation;
    if held.holder.is_some() && (wish.only_if_free || (renews && held.record.was_ready)) {
        return Ok(());
    }
    if wish.next_generation < wish.generation {
        let story = format!("seat {key} is at {}, not {}", wish.generation, wish.next_generation);
        return Err(wrong("write down a seat", story));
    }
    let record = SeatRecord {
        key,
        generation: wish.next_generation,
        state: wish.state,
        was_ready: wish.state.has_been_ready() || (held.record.was_ready && !renews),
        reason: wish.reason.clone(),
        attempts: wish.attempts,
        retry_at: wish.retry_at,
    };
    replace(write, &held, &Held { record, holder: held.holder.clone() }, now)
}

fn wrong(operation: &'static str, story: String) -> Failure {
    Failure::Refused(StoreError::Internal { operation, source: story.into() })
}
