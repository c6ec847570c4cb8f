//! Workers, forgotten ones among them.

use super::database::{Session, Write};
use super::failure::{Failure, Outcome, conflict, not_found};
use super::rows::{self, worker_columns};
use crate::{WorkerRecord, WorkerWish};

/// Those of these that there are, which stay as they are until the transaction has ended.
pub(super) async fn hold(write: &Write, ids: &[&str]) -> Outcome<Vec<WorkerRecord>> {
    let workers = write
        .query(
            concat!(
                "SELECT ",
                worker_columns!(),
                " FROM workers WHERE id = ANY($1::text[]) ORDER BY id FOR SHARE"
            ),
            &[&ids],
        )
        .await?;
    workers.iter().map(rows::worker).collect()
}

pub(super) async fn list(db: &Session) -> Outcome<Vec<WorkerRecord>> {
    let workers = db.query(concat!("SELECT ", worker_columns!(), " FROM workers ORDER BY id"), &[]).await?;
    workers.iter().map(rows::worker).collect()
}

fn address_taken(failure: Failure) -> Failure {
    if failure.is_taken() { conflict("another worker has this address") } else { failure }
}

pub(super) async fn put(write: &Write, worker: &WorkerRecord) -> Outcome<WorkerRecord> {
    let labels = serde_json::to_string(&worker.labels).map_err(|error| Failure::Unreadable(error.into()))?;
    let row = write
        .query_one(
            concat!(
                "INSERT INTO workers AS worker (id, address, token_sealed, public_url, labels, capacity, tls, source,
                     wish, kind, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                 ON CONFLICT (id) DO UPDATE SET
                     address = excluded.address, token_sealed = excluded.token_sealed,
                     public_url = excluded.public_url, labels = excluded.labels, capacity = excluded.capacity,
                     tls = excluded.tls, source = excluded.source,
                     wish = CASE worker.wish WHEN 'forgotten' THEN excluded.wish ELSE worker.wish END,
                     kind = coalesce(excluded.kind, worker.kind)
                 RETURNING ",
                worker_columns!()
            ),
            &[
                &worker.id,
                &worker.address,
                &worker.token_sealed,
                &worker.public_url,
                &labels,
                &worker.capacity.map(i64::from),
                &worker.tls,
                &worker.source.as_str(),
                &worker.wish.as_str(),
                &worker.kind,
                &worker.created_at.as_millisecond(),
            ],
        )
        .await
        .map_err(address_taken)?;
    rows::worker(&row)
}

pub(super) async fn set_wish(write: &Write, id: &str, wish: WorkerWish) -> Outcome<WorkerRecord> {
    let worker = write
        .query_opt(
            concat!("UPDATE workers SET wish = $2 WHERE id = $1 RETURNING ", worker_columns!()),
            &[&id, &wish.as_str()],
        )
        .await
        .map_err(address_taken)?
        .ok_or_else(|| not_found("worker"))?;
    if wish == WorkerWish::Forgotten {
        write.execute("DELETE FROM placements WHERE worker = $1", &[&id]).await?;
    }
    rows::worker(&worker)
}

pub(super) async fn note_kind(write: &Write, id: &str, kind: &str) -> Outcome<()> {
    write
        .execute("UPDATE workers SET kind = $2 WHERE id = $1 AND kind IS DISTINCT FROM $2", &[&id, &kind])
        .await?;
    Ok(())
}

pub(super) async fn remove(write: &Write, id: &str) -> Outcome<()> {
    let removed = write.execute("DELETE FROM workers WHERE id = $1", &[&id]).await;
    match removed {
        Err(failure) if failure.is_referenced() => Err(conflict("the worker may still hold seats")),
        other => other.map(|_| ()),
    }
}
