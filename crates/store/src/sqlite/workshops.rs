//! Workshops.

use std::collections::HashMap;

use clarateach_ids::{JoinCode, UserId, WorkshopId};
use clarateach_lifecycle::{EndReason, SeatState, SeatStatus, Wanted, WorkshopStatus, seat_status};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};
use serde_json::{Value, json};

use super::accounts::is_taken;
use super::failure::{Failure, Outcome, conflict, not_found};
use super::writer::Write;
use super::{events, leases, placements, rows, seats, sessions};
use crate::{Fence, NewWorkshop, SessionRecord, WorkshopCounts, WorkshopRecord, WorkshopWrite};

fn find(db: &Connection, id: &WorkshopId) -> Outcome<Option<WorkshopRecord>> {
    let mut statement = db.prepare_cached("SELECT * FROM workshops WHERE id = ?1")?;
    Ok(statement.query_row([id.as_str()], rows::workshop).optional()?)
}

pub(super) fn get(db: &Connection, id: &WorkshopId) -> Outcome<WorkshopRecord> {
    find(db, id)?.ok_or_else(|| not_found("workshop"))
}

pub(super) fn find_by_code(db: &Connection, code: &JoinCode) -> Outcome<Option<WorkshopRecord>> {
    let mut statement = db.prepare_cached("SELECT * FROM workshops WHERE join_code = ?1")?;
    Ok(statement.query_row([code.to_string()], rows::workshop).optional()?)
}

pub(super) fn by_code(db: &Connection, code: &JoinCode) -> Outcome<WorkshopRecord> {
    find_by_code(db, code)?.ok_or_else(|| not_found("workshop"))
}

