//! Workers, forgotten ones among them.

use rusqlite::{Connection, OptionalExtension};

use super::accounts::is_taken;
use super::failure::{Failure, Outcome, conflict, not_found};
use super::rows;
use super::writer::Write;
use crate::{WorkerRecord, WorkerWish};

pub(super) fn find(db: &Connection, id: &str) -> Outcome<Option<WorkerRecord>> {
    let mut statement = db.prepare_cached("SELECT * FROM workers WHERE id = ?1")?;
    Ok(statement.query_row([id], rows::worker).optional()?)
}

fn get(db: &Connection, id: &str) -> Outcome<WorkerRecord> {
    find(db, id)?.ok_or_else(|| not_found("worker"))
}

pub(super) fn list(db: &Connection) -> Outcome<Vec<WorkerRecord>> {
    let mut statement = db.prepare_cached("SELECT * FROM workers ORDER BY id")?;
    let workers = statement.query_map([], rows::worker)?;
    Ok(workers.collect::<Result<_, _>>()?)
}

fn address_taken(error: rusqlite::Error) -> Failure {
    if is_taken(&error) { conflict("another worker has this address") } else { Failure::Sql(error) }
}

pub(super) fn put(write: &mut Write<'_>, worker: &WorkerRecord) -> Outcome<WorkerRecord> {
    let labels = serde_json::to_string(&worker.labels)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    write
        .db
        .prepare_cached(
            "INSERT INTO workers (id, address, token_sealed, public_url, labels, capacity, tls, source, wish, kind,
                 created_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
             ON CONFLICT (id) DO UPDATE SET
                 address = excluded.address, token_sealed = excluded.token_sealed,
                 public_url = excluded.public_url, labels = excluded.labels, capacity = excluded.capacity,
                 tls = excluded.tls, source = excluded.source,
                 wish = CASE workers.wish WHEN 'forgotten' THEN excluded.wish ELSE workers.wish END,
                 kind = coalesce(excluded.kind, workers.kind)",
        )?
        .execute(rusqlite::params![
            worker.id,
            worker.address,
            worker.token_sealed,
            worker.public_url,
            labels,
            worker.capacity,
            worker.tls,
            worker.source.as_str(),
            worker.wish.as_str(),
            worker.kind,
            worker.created_at.as_millisecond(),
        ])
        .map_err(address_taken)?;
    get(write.db, &worker.id)
}

pub(super) fn set_wish(write: &mut Write<'_>, id: &str, wish: WorkerWish) -> Outcome<WorkerRecord> {
    write
        .db
        .prepare_cached("UPDATE workers SET wish = ?2 WHERE id = ?1")?
        .execute((id, wish.as_str()))
        .map_err(address_taken)?;
    let worker = get(write.db, id)?;
    if wish == WorkerWish::Forgotten {
        write.db.prepare_cached("DELETE FROM placements WHERE worker = ?1")?.execute([id])?;
    }
    Ok(worker)
}

pub(super) fn note_kind(write: &mut Write<'_>, id: &str, kind: &str) -> Outcome<()> {
    write
        .db
        .prepare_cached("UPDATE workers SET kind = ?2 WHERE id = ?1 AND kind IS NOT ?2")?
        .execute((id, kind))?;
    Ok(())
}

pub(super) fn remove(write: &mut Write<'_>, id: &str) -> Outcome<()> {
    let holds: bool = write
        .db
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM placements WHERE worker = ?1)")?
        .query_row([id], |row| row.get(0))?;
    if holds {
        return Err(conflict("the worker may still hold seats"));
    }
    write.db.prepare_cached("DELETE FROM workers WHERE id = ?1")?.execute([id])?;
    Ok(())
}
