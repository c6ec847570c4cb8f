//! Numbered SQL files, each applied once, all in one transaction, by one replica at a time.

use clarateach_ids::InstallationId;
use tokio_postgres::{Client, Transaction};

use crate::migration::{self, Migration};

/// Of the advisory lock that is held while migrating: "ClTe".
const LOCK: i64 = 0x436c_5465;

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "first", sql: include_str!("../../migrations/postgres/0001_first.sql") },
    Migration {
        version: 2,
        name: "ready_generation",
        sql: include_str!("../../migrations/postgres/0002_ready_generation.sql"),
    },
];

/// Why a database is not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A later program has been here.
    #[error(
        "it was written by a newer version of this program (its schema is {found}, this program knows {known}); \
         use that version, or a backup from before"
    )]
    Newer {
        /// In the database.
        found: i64,
        /// The latest of this program.
        known: i64,
    },
    /// The database holds tables that this program did not make.
    #[error("it holds tables of another program ({table}); give this program a database of its own")]
    Foreign {
        /// One of them.
        table: String,
    },
    /// A migration that was applied is not the one that this program has.
    #[error("its migration {version} ({name}) is not the one that this program has")]
    Changed {
        /// Its number.
        version: i64,
        /// Its name.
        name: &'static str,
    },
    /// PostgreSQL failed.
    #[error("migrating it failed")]
    Sql(#[from] tokio_postgres::Error),
}

fn latest() -> i64 {
    migration::latest(MIGRATIONS)
}

/// Applies what is missing, and gives the installation its id. Nothing is changed when it fails.
pub(super) async fn migrate(client: &mut Client) -> Result<(), MigrateError> {
    let transaction = client.transaction().await?;
    // Another replica may be at it: it is waited for, and finds what it did.
    transaction
        .batch_execute("SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '10min'")
        .await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    let found = version(&transaction).await?;
    if found == 0 {
        transaction
            .batch_execute(
                "CREATE TABLE clarateach_migrations (
                     version    BIGINT NOT NULL PRIMARY KEY,
                     name       TEXT   NOT NULL,
                     checksum   TEXT   NOT NULL,
                     applied_at TIMESTAMPTZ NOT NULL DEFAULT now()
                 )",
            )
            .await?;
    }
    verify(&transaction, found).await?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        transaction.batch_execute(migration.sql).await?;
        transaction
            .execute(
                "INSERT INTO clarateach_migrations (version, name, checksum) VALUES ($1, $2, $3)",
                &[&migration.version, &migration.name, &migration.checksum()],
            )
            .await?;
    }
    transaction
        .execute(
            "INSERT INTO installation (one, id) VALUES (1, $1) ON CONFLICT DO NOTHING",
            &[&InstallationId::random().as_str()],
        )
        .await?;
    Ok(transaction.commit().await?)
}

/// The latest migration applied; 0 for an empty database.
async fn version(transaction: &Transaction<'_>) -> Result<i64, MigrateError> {
    let ours: bool =
        transaction.query_one("SELECT to_regclass('clarateach_migrations') IS NOT NULL", &[]).await?.get(0);
    if !ours {
        let foreign = transaction
            .query_opt(
                "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema() ORDER BY 1 LIMIT 1",
                &[],
            )
            .await?;
        return match foreign {
            Some(row) => Err(MigrateError::Foreign { table: row.get(0) }),
            None => Ok(0),
        };
    }
    let found: Option<i64> =
        transaction.query_one("SELECT max(version) FROM clarateach_migrations", &[]).await?.get(0);
    let found = found.unwrap_or(0);
    if found > latest() {
        return Err(MigrateError::Newer { found, known: latest() });
    }
    Ok(found)
}

async fn verify(transaction: &Transaction<'_>, up_to: i64) -> Result<(), MigrateError> {
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= up_to) {
        let recorded = transaction
            .query_opt("SELECT checksum FROM clarateach_migrations WHERE version = $1", &[&migration.version])
            .await?;
        if recorded.map(|row| row.get::<_, String>(0)).as_deref() != Some(&migration.checksum()) {
            return Err(MigrateError::Changed { version: migration.version, name: migration.name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_in_order() {
        assert!(MIGRATIONS.iter().map(|migration| migration.version).eq(1..=latest()));
    }
}
