//! The history of each workshop.

use clarateach_ids::{EventSeq, WorkshopId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use serde_json::Value;

use super::failure::{Outcome, not_found};
use super::rows;
use super::writer::Write;
use crate::{EventRecord, NewEvent};

/// Older events of a workshop are dropped.
const KEPT: i64 = 10_000;

/// Adds an event under the workshop's next number. The workshop must be there.
pub(super) fn add(
    write: &mut Write<'_>,
    id: &WorkshopId,
    now: Timestamp,
    kind: &str,
    data: &Value,
) -> Outcome<EventSeq> {
    let seq: Option<i64> = write
        .db
        .prepare_cached("UPDATE event_counters SET seq = seq + 1 WHERE workshop_id = ?1 RETURNING seq")?
        .query_row([id.as_str()], |row| row.get(0))
        .optional()?;
    let seq = seq.ok_or_else(|| not_found("workshop"))?;
    write
        .db
        .prepare_cached("INSERT INTO events (workshop_id, seq, at, kind, data) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute((id.as_str(), seq, now.as_millisecond(), kind, data.to_string()))?;
    if seq > KEPT {
        write
            .db
            .prepare_cached("DELETE FROM events WHERE workshop_id = ?1 AND seq <= ?2")?
            .execute((id.as_str(), seq - KEPT))?;
    }
    if write.woken.last() != Some(id) {
        write.woken.push(id.clone());
    }
    Ok(EventSeq(seq.unsigned_abs()))
}

pub(super) fn add_new(write: &mut Write<'_>, event: &NewEvent) -> Outcome<EventSeq> {
    add(write, &event.workshop, event.now, &event.kind, &event.data)
}

pub(super) fn list(
    db: &Connection,
    id: &WorkshopId,
    since: EventSeq,
    limit: u32,
) -> Outcome<Vec<EventRecord>> {
    let since = i64::try_from(since.0).unwrap_or(i64::MAX);
    let mut statement = db.prepare_cached(
        "SELECT workshop_id, seq, at, kind, data FROM events WHERE workshop_id = (SELECT ?1) AND seq > ?2
         ORDER BY seq LIMIT ?3",
    )?;
    let events = statement.query_map((id.as_str(), since, limit), rows::event)?;
    Ok(events.collect::<Result<_, _>>()?)
}
