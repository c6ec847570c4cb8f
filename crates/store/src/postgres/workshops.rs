//! Workshops.

use std::collections::HashMap;

use clarateach_ids::{JoinCode, UserId, WorkshopId};
use clarateach_lifecycle::{EndReason, SeatState, SeatStatus, Wanted, WorkshopStatus, seat_status};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::database::{Parameters, Session, Write};
use super::failure::{Outcome, conflict, not_found};
use super::rows::{self, workshop_columns};
use super::{events, leases, placements, seats, sessions};
use crate::{Fence, NewWorkshop, SessionRecord, WorkshopCounts, WorkshopRecord, WorkshopWrite};

macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", workshop_columns!(), " FROM workshops ", $rest)
    };
}

pub(super) async fn get(db: &Session, id: &WorkshopId) -> Outcome<WorkshopRecord> {
    let workshop = db.query_opt(select!("WHERE id = $1"), &[&id.as_str()]).await?;
    rows::workshop(&workshop.ok_or_else(|| not_found("workshop"))?)
}

/// Its row, which nobody else changes until the transaction has ended; nor anything else of the workshop, since
/// everybody comes here first.
pub(super) async fn lock(write: &Write, id: &WorkshopId) -> Outcome<WorkshopRecord> {
    let workshop = write.query_opt(select!("WHERE id = $1 FOR NO KEY UPDATE"), &[&id.as_str()]).await?;
    rows::workshop(&workshop.ok_or_else(|| not_found("workshop"))?)
}

/// What [`lock_by_code`] sends.
pub(super) const LOCK_BY_CODE: &str = select!("WHERE join_code = $1 FOR NO KEY UPDATE");

/// [`lock`] by its join code; `None` when there is none.
pub(super) async fn lock_by_code(write: &Write, code: &str) -> Outcome<Option<WorkshopRecord>> {
    let workshop = write.query_opt(LOCK_BY_CODE, &[&code]).await?;
    workshop.as_ref().map(rows::workshop).transpose()
}

pub(super) async fn by_code(db: &Session, code: &JoinCode) -> Outcome<WorkshopRecord> {
    let workshop = db.query_opt(select!("WHERE join_code = $1"), &[&code.to_string()]).await?;
    rows::workshop(&workshop.ok_or_else(|| not_found("workshop"))?)
}

pub(super) async fn create(write: &Write, new: &NewWorkshop) -> Outcome<WorkshopRecord> {
    let added = write
        .execute(
            "INSERT INTO workshops (id, owner_id, name, join_code, seats, runtime, image, env_names, env_sealed,
                 memory_mb, vcpus, disk_mb, wanted, status, ends_at, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
             ON CONFLICT DO NOTHING",
            &[
                &new.id.as_str(),
                &new.owner.as_str(),
                &rows::text(&new.name),
                &new.join_code.to_string(),
                &i64::from(new.seats),
                &new.runtime,
                &new.image,
                &Value::from(new.env_names.clone()).to_string(),
                &new.env_sealed,
                &i64::from(new.memory_mb),
                &i64::from(new.vcpus),
                &i64::from(new.disk_mb),
                &new.wanted.as_str(),
                &WorkshopStatus::Created.as_str(),
                &new.ends_at.map(Timestamp::as_millisecond),
                &new.now.as_millisecond(),
            ],
        )
        .await?;
    if added == 0 {
        return Err(conflict("the join code is taken"));
    }
    write
        .execute("INSERT INTO event_counters (workshop_id, seq) VALUES ($1, 0)", &[&new.id.as_str()])
        .await?;
    seats::create(write, &new.id, new.seats).await?;
    let data = json!({ "name": new.name, "seats": new.seats, "runtime": new.runtime });
    events::add(write, &new.id, new.now, "workshop.created", &data);
    get(write, &new.id).await
}

type Counts = HashMap<WorkshopId, WorkshopCounts>;

/// Adds up groups of equal seats and sessions.
async fn count(
    db: &Session,
    seats: &'static str,
    sessions: &'static str,
    who: Parameters<'_>,
) -> Outcome<Counts> {
    let mut counts = Counts::new();
    for row in db.query(seats, who).await? {
        let state: SeatState = rows::word(&row, "state")?;
        let counts = counts.entry(rows::word(&row, "workshop_id")?).or_default();
        let slot = match seat_status(state, rows::value(&row, "held")?) {
            SeatStatus::Pending => &mut counts.pending,
            SeatStatus::Starting => &mut counts.starting,
            SeatStatus::Ready => &mut counts.ready,
            SeatStatus::Occupied => &mut counts.occupied,
            SeatStatus::Unreachable => &mut counts.unreachable,
            SeatStatus::Failed => &mut counts.failed,
        };
        *slot += rows::number(&row, "n")?;
    }
    for row in db.query(sessions, who).await? {
        let counts = counts.entry(rows::word(&row, "workshop_id")?).or_default();
        match rows::value::<&str>(&row, "state")? {
            "waiting" => counts.waiting += rows::number(&row, "n")?,
            _ => counts.active += rows::number(&row, "n")?,
        }
    }
    Ok(counts)
}

pub(super) async fn counts(db: &Session, id: &WorkshopId) -> Outcome<WorkshopCounts> {
    get(db, id).await?;
    let mut counts = count(
        db,
        "SELECT workshop_id, state, session_id IS NOT NULL AS held, count(*) AS n FROM seats
         WHERE workshop_id = $1 GROUP BY 1, 2, 3",
        "SELECT workshop_id, state, count(*) AS n FROM sessions
         WHERE workshop_id = $1 AND state IN ('waiting', 'active') GROUP BY 1, 2",
        &[&id.as_str()],
    )
    .await?;
    Ok(counts.remove(id).unwrap_or_default())
}

