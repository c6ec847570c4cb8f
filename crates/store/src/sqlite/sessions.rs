//! Sessions: in line, on a seat, over.

use clarateach_ids::{SeatKey, SeatNumber, SessionId, WorkshopId};
use clarateach_lifecycle::{EndReason, SessionState};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::failure::{Outcome, not_found};
use super::writer::Write;
use super::{events, rows, seats, workshops};
use crate::{CodeHash, SeatRecord, SessionRecord, WorkshopRecord, event_data};

fn get(db: &Connection, id: &SessionId) -> Outcome<SessionRecord> {
    db.prepare_cached("SELECT * FROM sessions WHERE id = ?1")?
        .query_row([id.as_str()], rows::session)
        .optional()?
        .ok_or_else(|| not_found("session"))
}

fn find_by_code(db: &Connection, code: &CodeHash) -> Outcome<Option<SessionRecord>> {
    let mut statement = db.prepare_cached("SELECT * FROM sessions WHERE code_hash = ?1")?;
    Ok(statement.query_row([code.0], rows::session).optional()?)
}

/// The session of *this* workshop with this code.
pub(super) fn find_by_code_in(
    db: &Connection,
    workshop: &WorkshopId,
    code: &CodeHash,
) -> Outcome<Option<SessionRecord>> {
    Ok(find_by_code(db, code)?.filter(|session| session.workshop == *workshop))
}

/// The session of this browser that is not over.
pub(super) fn find_by_client(
    db: &Connection,
    workshop: &WorkshopId,
    client_id: &str,
) -> Outcome<Option<SessionRecord>> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM sessions WHERE workshop_id = ?1 AND client_id = ?2 AND client_id IS NOT NULL
         AND state <> 'ended'",
    )?;
    Ok(statement.query_row((workshop.as_str(), client_id), rows::session).optional()?)
}

pub(super) fn by_code(
    db: &Connection,
    code: &CodeHash,
) -> Outcome<(SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>)> {
    let session = find_by_code(db, code)?.ok_or_else(|| not_found("session"))?;
    let workshop = workshops::get(db, &session.workshop)?;
    let (seat, place) = match session.state {
        SessionState::Active => (seat_of(db, &session)?, None),
        SessionState::Waiting => (None, Some(place(db, &session.id)?)),
        SessionState::Ended => (None, None),
    };
    Ok((session, workshop, seat, place))
}

pub(super) fn seat_of(db: &Connection, session: &SessionRecord) -> Outcome<Option<SeatRecord>> {
    let key = |seat: SeatNumber| SeatKey { workshop: session.workshop.clone(), seat };
    session.seat.map(|seat| seats::get(db, &key(seat))).transpose()
}

/// The place in line of a waiting session, from 1.
pub(super) fn place(db: &Connection, id: &SessionId) -> Outcome<u32> {
    let mut statement = db.prepare_cached(
        "SELECT count(*) FROM sessions AS me JOIN sessions AS ahead
             ON ahead.workshop_id = me.workshop_id AND ahead.state = 'waiting' AND ahead.line <= me.line
         WHERE me.id = ?1",
    )?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0))?)
}

/// How many are in line.
pub(super) fn in_line(db: &Connection, workshop: &WorkshopId) -> Outcome<u32> {
    let mut statement =
        db.prepare_cached("SELECT count(*) FROM sessions WHERE workshop_id = ?1 AND state = 'waiting'")?;
    Ok(statement.query_row([workshop.as_str()], |row| row.get(0))?)
}

pub(super) fn first_in_line(db: &Connection, workshop: &WorkshopId) -> Outcome<Option<SessionRecord>> {
    let mut statement = db.prepare_cached(
        "SELECT * FROM sessions WHERE workshop_id = (SELECT ?1) AND state = 'waiting' ORDER BY line LIMIT 1",
    )?;
    Ok(statement.query_row([workshop.as_str()], rows::session).optional()?)
}

