//! Who of several servers decides, and how many there are: by the database's clock, whatever the servers' say.

use jiff::{SignedDuration, Timestamp};

use super::database::Write;
use super::failure::{Failure, Outcome};
use super::rows;
use crate::{Fence, Lease, StoreError};

/// Replicas are forgotten when they have been dead for this many times their time to live.
const LONG_DEAD: i32 = 100;

macro_rules! now {
    () => {
        "(extract(epoch FROM clock_timestamp()) * 1000)::int8"
    };
}

/// That the lease of a fence has not changed hands, and does not until this transaction has ended.
pub(super) async fn hold(write: &Write, fence: Option<&Fence>) -> Outcome<()> {
    let Some(fence) = fence else { return Ok(()) };
    let holds = write
        .query_opt(
            "SELECT 1 FROM leases WHERE name = $1 AND token = $2 AND holder IS NOT NULL FOR SHARE",
            &[&fence.lease, &fence.token.cast_signed()],
        )
        .await?;
    match holds {
        Some(_) => Ok(()),
        None => Err(Failure::Refused(StoreError::Fenced { lease: fence.lease.clone() })),
    }
}

fn milliseconds(duration: SignedDuration) -> i64 {
    // A thousand years are enough, and can be added to any time.
    const MOST: i64 = 1000 * 366 * 86_400_000;
    i64::try_from(duration.as_millis()).unwrap_or(MOST).clamp(-MOST, MOST)
}

pub(super) async fn acquire(
    write: &Write,
    name: &str,
    holder: &str,
    ttl: SignedDuration,
) -> Outcome<Option<Lease>> {
    let row = write
        .query_opt(
            concat!(
                "INSERT INTO leases AS lease (name, holder, token, expires_at) VALUES ($1, $2, 1, ",
                now!(),
                " + $3)
                 ON CONFLICT (name) DO UPDATE SET
                     token = lease.token
                         + CASE WHEN lease.holder IS NULL OR lease.expires_at <= ",
                now!(),
                " THEN 1 ELSE 0 END,
                     holder = excluded.holder, expires_at = ",
                now!(),
                " + $3
                 WHERE lease.holder IS NULL OR lease.holder = excluded.holder OR lease.expires_at <= ",
                now!(),
                " RETURNING token, expires_at"
            ),
            &[&name, &holder, &milliseconds(ttl)],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(Lease {
        name: name.to_owned(),
        holder: holder.to_owned(),
        token: rows::value::<i64>(&row, "token")?.unsigned_abs(),
        expires_at: Timestamp::from_millisecond(rows::value(&row, "expires_at")?).unwrap_or(Timestamp::MAX),
    }))
}

pub(super) async fn release(write: &Write, fence: &Fence, holder: &str) -> Outcome<()> {
    write
        .execute(
            "UPDATE leases SET holder = NULL, expires_at = 0 WHERE name = $1 AND token = $2 AND holder = $3",
            &[&fence.lease, &fence.token.cast_signed(), &holder],
        )
        .await?;
    Ok(())
}

pub(super) async fn note_replica(write: &Write, holder: &str, ttl: SignedDuration) -> Outcome<u32> {
    let ttl = milliseconds(ttl);
    write
        .execute(
            concat!(
                "INSERT INTO replicas (holder, expires_at) VALUES ($1, ",
                now!(),
                " + $2) ON CONFLICT (holder) DO UPDATE SET expires_at = excluded.expires_at"
            ),
            &[&holder, &ttl],
        )
        .await?;
    write
        .execute(
            concat!("DELETE FROM replicas WHERE expires_at < ", now!(), " - $1 AND holder <> $2"),
            &[&ttl.saturating_mul(i64::from(LONG_DEAD)), &holder],
        )
        .await?;
    let alive = write
        .query_one(
            concat!("SELECT count(*) AS alive FROM replicas WHERE holder = $1 OR expires_at > ", now!()),
            &[&holder],
        )
        .await?;
    rows::number(&alive, "alive")
}
