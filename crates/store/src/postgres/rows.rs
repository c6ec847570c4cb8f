//! From rows to records. Columns are always named: a statement that was prepared before a newer replica added a column
//! must go on giving what it gave.

use std::str::FromStr;

use clarateach_ids::{EventSeq, Generation, SeatKey, SeatNumber, WorkshopId};
use clarateach_lifecycle::SeatState;
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::failure::{Failure, Outcome};
use crate::{
    EventRecord, KeyRecord, Placement, SeatRecord, SessionRecord, UserRecord, WorkerRecord, WorkshopRecord,
};

macro_rules! workshop_columns {
    () => {
        "id, owner_id, name, join_code, seats, runtime, image, env_names, env_sealed, memory_mb, vcpus, disk_mb, \
         wanted, status, reason_code, reason_text, locked, ends_at, created_at"
    };
}

macro_rules! session_columns {
    () => {
        "id, workshop_id, seat, state, end_reason, name, created_at, last_seen_at"
    };
}

/// Sessions of the workshop with the join code `$1` that are told by one of the codes `$2` or the browsers `$3`.
macro_rules! known_sessions {
    () => {
        "workshop_id = (SELECT id FROM workshops WHERE join_code = $1) AND (code_hash = ANY($2::bytea[]) \
             OR (client_id = ANY($3::text[]) AND client_id IS NOT NULL AND state <> 'ended'))"
    };
}

macro_rules! worker_columns {
    () => {
        "id, address, token_sealed, public_url, labels, capacity, tls, source, wish, kind, created_at"
    };
}

pub(super) use {known_sessions, session_columns, worker_columns, workshop_columns};

fn unreadable(column: &str, reason: impl std::fmt::Display) -> Failure {
    Failure::Unreadable(format!("column {column}: {reason}").into())
}

pub(super) fn value<'a, T: FromSql<'a>>(row: &'a Row, column: &str) -> Outcome<T> {
    Ok(row.try_get(column)?)
}

/// A value stored as its own text.
pub(super) fn word<T>(row: &Row, column: &str) -> Outcome<T>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    value::<&str>(row, column)?.parse().map_err(|error| unreadable(column, error))
}

pub(super) fn number(row: &Row, column: &str) -> Outcome<u32> {
    value::<i64>(row, column)?.try_into().map_err(|error| unreadable(column, error))
}

fn time(row: &Row, column: &str) -> Outcome<Timestamp> {
    Timestamp::from_millisecond(value(row, column)?).map_err(|error| unreadable(column, error))
}

fn optional_time(row: &Row, column: &str) -> Outcome<Option<Timestamp>> {
    let at: Option<i64> = value(row, column)?;
    at.map(Timestamp::from_millisecond).transpose().map_err(|error| unreadable(column, error))
}

fn json<T: for<'a> serde::Deserialize<'a>>(row: &Row, column: &str) -> Outcome<T> {
    serde_json::from_str(value(row, column)?).map_err(|error| unreadable(column, error))
}

fn reason(row: &Row) -> Outcome<Option<(String, String)>> {
    let code: Option<String> = value(row, "reason_code")?;
    let text: Option<String> = value(row, "reason_text")?;
    Ok(code.zip(text))
}

fn seat_number(row: &Row, column: &str) -> Outcome<SeatNumber> {
    SeatNumber::new(number(row, column)?).map_err(|error| unreadable(column, error))
}

fn generation(row: &Row) -> Outcome<Generation> {
    Ok(Generation(value::<i64>(row, "generation")?.unsigned_abs()))
}