/// The order of somebody who comes to the end of the line.
fn end_of_line(db: &Connection, workshop: &WorkshopId) -> Outcome<i64> {
    let mut statement = db.prepare_cached(
        "SELECT coalesce(max(line), 0) + 1 FROM sessions WHERE workshop_id = (SELECT ?1) AND state = 'waiting'",
    )?;
    Ok(statement.query_row([workshop.as_str()], |row| row.get(0))?)
}

/// Records a new session: active when it has a seat, else last in line.
pub(super) fn insert(
    write: &mut Write<'_>,
    session: &SessionRecord,
    code: &CodeHash,
    client_id: Option<&str>,
) -> Outcome<()> {
    let line = match session.state {
        SessionState::Waiting => Some(end_of_line(write.db, &session.workshop)?),
        SessionState::Active | SessionState::Ended => None,
    };
    // Plain values only: with a comparison to one of them SQLite would plan the statement anew at each use.
    write
        .db
        .prepare_cached(
            "INSERT INTO sessions (id, workshop_id, state, seat, line, code_hash, client_id, name, created_at,
                 last_seen_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(rusqlite::params![
            session.id.as_str(),
            session.workshop.as_str(),
            session.state.as_str(),
            session.seat.map(SeatNumber::get),
            line,
            code.0,
            client_id,
            session.name,
            session.created_at.as_millisecond(),
            session.last_seen_at.as_millisecond(),
        ])?;
    Ok(())
}

/// Takes a session out of line, for `seat`.
pub(super) fn activate(
    write: &mut Write<'_>,
    mut session: SessionRecord,
    seat: SeatNumber,
    now: Timestamp,
) -> Outcome<SessionRecord> {
    write
        .db
        .prepare_cached("UPDATE sessions SET state = 'active', seat = ?2, line = NULL WHERE id = ?1")?
        .execute((session.id.as_str(), seat.get()))?;
    session.state = SessionState::Active;
    session.seat = Some(seat);
    events::add(write, &session.workshop, now, "session.seated", &event_data::of_session(&session, []))?;
    Ok(session)
}

pub(super) fn end(
    write: &mut Write<'_>,
    id: &SessionId,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<SessionRecord> {
    let session = get(write.db, id)?;
    if session.state == SessionState::Ended {
        return Ok(session);
    }
    let ended = mark_ended(write, session.clone(), reason, now)?;
    if let (SessionState::Active, Some(seat)) = (session.state, session.seat) {
        seats::vacate(write, &SeatKey { workshop: session.workshop.clone(), seat }, now)?;
    }
    Ok(ended)
}

/// The workshop is going: every session in it is over.
pub(super) fn end_all(
    write: &mut Write<'_>,
    workshop: &WorkshopId,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<()> {
    let running: Vec<SessionRecord> = {
        let mut statement = write.db.prepare_cached(
            "SELECT * FROM sessions WHERE workshop_id = ?1 AND state IN ('active', 'waiting')",
        )?;
        statement.query_map([workshop.as_str()], rows::session)?.collect::<Result<_, _>>()?
    };
    for session in running {
        mark_ended(write, session, reason, now)?;
    }
    seats::vacate_all(write, workshop)
}

fn mark_ended(
    write: &mut Write<'_>,
    mut session: SessionRecord,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<SessionRecord> {
    write
        .db
        .prepare_cached("UPDATE sessions SET state = 'ended', line = NULL, end_reason = ?2 WHERE id = ?1")?
        .execute((session.id.as_str(), reason.as_str()))?;
    session.state = SessionState::Ended;
    session.end_reason = Some(reason);
    let data = event_data::of_session(&session, [("reason", reason.as_str().into())]);
    events::add(write, &session.workshop, now, "session.ended", &data)?;
    Ok(session)
}

pub(super) fn touch(write: &mut Write<'_>, seen: &[(SessionId, Timestamp)]) -> Outcome<()> {
    let mut statement = write.db.prepare_cached(
        "UPDATE sessions SET last_seen_at = max(last_seen_at, ?2) WHERE id = ?1 AND state <> 'ended'",
    )?;
    for (id, at) in seen {
        statement.execute((id.as_str(), at.as_millisecond()))?;
    }
    Ok(())
}