pub(super) async fn list(
    db: &Session,
    owner: Option<&UserId>,
) -> Outcome<Vec<(WorkshopRecord, WorkshopCounts)>> {
    let owner = owner.map(UserId::as_str);
    let mut counts = count(
        db,
        "SELECT workshop_id, state, session_id IS NOT NULL AS held, count(*) AS n FROM seats
         WHERE $1::text IS NULL OR workshop_id IN (SELECT id FROM workshops WHERE owner_id = $1) GROUP BY 1, 2, 3",
        "SELECT workshop_id, state, count(*) AS n FROM sessions
         WHERE state IN ('waiting', 'active')
             AND ($1::text IS NULL OR workshop_id IN (SELECT id FROM workshops WHERE owner_id = $1)) GROUP BY 1, 2",
        &[&owner],
    )
    .await?;
    let workshops = db
        .query(
            select!("WHERE $1::text IS NULL OR owner_id = $1 ORDER BY created_at DESC, ordinal DESC"),
            &[&owner],
        )
        .await?;
    let with_counts = workshops.iter().map(|row| {
        let workshop = rows::workshop(row)?;
        let counts = counts.remove(&workshop.id).unwrap_or_default();
        Ok((workshop, counts))
    });
    with_counts.collect()
}

pub(super) async fn set_wanted(
    write: &Write,
    id: &WorkshopId,
    wanted: Wanted,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = lock(write, id).await?;
    match (before.wanted, wanted) {
        (same, wish) if same == wish => return Ok(before),
        (Wanted::Deleted, _) => return Err(conflict("the workshop is being deleted")),
        (_, Wanted::Created) => return Err(conflict("a workshop can't become one that was never started")),
        _ => {}
    }
    write
        .execute("UPDATE workshops SET wanted = $2 WHERE id = $1", &[&id.as_str(), &wanted.as_str()])
        .await?;
    match wanted {
        Wanted::Running => seats::renew_all(write, id, now).await?,
        Wanted::Deleted => sessions::end_all(write, id, EndReason::WorkshopDeleted, now).await?,
        Wanted::Created | Wanted::Stopped => {}
    }
    Ok(WorkshopRecord { wanted, ..before })
}

pub(super) async fn set_ends_at(
    write: &Write,
    id: &WorkshopId,
    ends_at: Option<Timestamp>,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = lock(write, id).await?;
    write
        .execute(
            "UPDATE workshops SET ends_at = $2 WHERE id = $1",
            &[&id.as_str(), &ends_at.map(Timestamp::as_millisecond)],
        )
        .await?;
    let after = get(write, id).await?;
    if before.ends_at != after.ends_at {
        events::add(write, id, now, "workshop.extended", &json!({ "ends_at": after.ends_at }));
    }
    Ok(after)
}

pub(super) async fn set_locked(
    write: &Write,
    id: &WorkshopId,
    locked: bool,
    now: Timestamp,
) -> Outcome<WorkshopRecord> {
    let before = lock(write, id).await?;
    if before.locked == locked {
        return Ok(before);
    }
    write.execute("UPDATE workshops SET locked = $2 WHERE id = $1", &[&id.as_str(), &locked]).await?;
    let kind = if locked { "workshop.locked" } else { "workshop.unlocked" };
    events::add(write, id, now, kind, &json!({}));
    Ok(WorkshopRecord { locked, ..before })
}

/// Those who watch its events are woken, to see that it is gone.
pub(super) async fn purge(write: &Write, id: &WorkshopId, fence: Option<&Fence>) -> Outcome<()> {
    leases::hold(write, fence).await?;
    if lock(write, id).await?.wanted != Wanted::Deleted {
        return Err(conflict("the workshop is not wanted deleted"));
    }
    if placements::any(write, id).await? {
        return Err(conflict("workers may still hold something of the workshop"));
    }
    for sql in [
        "DELETE FROM seats WHERE workshop_id = $1",
        "DELETE FROM sessions WHERE workshop_id = $1",
        "DELETE FROM events WHERE workshop_id = $1",
        "DELETE FROM event_counters WHERE workshop_id = $1",
        "DELETE FROM workshops WHERE id = $1",
    ] {
        write.execute(sql, &[&id.as_str()]).await?;
    }
    write.pending().woken.push(id.clone());
    Ok(())
}

pub(super) async fn write_down(write: &Write, wish: &WorkshopWrite) -> Outcome<Vec<SessionRecord>> {
    leases::hold(write, wish.fence.as_ref()).await?;
    let before = lock(write, &wish.id).await?;
    if let Some(status) = wish.status
        && before.wanted == wish.wanted
        && let reason = rows::reason_text(wish.reason.as_ref())
        && (before.status, &before.reason) != (status, &reason)
    {
        set_status(write, wish, status, reason).await?;
    }
    seats::observe(write, &wish.id, &wish.seats, before.wanted == Wanted::Running, wish.now).await
}

async fn set_status(
    write: &Write,
    wish: &WorkshopWrite,
    status: WorkshopStatus,
    reason: Option<(String, String)>,
) -> Outcome<()> {
    let data = match &reason {
        Some((code, message)) => json!({ "reason_code": code, "reason": message }),
        None => json!({}),
    };
    let (code, text) = reason.unzip();
    write
        .execute(
            "UPDATE workshops SET status = $2, reason_code = $3, reason_text = $4 WHERE id = $1",
            &[&wish.id.as_str(), &status.as_str(), &code, &text],
        )
        .await?;
    events::add(write, &wish.id, wish.now, format!("workshop.{status}"), &data);
    Ok(())
}
