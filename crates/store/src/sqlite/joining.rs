//! A learner wants in.

use clarateach_lifecycle::{SessionState, Wanted};
use jiff::Timestamp;
use rusqlite::Connection;

use super::accounts::is_taken;
use super::failure::{Failure, Outcome, conflict};
use super::writer::Write;
use super::{events, seats, sessions, workshops};
use crate::{JoinDecision, JoinWish, SessionRecord, WorkshopRecord, event_data};

/// Who a learner turned out to be.
enum Known {
    /// By the session code that they came back with.
    ByCode(SessionRecord),
    /// By their browser alone.
    ByClient(SessionRecord),
    /// By a session code, of a session that is over.
    Ended(SessionRecord),
    /// Not at all.
    No,
}

fn recognise(db: &Connection, workshop: &WorkshopRecord, wish: &JoinWish) -> Outcome<Known> {
    let by_code = match &wish.returning_code {
        Some(code) => sessions::find_by_code_in(db, &workshop.id, code)?,
        None => None,
    };
    let ended = match by_code {
        Some(session) if session.state != SessionState::Ended => return Ok(Known::ByCode(session)),
        other => other,
    };
    if let Some(client_id) = &wish.client_id
        && let Some(session) = sessions::find_by_client(db, &workshop.id, client_id)?
    {
        return Ok(Known::ByClient(session));
    }
    Ok(ended.map_or(Known::No, Known::Ended))
}

/// The table of decisions is [`JoinDecision`]'s.
pub(super) fn join(write: &mut Write<'_>, wish: &JoinWish) -> Outcome<JoinDecision> {
    let Some(workshop) = workshops::find_by_code(write.db, &wish.join_code)? else {
        return Ok(JoinDecision::NotFound);
    };
    if workshop.wanted == Wanted::Deleted {
        return Ok(JoinDecision::NotFound);
    }
    let known = recognise(write.db, &workshop, wish)?;
    if let Known::Ended(session) = &known {
        return Ok(JoinDecision::Ended { reason: session.end_reason });
    }
    match workshop.wanted {
        Wanted::Created => return Ok(JoinDecision::NotRunning),
        Wanted::Stopped => return Ok(JoinDecision::Ended { reason: None }),
        _ if workshop.ends_at.is_some_and(|ends_at| ends_at <= wish.now) => {
            return Ok(JoinDecision::Ended { reason: None });
        }
        _ => {}
    }
    match known {
        Known::ByCode(session) => come_back(write, workshop, session, wish, false),
        Known::ByClient(session) => come_back(write, workshop, session, wish, true),
        _ if workshop.locked => Ok(JoinDecision::Locked),
        _ => newcomer(write, workshop, wish),
    }
}

/// No event: people come back at every reload.
fn come_back(
    write: &mut Write<'_>,
    workshop: WorkshopRecord,
    mut session: SessionRecord,
    wish: &JoinWish,
    code_is_new: bool,
) -> Outcome<JoinDecision> {
    let now = whole_milliseconds(wish.now);
    session.last_seen_at = session.last_seen_at.max(now);
    if let Some(name) = &wish.name {
        session.name = Some(name.clone());
    }
    write
        .db
        .prepare_cached(
            "UPDATE sessions SET last_seen_at = ?2, name = ?3, code_hash = coalesce(?4, code_hash) WHERE id = ?1",
        )?
        .execute((
            session.id.as_str(),
            session.last_seen_at.as_millisecond(),
            session.name.as_deref(),
            code_is_new.then_some(wish.new_code.0),
        ))
        .map_err(taken)?;
    if let Some(client_id) = &wish.client_id
        && !code_is_new
    {
        adopt_client(write, &session, client_id)?;
    }
    let workshop = Box::new(workshop);
    match sessions::seat_of(write.db, &session)? {
        Some(seat) => Ok(JoinDecision::Seated { session, seat, workshop, returning: true, code_is_new }),
        None => {
            let place = sessions::place(write.db, &session.id)?;
            Ok(JoinDecision::Waiting { session, place, workshop, code_is_new })
        }
    }
}

/// A session made without a browser's mark gets that of the first browser that shows its code, unless that browser
/// has a session already.
fn adopt_client(write: &mut Write<'_>, session: &SessionRecord, client_id: &str) -> Outcome<()> {
    write
        .db
        .prepare_cached(
            "UPDATE sessions SET client_id = ?2 WHERE id = ?1 AND client_id IS NULL AND NOT EXISTS
                 (SELECT 1 FROM sessions AS other WHERE other.workshop_id = ?3 AND other.client_id = ?2
                  AND other.client_id IS NOT NULL AND other.state <> 'ended')",
        )?
        .execute((session.id.as_str(), client_id, session.workshop.as_str()))?;
    Ok(())
}

fn newcomer(write: &mut Write<'_>, workshop: WorkshopRecord, wish: &JoinWish) -> Outcome<JoinDecision> {
    let in_line = sessions::in_line(write.db, &workshop.id)?;
    let free = if in_line == 0 { seats::first_free(write.db, &workshop.id)? } else { None };
    if free.is_none() && in_line >= seats::obtainable(write.db, &workshop.id)? {
        return Ok(JoinDecision::Full);
    }
    let now = whole_milliseconds(wish.now);
    let session = SessionRecord {
        id: wish.new_session.clone(),
        workshop: workshop.id.clone(),
        seat: free.as_ref().map(|seat| seat.record.key.seat),
        state: if free.is_some() { SessionState::Active } else { SessionState::Waiting },
        end_reason: None,
        name: wish.name.clone(),
        created_at: now,
        last_seen_at: now,
    };
    sessions::insert(write, &session, &wish.new_code, wish.client_id.as_deref()).map_err(|failure| {
        match failure {
            Failure::Sql(error) => taken(error),
            refused => refused,
        }
    })?;
    let data = event_data::of_session(&session, [("waiting", free.is_none().into())]);
    events::add(write, &workshop.id, now, "session.joined", &data)?;
    let workshop = Box::new(workshop);
    match free {
        Some(seat) => {
            seats::occupy(write, &seat, &session, now)?;
            let seat = seat.record;
            Ok(JoinDecision::Seated { session, seat, workshop, returning: false, code_is_new: true })
        }
        None => Ok(JoinDecision::Waiting { session, place: in_line + 1, workshop, code_is_new: true }),
    }
}

/// Ids and codes are random: this is a caller that used one twice.
fn taken(error: rusqlite::Error) -> Failure {
    if is_taken(&error) {
        conflict("the new session's id or code is taken; draw another")
    } else {
        Failure::Sql(error)
    }
}

/// As it will be read back.
fn whole_milliseconds(at: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}
