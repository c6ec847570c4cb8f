//! The installation, its users and its signing keys.

use clarateach_ids::{InstallationId, KeyId, UserId};
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension};

use super::failure::{Failure, Outcome, conflict, not_found};
use super::rows;
use super::writer::Write;
use crate::{KeyRecord, TokenHash, UserRecord};

/// The installation's id, made when there is none yet.
pub(super) fn ensure_installation(db: &Connection) -> rusqlite::Result<InstallationId> {
    db.execute(
        "INSERT INTO installation (one, id) VALUES (1, ?1) ON CONFLICT DO NOTHING",
        [InstallationId::random().as_str()],
    )?;
    installation(db)
}

pub(super) fn installation(db: &Connection) -> rusqlite::Result<InstallationId> {
    db.prepare_cached("SELECT id FROM installation")?.query_row([], |row| rows::word(row, "id"))
}

/// Changes something that nobody reads. Taking it back instead of committing it would never reach the disk, and so
/// find neither a full nor a read-only one.
pub(super) fn check(write: &mut Write<'_>) -> Outcome<()> {
    write.db.prepare_cached("UPDATE installation SET checks = (checks + 1) % 1000000")?.execute([])?;
    Ok(())
}

/// Whether a constraint was broken, and not something else.
pub(super) fn is_taken(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error().map(|error| error.extended_code),
        Some(rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY)
    )
}

fn taken(error: rusqlite::Error, sentence: &str) -> Failure {
    if is_taken(&error) { conflict(sentence) } else { Failure::Sql(error) }
}

pub(super) fn create_user(write: &mut Write<'_>, user: &UserRecord, token: &TokenHash) -> Outcome<()> {
    write
        .db
        .prepare_cached("INSERT INTO users (id, name, token_hash, created_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute((user.id.as_str(), &user.name, token.0, user.created_at.as_millisecond()))
        .map_err(|error| taken(error, "a user with this id or token exists"))?;
    Ok(())
}

pub(super) fn user_by_token(db: &Connection, token: &TokenHash) -> Outcome<UserRecord> {
    db.prepare_cached("SELECT id, name, created_at FROM users WHERE token_hash = ?1")?
        .query_row([token.0], rows::user)
        .optional()?
        .ok_or_else(|| not_found("user"))
}

pub(super) fn users(db: &Connection) -> Outcome<Vec<UserRecord>> {
    let mut statement =
        db.prepare_cached("SELECT id, name, created_at FROM users ORDER BY created_at, rowid")?;
    let users = statement.query_map([], rows::user)?;
    Ok(users.collect::<Result<_, _>>()?)
}

pub(super) fn delete_user(write: &mut Write<'_>, id: &UserId) -> Outcome<()> {
    let workshops: u32 = write
        .db
        .prepare_cached("SELECT count(*) FROM workshops WHERE owner_id = ?1")?
        .query_row([id.as_str()], |row| row.get(0))?;
    let deleted = write.db.prepare_cached("DELETE FROM users WHERE id = ?1")?.execute([id.as_str()])?;
    match (deleted, workshops) {
        (0, _) => Err(not_found("user")),
        (_, 0) => Ok(()),
        (_, 1) => Err(conflict("the user still owns a workshop")),
        (_, n) => Err(conflict(format!("the user still owns {n} workshops"))),
    }
}

pub(super) fn keys(db: &Connection) -> Outcome<Vec<KeyRecord>> {
    let mut statement = db.prepare_cached(
        "SELECT id, installation, sealed_private, public, created_at, signs_from, retired_at
         FROM keys ORDER BY created_at, rowid",
    )?;
    let keys = statement.query_map([], rows::key)?;
    Ok(keys.collect::<Result<_, _>>()?)
}

pub(super) fn add_key(write: &mut Write<'_>, key: &KeyRecord) -> Outcome<()> {
    write
        .db
        .prepare_cached(
            "INSERT INTO keys (id, installation, sealed_private, public, created_at, signs_from, retired_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute((
            key.id.as_str(),
            key.installation.as_str(),
            &key.sealed_private,
            key.public,
            key.created_at.as_millisecond(),
            key.signs_from.as_millisecond(),
            key.retired_at.map(Timestamp::as_millisecond),
        ))
        .map_err(|error| taken(error, "a key with this id exists"))?;
    Ok(())
}

pub(super) fn drop_keys_retired_before(write: &mut Write<'_>, before: Timestamp) -> Outcome<()> {
    write.db.prepare_cached("DELETE FROM keys WHERE retired_at < ?1")?.execute([before.as_millisecond()])?;
    Ok(())
}

pub(super) fn retire_keys_except(write: &mut Write<'_>, keep: &KeyId, at: Timestamp) -> Outcome<()> {
    write
        .db
        .prepare_cached("UPDATE keys SET retired_at = ?2 WHERE id <> ?1 AND retired_at IS NULL")?
        .execute((keep.as_str(), at.as_millisecond()))?;
    Ok(())
}