pub(super) fn workshop(row: &Row) -> Outcome<WorkshopRecord> {
    Ok(WorkshopRecord {
        id: word(row, "id")?,
        owner: word(row, "owner_id")?,
        name: value(row, "name")?,
        join_code: word(row, "join_code")?,
        seats: number(row, "seats")?,
        runtime: value(row, "runtime")?,
        image: value(row, "image")?,
        env_names: json(row, "env_names")?,
        env_sealed: value(row, "env_sealed")?,
        memory_mb: number(row, "memory_mb")?,
        vcpus: number(row, "vcpus")?,
        disk_mb: number(row, "disk_mb")?,
        wanted: word(row, "wanted")?,
        status: word(row, "status")?,
        reason: reason(row)?,
        locked: value(row, "locked")?,
        ends_at: optional_time(row, "ends_at")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn seat(row: &Row) -> Outcome<SeatRecord> {
    let workshop: WorkshopId = word(row, "workshop_id")?;
    let generation = generation(row)?;
    let state: SeatState = word(row, "state")?;
    let last_ready: Option<i64> = value(row, "ready_generation")?;
    Ok(SeatRecord {
        key: SeatKey { workshop, seat: seat_number(row, "n")? },
        generation,
        state,
        was_ready: last_ready == Some(generation.0.cast_signed()) || state.has_been_ready(),
        reason: reason(row)?,
        attempts: number(row, "attempts")?,
        retry_at: optional_time(row, "retry_at")?,
    })
}

pub(super) fn session(row: &Row) -> Outcome<SessionRecord> {
    let seat: Option<i64> = value(row, "seat")?;
    let end_reason: Option<&str> = value(row, "end_reason")?;
    Ok(SessionRecord {
        id: word(row, "id")?,
        workshop: word(row, "workshop_id")?,
        seat: seat.map(|_| seat_number(row, "seat")).transpose()?,
        state: word(row, "state")?,
        end_reason: end_reason.map(|_| word(row, "end_reason")).transpose()?,
        name: value(row, "name")?,
        created_at: time(row, "created_at")?,
        last_seen_at: time(row, "last_seen_at")?,
    })
}

pub(super) fn event(row: &Row) -> Outcome<EventRecord> {
    Ok(EventRecord {
        workshop: word(row, "workshop_id")?,
        seq: EventSeq(value::<i64>(row, "seq")?.unsigned_abs()),
        at: time(row, "at")?,
        kind: value(row, "kind")?,
        data: json(row, "data")?,
    })
}

pub(super) fn user(row: &Row) -> Outcome<UserRecord> {
    Ok(UserRecord { id: word(row, "id")?, name: value(row, "name")?, created_at: time(row, "created_at")? })
}

pub(super) fn key(row: &Row) -> Outcome<KeyRecord> {
    let public: &[u8] = value(row, "public")?;
    Ok(KeyRecord {
        id: word(row, "id")?,
        installation: word(row, "installation")?,
        sealed_private: value(row, "sealed_private")?,
        public: public.try_into().map_err(|error| unreadable("public", error))?,
        created_at: time(row, "created_at")?,
        signs_from: time(row, "signs_from")?,
        retired_at: optional_time(row, "retired_at")?,
    })
}

pub(super) fn worker(row: &Row) -> Outcome<WorkerRecord> {
    let capacity: Option<i64> = value(row, "capacity")?;
    Ok(WorkerRecord {
        id: value(row, "id")?,
        address: value(row, "address")?,
        token_sealed: value(row, "token_sealed")?,
        public_url: value(row, "public_url")?,
        labels: json(row, "labels")?,
        capacity: capacity.map(|_| number(row, "capacity")).transpose()?,
        tls: value(row, "tls")?,
        source: word(row, "source")?,
        wish: word(row, "wish")?,
        kind: value(row, "kind")?,
        created_at: time(row, "created_at")?,
    })
}

pub(super) fn placement(row: &Row) -> Outcome<Placement> {
    let workshop: WorkshopId = word(row, "workshop_id")?;
    Ok(Placement {
        key: SeatKey { workshop, seat: seat_number(row, "seat")? },
        generation: generation(row)?,
        worker: value(row, "worker")?,
    })
}

/// Text as PostgreSQL takes it: no zero bytes.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// A reason as PostgreSQL takes it.
pub(super) fn reason_text(reason: Option<&(String, String)>) -> Option<(String, String)> {
    reason.map(|(code, sentence)| (text(code), text(sentence)))
}
