//! The history of each workshop. Its events are numbered at the end of the transaction that adds them, under the lock
//! of the workshop's row.

use clarateach_ids::{EventSeq, WorkshopId};
use futures_util::future::try_join;
use jiff::Timestamp;
use serde_json::Value;

use super::database::{Session, Write};
use super::failure::{Outcome, not_found};
use super::{rows, workshops};
use crate::{EventRecord, NewEvent};

/// Older events of a workshop are dropped.
const KEPT: i64 = 10_000;

/// The channel on which stores tell each other of events.
pub(super) const CHANNEL: &str = "clarateach_events";

/// Numbers events, adds them, and drops those that are too old by then.
const NUMBER: &str =
    "WITH counter AS (UPDATE event_counters SET seq = seq + $2 WHERE workshop_id = $1 RETURNING seq),
          added AS (INSERT INTO events (workshop_id, seq, at, kind, data)
              SELECT $1, counter.seq - $2 + new.i, new.at, new.kind, new.data
              FROM counter, unnest($3::int8[], $4::text[], $5::text[])
                   WITH ORDINALITY AS new (at, kind, data, i)),
          dropped AS (DELETE FROM events USING counter
              WHERE events.workshop_id = $1 AND events.seq <= counter.seq - $6)
     SELECT seq FROM counter";

const TELL: &str = "SELECT pg_notify($1, payload) FROM unnest($2::text[]) AS payload";

/// What [`flush`] sends.
pub(super) const STATEMENTS: [&str; 2] = [NUMBER, TELL];

/// An event without its number.
pub(super) struct PendingEvent {
    workshop: WorkshopId,
    at: i64,
    kind: String,
    data: String,
}

/// Adds an event. The workshop must be there, and its row locked.
pub(super) fn add(write: &Write, id: &WorkshopId, now: Timestamp, kind: impl Into<String>, data: &Value) {
    let event = PendingEvent {
        workshop: id.clone(),
        at: now.as_millisecond(),
        kind: kind.into(),
        data: data.to_string(),
    };
    let mut pending = write.pending();
    pending.events.push(event);
    if pending.woken.last() != Some(id) {
        pending.woken.push(id.clone());
    }
}

pub(super) async fn add_new(write: &Write, event: &NewEvent) -> Outcome<EventSeq> {
    workshops::lock(write, &event.workshop).await?;
    add(write, &event.workshop, event.now, event.kind.as_str(), &event.data);
    let seq = number(write, &event.workshop).await?;
    Ok(EventSeq(seq.unsigned_abs()))
}

/// Writes what is pending, and tells the other stores, who hear of it when it is committed.
pub(super) async fn flush(write: &Write) -> Outcome<()> {
    try_join(number_all(write), tell(write)).await?;
    Ok(())
}

async fn number_all(write: &Write) -> Outcome<()> {
    loop {
        let next = write.pending().events.first().map(|event| event.workshop.clone());
        match next {
            Some(id) => number(write, &id).await?,
            None => return Ok(()),
        };
    }
}

/// Those that were told before in this transaction aren't told again.
async fn tell(write: &Write) -> Outcome<()> {
    let mut woken: Vec<String> = {
        let mut pending = write.pending();
        let all = pending.woken.len();
        let told = std::mem::replace(&mut pending.told, all);
        pending.woken[told..].iter().map(|id| format!("{id} {}", write.origin)).collect()
    };
    woken.sort_unstable();
    woken.dedup();
    if !woken.is_empty() {
        write.execute(TELL, &[&CHANNEL, &woken]).await?;
    }
    Ok(())
}

/// Writes the pending events of one workshop; the number of the last.
async fn number(write: &Write, id: &WorkshopId) -> Outcome<i64> {
    let (mut at, mut kinds, mut data) = (Vec::new(), Vec::new(), Vec::new());
    write.pending().events.retain_mut(|event| {
        let mine = event.workshop == *id;
        if mine {
            at.push(event.at);
            kinds.push(std::mem::take(&mut event.kind));
            data.push(std::mem::take(&mut event.data));
        }
        !mine
    });
    let count = i64::try_from(at.len()).unwrap_or(i64::MAX);
    let last = write
        .query_opt(NUMBER, &[&id.as_str(), &count, &at, &kinds, &data, &KEPT])
        .await?
        .ok_or_else(|| not_found("workshop"))?;
    rows::value(&last, "seq")
}

pub(super) async fn list(
    db: &Session,
    id: &WorkshopId,
    since: EventSeq,
    limit: u32,
) -> Outcome<Vec<EventRecord>> {
    workshops::get(db, id).await?;
    let since = i64::try_from(since.0).unwrap_or(i64::MAX);
    let events = db
        .query(
            "SELECT workshop_id, seq, at, kind, data FROM events WHERE workshop_id = $1 AND seq > $2
             ORDER BY seq LIMIT $3",
            &[&id.as_str(), &since, &i64::from(limit)],
        )
        .await?;
    events.iter().map(rows::event).collect()
}
