//! From rows to records.

use std::str::FromStr;

use clarateach_ids::{Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_lifecycle::SeatState;
use jiff::Timestamp;
use rusqlite::types::Type;
use rusqlite::{Error, Result, Row};

use crate::{
    EventRecord, KeyRecord, Placement, SeatRecord, SessionRecord, UserRecord, WorkerRecord, WorkshopRecord,
};

fn unreadable<E: std::error::Error + Send + Sync + 'static>(column: &str, row: &Row<'_>, error: E) -> Error {
    let index = row.as_ref().column_index(column).unwrap_or(usize::MAX);
    Error::FromSqlConversionFailure(index, Type::Text, Box::new(error))
}

/// A value stored as its own text.
pub(super) fn word<T>(row: &Row<'_>, column: &str) -> Result<T>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(column)?.as_str()?.parse().map_err(|error| unreadable(column, row, error))
}

fn optional_word<T>(row: &Row<'_>, column: &str) -> Result<Option<T>>
where
    T: FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match row.get_ref(column)?.as_str_or_null()? {
        Some(text) => text.parse().map(Some).map_err(|error| unreadable(column, row, error)),
        None => Ok(None),
    }
}

fn time(row: &Row<'_>, column: &str) -> Result<Timestamp> {
    let at = Timestamp::from_millisecond(row.get(column)?);
    at.map_err(|error| unreadable(column, row, error))
}

fn optional_time(row: &Row<'_>, column: &str) -> Result<Option<Timestamp>> {
    match row.get::<_, Option<i64>>(column)? {
        Some(at) => Timestamp::from_millisecond(at).map(Some).map_err(|error| unreadable(column, row, error)),
        None => Ok(None),
    }
}

fn json<T: for<'a> serde::Deserialize<'a>>(row: &Row<'_>, column: &str) -> Result<T> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| unreadable(column, row, error))
}

fn reason(row: &Row<'_>) -> Result<Option<(String, String)>> {
    let code: Option<String> = row.get("reason_code")?;
    let text: Option<String> = row.get("reason_text")?;
    Ok(code.zip(text))
}

fn seat_number(row: &Row<'_>, column: &str, n: u32) -> Result<SeatNumber> {
    SeatNumber::new(n).map_err(|error| unreadable(column, row, error))
}

pub(super) fn workshop(row: &Row<'_>) -> Result<WorkshopRecord> {
    Ok(WorkshopRecord {
        id: word(row, "id")?,
        owner: word(row, "owner_id")?,
        name: row.get("name")?,
        join_code: word(row, "join_code")?,
        seats: row.get("seats")?,
        runtime: row.get("runtime")?,
        image: row.get("image")?,
        env_names: json(row, "env_names")?,
        env_sealed: row.get("env_sealed")?,
        memory_mb: row.get("memory_mb")?,
        vcpus: row.get("vcpus")?,
        disk_mb: row.get("disk_mb")?,
        wanted: word(row, "wanted")?,
        status: word(row, "status")?,
        reason: reason(row)?,
        locked: row.get("locked")?,
        ends_at: optional_time(row, "ends_at")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn seat(row: &Row<'_>) -> Result<SeatRecord> {
    let workshop: WorkshopId = word(row, "workshop_id")?;
    let generation: i64 = row.get("generation")?;
    let state: SeatState = word(row, "state")?;
    let last_ready: Option<i64> = row.get("ready_generation")?;
    Ok(SeatRecord {
        key: SeatKey { workshop, seat: seat_number(row, "n", row.get("n")?)? },
        generation: Generation(generation.unsigned_abs()),
        state,
        was_ready: last_ready == Some(generation) || state.has_been_ready(),
        reason: reason(row)?,
        attempts: row.get("attempts")?,
        retry_at: optional_time(row, "retry_at")?,
    })
}

pub(super) fn session(row: &Row<'_>) -> Result<SessionRecord> {
    let seat: Option<u32> = row.get("seat")?;
    Ok(SessionRecord {
        id: word(row, "id")?,
        workshop: word(row, "workshop_id")?,
        seat: seat.map(|n| seat_number(row, "seat", n)).transpose()?,
        state: word(row, "state")?,
        end_reason: optional_word(row, "end_reason")?,
        name: row.get("name")?,
        created_at: time(row, "created_at")?,
        last_seen_at: time(row, "last_seen_at")?,
    })
}

pub(super) fn event(row: &Row<'_>) -> Result<EventRecord> {
    Ok(EventRecord {
        workshop: word(row, "workshop_id")?,
        seq: clarateach_ids::EventSeq(row.get::<_, i64>("seq")?.unsigned_abs()),
        at: time(row, "at")?,
        kind: row.get("kind")?,
        data: json(row, "data")?,
    })
}

pub(super) fn user(row: &Row<'_>) -> Result<UserRecord> {
    Ok(UserRecord { id: word(row, "id")?, name: row.get("name")?, created_at: time(row, "created_at")? })
}

pub(super) fn key(row: &Row<'_>) -> Result<KeyRecord> {
    Ok(KeyRecord {
        id: word(row, "id")?,
        installation: word(row, "installation")?,
        sealed_private: row.get("sealed_private")?,
        public: row.get("public")?,
        created_at: time(row, "created_at")?,
        signs_from: time(row, "signs_from")?,
        retired_at: optional_time(row, "retired_at")?,
    })
}

pub(super) fn worker(row: &Row<'_>) -> Result<WorkerRecord> {
    Ok(WorkerRecord {
        id: row.get("id")?,
        address: row.get("address")?,
        token_sealed: row.get("token_sealed")?,
        public_url: row.get("public_url")?,
        labels: json(row, "labels")?,
        capacity: row.get("capacity")?,
        tls: row.get("tls")?,
        source: word(row, "source")?,
        wish: word(row, "wish")?,
        kind: row.get("kind")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn placement(row: &Row<'_>) -> Result<Placement> {
    let workshop: WorkshopId = word(row, "workshop_id")?;
    Ok(Placement {
        key: SeatKey { workshop, seat: seat_number(row, "seat", row.get("seat")?)? },
        generation: Generation(row.get::<_, i64>("generation")?.unsigned_abs()),
        worker: row.get("worker")?,
    })
}
