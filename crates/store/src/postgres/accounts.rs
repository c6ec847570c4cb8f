//! The installation, its users and its signing keys.

use clarateach_ids::{InstallationId, KeyId, UserId};
use jiff::Timestamp;

use super::database::{Session, Write};
use super::failure::{Outcome, conflict, not_found};
use super::rows;
use crate::{KeyRecord, TokenHash, UserRecord};

pub(super) async fn installation(db: &Session) -> Outcome<InstallationId> {
    rows::word(&db.query_one("SELECT id FROM installation", &[]).await?, "id")
}

/// Changes something that nobody reads: taking it back would never reach the disk.
pub(super) async fn check(write: &Write) -> Outcome<()> {
    write.execute("UPDATE installation SET checks = (checks + 1) % 1000000", &[]).await?;
    Ok(())
}

pub(super) async fn create_user(write: &Write, user: &UserRecord, token: &TokenHash) -> Outcome<()> {
    let added = write
        .execute(
            "INSERT INTO users (id, name, token_hash, created_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[
                &user.id.as_str(),
                &rows::text(&user.name),
                &token.0.as_slice(),
                &user.created_at.as_millisecond(),
            ],
        )
        .await?;
    if added == 1 { Ok(()) } else { Err(conflict("a user with this id or token exists")) }
}

pub(super) async fn user_by_token(db: &Session, token: &TokenHash) -> Outcome<UserRecord> {
    let user = db
        .query_opt("SELECT id, name, created_at FROM users WHERE token_hash = $1", &[&token.0.as_slice()])
        .await?;
    rows::user(&user.ok_or_else(|| not_found("user"))?)
}

pub(super) async fn users(db: &Session) -> Outcome<Vec<UserRecord>> {
    let users = db.query("SELECT id, name, created_at FROM users ORDER BY created_at, ordinal", &[]).await?;
    users.iter().map(rows::user).collect()
}

pub(super) async fn delete_user(write: &Write, id: &UserId) -> Outcome<()> {
    let workshops: i64 =
        write.query_one("SELECT count(*) FROM workshops WHERE owner_id = $1", &[&id.as_str()]).await?.get(0);
    let deleted = write.execute("DELETE FROM users WHERE id = $1", &[&id.as_str()]).await?;
    match (deleted, workshops) {
        (0, _) => Err(not_found("user")),
        (_, 0) => Ok(()),
        (_, 1) => Err(conflict("the user still owns a workshop")),
        (_, n) => Err(conflict(format!("the user still owns {n} workshops"))),
    }
}

pub(super) async fn keys(db: &Session) -> Outcome<Vec<KeyRecord>> {
    let keys = db
        .query(
            "SELECT id, installation, sealed_private, public, created_at, signs_from, retired_at
             FROM keys ORDER BY created_at, ordinal",
            &[],
        )
        .await?;
    keys.iter().map(rows::key).collect()
}

pub(super) async fn add_key(write: &Write, key: &KeyRecord) -> Outcome<()> {
    let added = write
        .execute(
            "INSERT INTO keys (id, installation, sealed_private, public, created_at, signs_from, retired_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
            &[
                &key.id.as_str(),
                &key.installation.as_str(),
                &key.sealed_private,
                &key.public.as_slice(),
                &key.created_at.as_millisecond(),
                &key.signs_from.as_millisecond(),
                &key.retired_at.map(Timestamp::as_millisecond),
            ],
        )
        .await?;
    if added == 1 { Ok(()) } else { Err(conflict("a key with this id exists")) }
}

pub(super) async fn drop_keys_retired_before(write: &Write, before: Timestamp) -> Outcome<()> {
    write.execute("DELETE FROM keys WHERE retired_at < $1", &[&before.as_millisecond()]).await?;
    Ok(())
}

pub(super) async fn retire_keys_except(write: &Write, keep: &KeyId, at: Timestamp) -> Outcome<()> {
    write
        .execute(
            "UPDATE keys SET retired_at = $2 WHERE id <> $1 AND retired_at IS NULL",
            &[&keep.as_str(), &at.as_millisecond()],
        )
        .await?;
    Ok(())
}
