//! Sessions: in line, on a seat, over.

use std::collections::HashMap;

use clarateach_ids::{SeatKey, SeatNumber, SessionId, WorkshopId};
use clarateach_lifecycle::{EndReason, SessionState};
use jiff::Timestamp;

use super::database::{Session, Write};
use super::failure::{Outcome, not_found};
use super::rows::{self, session_columns};
use super::{events, seats, workshops};
use crate::{CodeHash, SeatRecord, SessionRecord, WorkshopRecord, event_data};

async fn get(db: &Session, id: &SessionId) -> Outcome<SessionRecord> {
    let session = db
        .query_opt(concat!("SELECT ", session_columns!(), " FROM sessions WHERE id = $1"), &[&id.as_str()])
        .await?;
    rows::session(&session.ok_or_else(|| not_found("session"))?)
}

pub(super) async fn by_code(
    db: &Session,
    code: &CodeHash,
) -> Outcome<(SessionRecord, WorkshopRecord, Option<SeatRecord>, Option<u32>)> {
    let session = db
        .query_opt(
            concat!("SELECT ", session_columns!(), " FROM sessions WHERE code_hash = $1"),
            &[&code.0.as_slice()],
        )
        .await?;
    let session = rows::session(&session.ok_or_else(|| not_found("session"))?)?;
    let workshop = workshops::get(db, &session.workshop).await?;
    let (seat, place) = match (session.state, session.seat) {
        (SessionState::Active, Some(seat)) => {
            let key = SeatKey { workshop: session.workshop.clone(), seat };
            (seats::find(db, &key).await?.map(|held| held.record), None)
        }
        (SessionState::Waiting, _) => (None, Some(place(db, &session.id).await?)),
        _ => (None, None),
    };
    Ok((session, workshop, seat, place))
}

/// The place in line of a waiting session, from 1.
async fn place(db: &Session, id: &SessionId) -> Outcome<u32> {
    let place = db
        .query_one(
            "SELECT count(*) AS place FROM sessions AS me JOIN sessions AS ahead
                 ON ahead.workshop_id = me.workshop_id AND ahead.state = 'waiting' AND ahead.line <= me.line
             WHERE me.id = $1",
            &[&id.as_str()],
        )
        .await?;
    rows::number(&place, "place")
}

/// Those in line, the first first.
pub(super) async fn in_line(db: &Session, workshop: &WorkshopId) -> Outcome<Vec<SessionRecord>> {
    let line = db
        .query(
            concat!(
                "SELECT ",
                session_columns!(),
                " FROM sessions WHERE workshop_id = $1 AND state = 'waiting' ORDER BY line"
            ),
            &[&workshop.as_str()],
        )
        .await?;
    line.iter().map(rows::session).collect()
}

/// Those on a seat.
pub(super) async fn active(
    db: &Session,
    workshop: &WorkshopId,
) -> Outcome<HashMap<SeatNumber, SessionRecord>> {
    let sessions = db
        .query(
            concat!(
                "SELECT ",
                session_columns!(),
                " FROM sessions WHERE workshop_id = $1 AND state = 'active'"
            ),
            &[&workshop.as_str()],
        )
        .await?;
    let mut active = HashMap::new();
    for row in &sessions {
        let session = rows::session(row)?;
        if let Some(seat) = session.seat {
            active.insert(seat, session);
        }
    }
    Ok(active)
}

/// Takes a session out of line, for `seat`; [`store_seated`] writes it down.
pub(super) fn activate(write: &Write, session: &mut SessionRecord, seat: SeatNumber, now: Timestamp) {
    session.state = SessionState::Active;
    session.seat = Some(seat);
    events::add(write, &session.workshop, now, "session.seated", &event_data::of_session(session, []));
}

/// Writes sessions down that have got a seat.
pub(super) async fn store_seated(write: &Write, sessions: &[SessionRecord]) -> Outcome<()> {
    if sessions.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = sessions.iter().map(|session| session.id.as_str()).collect();
    let seats: Vec<Option<i64>> =
        sessions.iter().map(|session| session.seat.map(|seat| i64::from(seat.get()))).collect();
    write
        .execute(
            "UPDATE sessions SET state = 'active', seat = new.seat, line = NULL
             FROM unnest($1::text[], $2::int8[]) AS new (id, seat) WHERE sessions.id = new.id",
            &[&ids, &seats],
        )
        .await?;
    Ok(())
}

pub(super) async fn end(
    write: &Write,
    id: &SessionId,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<SessionRecord> {
    workshops::lock(write, &get(write, id).await?.workshop).await?;
    // Only now is it what it will stay.
    let session = get(write, id).await?;
    if session.state == SessionState::Ended {
        return Ok(session);
    }
    let ended = mark_ended(write, vec![session.clone()], reason, now).await?.remove(0);
    if let (SessionState::Active, Some(seat)) = (session.state, session.seat) {
        seats::vacate(write, &SeatKey { workshop: session.workshop, seat }, now).await?;
    }
    Ok(ended)
}

/// The workshop is going: every session in it is over.
pub(super) async fn end_all(
    write: &Write,
    workshop: &WorkshopId,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<()> {
    let running = write
        .query(
            concat!(
                "SELECT ",
                session_columns!(),
                " FROM sessions WHERE workshop_id = $1 AND state IN ('active', 'waiting') ORDER BY id"
            ),
            &[&workshop.as_str()],
        )
        .await?;
    let running = running.iter().map(rows::session).collect::<Outcome<_>>()?;
    mark_ended(write, running, reason, now).await?;
    seats::vacate_all(write, workshop).await
}

async fn mark_ended(
    write: &Write,
    mut sessions: Vec<SessionRecord>,
    reason: EndReason,
    now: Timestamp,
) -> Outcome<Vec<SessionRecord>> {
    for session in &mut sessions {
        session.state = SessionState::Ended;
        session.end_reason = Some(reason);
        let data = event_data::of_session(session, [("reason", reason.as_str().into())]);
        events::add(write, &session.workshop, now, "session.ended", &data);
    }
    let ids: Vec<&str> = sessions.iter().map(|session| session.id.as_str()).collect();
    write
        .execute(
            "UPDATE sessions SET state = 'ended', line = NULL, end_reason = $2 WHERE id = ANY($1::text[])",
            &[&ids, &reason.as_str()],
        )
        .await?;
    Ok(sessions)
}

pub(super) async fn touch(write: &Write, seen: &[(SessionId, Timestamp)]) -> Outcome<()> {
    let mut latest: HashMap<&str, i64> = HashMap::new();
    for (id, at) in seen {
        let latest = latest.entry(id.as_str()).or_insert(i64::MIN);
        *latest = (*latest).max(at.as_millisecond());
    }
    let (ids, times): (Vec<&str>, Vec<i64>) = latest.into_iter().unzip();
    // Locked in one order, so that two replicas that note the same sessions don't wait for each other.
    write
        .execute(
            "WITH seen AS (
                 SELECT sessions.id, new.at FROM sessions JOIN unnest($1::text[], $2::int8[]) AS new (id, at)
                     ON sessions.id = new.id
                 WHERE sessions.state <> 'ended' ORDER BY sessions.id FOR NO KEY UPDATE OF sessions)
             UPDATE sessions SET last_seen_at = greatest(last_seen_at, seen.at) FROM seen WHERE sessions.id = seen.id",
            &[&ids, &times],
        )
        .await?;
    Ok(())
}
