//! Who of several servers decides, and how many there are.

use jiff::{SignedDuration, Timestamp};
use rusqlite::{Connection, OptionalExtension};

use super::failure::{Failure, Outcome};
use super::writer::Write;
use crate::{Fence, Lease, StoreError};

/// Replicas are forgotten when they have been dead for this many times their time to live.
const LONG_DEAD: i32 = 100;

/// That the lease of a fence has not changed hands.
pub(super) fn hold(db: &Connection, fence: Option<&Fence>) -> Outcome<()> {
    let Some(fence) = fence else { return Ok(()) };
    let holds: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM leases WHERE name = ?1 AND token = ?2 AND holder IS NOT NULL)",
        )?
        .query_row((&fence.lease, fence.token.cast_signed()), |row| row.get(0))?;
    if holds { Ok(()) } else { Err(Failure::Refused(StoreError::Fenced { lease: fence.lease.clone() })) }
}

fn later(now: Timestamp, by: SignedDuration) -> i64 {
    let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    now.as_millisecond().saturating_add(by)
}

pub(super) fn acquire(
    write: &mut Write<'_>,
    name: &str,
    holder: &str,
    ttl: SignedDuration,
    now: Timestamp,
) -> Outcome<Option<Lease>> {
    let mut statement = write.db.prepare_cached(
        "INSERT INTO leases (name, holder, token, expires_at) VALUES (?1, ?2, 1, ?3)
         ON CONFLICT (name) DO UPDATE SET
             token = token + (leases.holder IS NULL OR leases.expires_at <= ?4),
             holder = excluded.holder, expires_at = excluded.expires_at
         WHERE leases.holder IS NULL OR leases.expires_at <= ?4 OR leases.holder = excluded.holder
         RETURNING token, expires_at",
    )?;
    let lease = statement.query_row((name, holder, later(now, ttl), now.as_millisecond()), |row| {
        let expires_at: i64 = row.get("expires_at")?;
        Ok(Lease {
            name: name.to_owned(),
            holder: holder.to_owned(),
            token: row.get::<_, i64>("token")?.unsigned_abs(),
            expires_at: Timestamp::from_millisecond(expires_at).unwrap_or(Timestamp::MAX),
        })
    });
    Ok(lease.optional()?)
}

pub(super) fn release(write: &mut Write<'_>, fence: &Fence, holder: &str) -> Outcome<()> {
    write
        .db
        .prepare_cached(
            "UPDATE leases SET holder = NULL, expires_at = 0 WHERE name = ?1 AND token = ?2 AND holder = ?3",
        )?
        .execute((&fence.lease, fence.token.cast_signed(), holder))?;
    Ok(())
}

pub(super) fn note_replica(
    write: &mut Write<'_>,
    holder: &str,
    ttl: SignedDuration,
    now: Timestamp,
) -> Outcome<u32> {
    write
        .db
        .prepare_cached(
            "INSERT INTO replicas (holder, expires_at) VALUES (?1, ?2)
             ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at",
        )?
        .execute((holder, later(now, ttl)))?;
    write
        .db
        .prepare_cached("DELETE FROM replicas WHERE expires_at < ?1")?
        .execute([later(now, -ttl.saturating_mul(LONG_DEAD))])?;
    let alive = write
        .db
        .prepare_cached("SELECT count(*) FROM replicas WHERE expires_at > ?1 OR holder = ?2")?
        .query_row((now.as_millisecond(), holder), |row| row.get(0))?;
    Ok(alive)
}