pub(super) fn create(write: &mut Write<'_>, new: &NewWorkshop) -> Outcome<WorkshopRecord> {
    write
        .db
        .prepare_cached(
            "INSERT INTO workshops (id, owner_id, name, join_code, seats, runtime, image, env_names, env_sealed,
                 memory_mb, vcpus, disk_mb, wanted, status, ends_at, created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(rusqlite::params![
            new.id.as_str(),
            new.owner.as_str(),
            new.name,
            new.join_code.to_string(),
            new.seats,
            new.runtime,
            new.image,
            Value::from(new.env_names.clone()).to_string(),
            new.env_sealed,
            new.memory_mb,
            new.vcpus,
            new.disk_mb,
            new.wanted.as_str(),
            WorkshopStatus::Created.as_str(),
            new.ends_at.map(Timestamp::as_millisecond),
            new.now.as_millisecond(),
        ])
        .map_err(|error| {
            if is_taken(&error) { conflict("the join code is taken") } else { Failure::Sql(error) }
        })?;
    write
        .db
        .prepare_cached("INSERT INTO event_counters (workshop_id, seq) VALUES (?1, 0)")?
        .execute([new.id.as_str()])?;
    seats::create(write.db, &new.id, new.seats)?;
    let data = json!({ "name": new.name, "seats": new.seats, "runtime": new.runtime });
    events::add(write, &new.id, new.now, "workshop.created", &data)?;
    get(write.db, &new.id)
}

/// Adds what a group of equal seats or sessions counts for.
fn tally(
    db: &Connection,
    sql: &str,
    who: Option<&str>,
    mut add: impl FnMut(WorkshopId, &str, bool, u32),
) -> Outcome<()> {
    let mut statement = db.prepare_cached(sql)?;
    let mut groups = statement.query([who])?;
    while let Some(row) = groups.next()? {
        let id = rows::word(row, "workshop_id")?;
        add(
            id,
            row.get_ref("state")?.as_str().map_err(rusqlite::Error::from)?,
            row.get("held")?,
            row.get("n")?,
        );
    }
    Ok(())
}

fn count_seats(counts: &mut WorkshopCounts, state: SeatState, held: bool, n: u32) {
    let slot = match seat_status(state, held) {
        SeatStatus::Pending => &mut counts.pending,
        SeatStatus::Starting => &mut counts.starting,
        SeatStatus::Ready => &mut counts.ready,
        SeatStatus::Occupied => &mut counts.occupied,
        SeatStatus::Unreachable => &mut counts.unreachable,
        SeatStatus::Failed => &mut counts.failed,
    };
    *slot += n;
}

type Counts = HashMap<WorkshopId, WorkshopCounts>;

fn count(db: &Connection, seats: &str, sessions: &str, who: Option<&str>) -> Outcome<Counts> {
    let mut counts = Counts::new();
    tally(db, seats, who, |id, state, held, n| {
        if let Ok(state) = state.parse() {
            count_seats(counts.entry(id).or_default(), state, held, n);
        }
    })?;
    tally(db, sessions, who, |id, state, _, n| {
        let counts = counts.entry(id).or_default();
        match state {
            "waiting" => counts.waiting += n,
            _ => counts.active += n,
        }
    })?;
    Ok(counts)
}

pub(super) fn counts(db: &Connection, id: &WorkshopId) -> Outcome<WorkshopCounts> {
    get(db, id)?;
    let mut counts = count(
        db,
        "SELECT workshop_id, state, session_id IS NOT NULL AS held, count(*) AS n FROM seats
         WHERE workshop_id = ?1 GROUP BY 2, 3",
        "SELECT workshop_id, state, 1 AS held, count(*) AS n FROM sessions
         WHERE workshop_id = ?1 AND state IN ('waiting', 'active') GROUP BY 2",
        Some(id.as_str()),
    )?;
    Ok(counts.remove(id).unwrap_or_default())
}

pub(super) fn list(
    db: &Connection,
    owner: Option<&UserId>,
) -> Outcome<Vec<(WorkshopRecord, WorkshopCounts)>> {
    let owner = owner.map(UserId::as_str);
    let mut counts = count(
        db,
        "SELECT workshop_id, state, session_id IS NOT NULL AS held, count(*) AS n FROM seats
         WHERE ?1 IS NULL OR workshop_id IN (SELECT id FROM workshops WHERE owner_id = ?1) GROUP BY 1, 2, 3",
        "SELECT workshop_id, state, 1 AS held, count(*) AS n FROM sessions
         WHERE state IN ('waiting', 'active')
             AND (?1 IS NULL OR workshop_id IN (SELECT id FROM workshops WHERE owner_id = ?1)) GROUP BY 1, 2",
        owner,
    )?;
    let mut statement = db.prepare_cached(
        "SELECT * FROM workshops WHERE ?1 IS NULL OR owner_id = ?1 ORDER BY created_at DESC, rowid DESC",
    )?;
    let workshops = statement.query_map([owner], rows::workshop)?;
    let with_counts = workshops.map(|workshop| {
        let workshop = workshop?;
        let counts = counts.remove(&workshop.id).unwrap_or_default();
        Ok((workshop, counts))
    });
    with_counts.collect()
}

pub(super) fn set_wanted(
    write: &mut Write<'_>,
    id: &WorkshopId,
    wanted: Wanted,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = get(write.db, id)?;
    match (before.wanted, wanted) {
        (same, wish) if same == wish => return Ok(before),
        (Wanted::Deleted, _) => return Err(conflict("the workshop is being deleted")),
        (_, Wanted::Created) => return Err(conflict("a workshop can't become one that was never started")),
        _ => {}
    }
    write
        .db
        .prepare_cached("UPDATE workshops SET wanted = ?2 WHERE id = ?1")?
        .execute((id.as_str(), wanted.as_str()))?;
    match wanted {
        Wanted::Running => seats::renew_all(write, id, now)?,
        Wanted::Deleted => sessions::end_all(write, id, EndReason::WorkshopDeleted, now)?,
        Wanted::Created | Wanted::Stopped => {}
    }
    get(write.db, id)
}

pub(super) fn set_ends_at(
    write: &mut Write<'_>,
    id: &WorkshopId,
    ends_at: Option<Timestamp>,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = get(write.db, id)?;
    write
        .db
        .prepare_cached("UPDATE workshops SET ends_at = ?2 WHERE id = ?1")?
        .execute((id.as_str(), ends_at.map(Timestamp::as_millisecond)))?;
    let after = get(write.db, id)?;
    if before.ends_at != after.ends_at {
        events::add(write, id, now, "workshop.extended", &json!({ "ends_at": after.ends_at }))?;
    }
    Ok(after)
}

pub(super) fn set_locked(
    write: &mut Write<'_>,
    id: &WorkshopId,
    locked: bool,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = get(write.db, id)?;
    if before.locked == locked {
        return Ok(before);
    }
    write
        .db
        .prepare_cached("UPDATE workshops SET locked = ?2 WHERE id = ?1")?
        .execute((id.as_str(), locked))?;
    let kind = if locked { "workshop.locked" } else { "workshop.unlocked" };
    events::add(write, id, now, kind, &json!({}))?;
    Ok(WorkshopRecord { locked, ..before })
}

/// Those who watch its events are woken, to see that it is gone.
pub(super) fn purge(write: &mut Write<'_>, id: &WorkshopId, fence: Option<&Fence>) -> Outcome<()> {
    leases::hold(write.db, fence)?;
    if get(write.db, id)?.wanted != Wanted::Deleted {
        return Err(conflict("the workshop is not wanted deleted"));
    }
    if placements::any(write.db, id)? {
        return Err(conflict("workers may still hold something of the workshop"));
    }
    for sql in [
        "DELETE FROM seats WHERE workshop_id = ?1",
        "DELETE FROM sessions WHERE workshop_id = ?1",
        "DELETE FROM events WHERE workshop_id = ?1",
        "DELETE FROM event_counters WHERE workshop_id = ?1",
        "DELETE FROM workshops WHERE id = ?1",
    ] {
        write.db.prepare_cached(sql)?.execute([id.as_str()])?;
    }
    write.woken.push(id.clone());
    Ok(())
}

pub(super) fn write(write: &mut Write<'_>, wish: &WorkshopWrite) -> Outcome<Vec<SessionRecord>> {
    leases::hold(write.db, wish.fence.as_ref())?;
    let before = get(write.db, &wish.id)?;
    if let Some(status) = wish.status
        && before.wanted == wish.wanted
        && (before.status, &before.reason) != (status, &wish.reason)
    {
        set_status(write, wish, status)?;
    }
    for seat in &wish.seats {
        seats::observe(write, &wish.id, seat, wish.now)?;
    }
    if before.wanted == Wanted::Running {
        seats::seat_those_in_line(write, &wish.id, wish.now)
    } else {
        Ok(Vec::new())
    }
}

fn set_status(write: &mut Write<'_>, wish: &WorkshopWrite, status: WorkshopStatus) -> Outcome<()> {
    let (code, text) = wish.reason.as_ref().map(|(code, text)| (code, text)).unzip();
    write
        .db
        .prepare_cached("UPDATE workshops SET status = ?2, reason_code = ?3, reason_text = ?4 WHERE id = ?1")?
        .execute((wish.id.as_str(), status.as_str(), code, text))?;
    let data = match &wish.reason {
        Some((code, message)) => json!({ "reason_code": code, "reason": message }),
        None => json!({}),
    };
    events::add(write, &wish.id, wish.now, &format!("workshop.{status}"), &data)?;
    Ok(())
}
