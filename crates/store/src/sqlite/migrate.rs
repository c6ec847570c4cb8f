//! Numbered SQL files, each applied once, all in one transaction.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};

use crate::migration::{self, Migration};

/// What SQLite's `application_id` is in a file of ours: "ClTe".
const APPLICATION_ID: i64 = 0x436c_5465;

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "first", sql: include_str!("../../migrations/sqlite/0001_first.sql") },
    Migration { version: 2, name: "fleet", sql: include_str!("../../migrations/sqlite/0002_fleet.sql") },
    Migration {
        version: 3,
        name: "ready_generation",
        sql: include_str!("../../migrations/sqlite/0003_ready_generation.sql"),
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
        /// In the file.
        found: i64,
        /// The latest of this program.
        known: i64,
    },
    /// The file holds tables that this program did not make.
    #[error("it belongs to another program")]
    Foreign,
    /// A migration that was applied is not the one that this program has.
    #[error("its migration {version} ({name}) is not the one that this program has")]
    Changed {
        /// Its number.
        version: i64,
        /// Its name.
        name: &'static str,
    },
    /// SQLite failed.
    #[error("migrating it failed")]
    Sql(#[from] rusqlite::Error),
}

fn latest() -> i64 {
    migration::latest(MIGRATIONS)
}

/// Applies what is missing. Nothing is changed when it fails.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), MigrateError> {
    let found = version(connection)?;
    if found == latest() {
        return verify(connection, found);
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID};
         CREATE TABLE IF NOT EXISTS migrations (
             version    INTEGER NOT NULL PRIMARY KEY,
             name       TEXT    NOT NULL,
             checksum   TEXT    NOT NULL,
             applied_at INTEGER NOT NULL
         ) STRICT;"
    ))?;
    verify(&transaction, found)?;
    for migration in MIGRATIONS.iter().filter(|migration| migration.version > found) {
        transaction.execute_batch(migration.sql)?;
        transaction.execute(
            "INSERT INTO migrations (version, name, checksum, applied_at) VALUES (?1, ?2, ?3, unixepoch() * 1000)",
            (migration.version, migration.name, migration.checksum()),
        )?;
    }
    Ok(transaction.commit()?)
}

/// That a database which is opened again is one of ours and up to date.
pub(super) fn require_current(connection: &Connection) -> Result<(), MigrateError> {
    match version(connection)? {
        found if found == latest() => verify(connection, found),
        _ => Err(MigrateError::Foreign),
    }
}

/// The latest migration applied; 0 for an empty database.
fn version(connection: &Connection) -> Result<i64, MigrateError> {
    let application: i64 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    match (application, tables) {
        (APPLICATION_ID, 1..) => {}
        (0 | APPLICATION_ID, 0) => return Ok(0),
        _ => return Err(MigrateError::Foreign),
    }
    let found: Option<i64> =
        connection.query_row("SELECT max(version) FROM migrations", [], |row| row.get(0))?;
    let found = found.unwrap_or(0);
    if found > latest() {
        return Err(MigrateError::Newer { found, known: latest() });
    }
    Ok(found)
}

fn verify(connection: &Connection, up_to: i64) -> Result<(), MigrateError> {
    for migration in MIGRATIONS.iter().filter(|migration| migration.version <= up_to) {
        let recorded: Option<String> = connection
            .query_row("SELECT checksum FROM migrations WHERE version = ?1", [migration.version], |row| {
                row.get(0)
            })
            .optional()?;
        if recorded.as_deref() != Some(&migration.checksum()) {
            return Err(MigrateError::Changed { version: migration.version, name: migration.name });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_database_is_filled_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        migrate(&mut connection).unwrap();
        require_current(&connection).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM migrations", [], |r| r.get(0)).unwrap();
        assert_eq!(rows, i64::try_from(MIGRATIONS.len()).unwrap());
    }

    #[test]
    fn a_newer_a_changed_and_a_foreign_database_are_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection.execute("INSERT INTO migrations VALUES (99, 'later', 'x', 0)", []).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(error.to_string().contains("newer version"), "{error}");

        connection.execute("DELETE FROM migrations WHERE version = 99", []).unwrap();
        connection.execute("UPDATE migrations SET checksum = 'x' WHERE version = 1", []).unwrap();
        assert!(matches!(migrate(&mut connection), Err(MigrateError::Changed { version: 1, .. })));

        let mut foreign = Connection::open_in_memory().unwrap();
        foreign.execute_batch("CREATE TABLE workshops (id TEXT)").unwrap();
        assert!(matches!(migrate(&mut foreign), Err(MigrateError::Foreign)));
        assert!(matches!(require_current(&foreign), Err(MigrateError::Foreign)));
    }

    #[test]
    fn a_database_of_an_earlier_version_keeps_what_it_holds() {
        let mut connection = Connection::open_in_memory().unwrap();
        let first = &MIGRATIONS[0];
        connection
            .execute_batch(&format!(
                "PRAGMA application_id = {APPLICATION_ID};
                 CREATE TABLE migrations (version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL,
                     checksum TEXT NOT NULL, applied_at INTEGER NOT NULL) STRICT;
                 {}
                 INSERT INTO migrations VALUES (1, 'first', '{}', 0);
                 INSERT INTO installation (one, id) VALUES (1, 'kept');
                 PRAGMA foreign_keys = OFF;
                 INSERT INTO seats (workshop_id, n, generation, state, session_id) VALUES
                     ('w', 1, 7, 'pending', NULL), ('w', 2, 7, 'failed', 's'), ('w', 3, 7, 'unreachable', NULL);
                 PRAGMA foreign_keys = ON;",
                first.sql,
                first.checksum()
            ))
            .unwrap();
        assert!(matches!(require_current(&connection), Err(MigrateError::Foreign)));
        migrate(&mut connection).unwrap();
        require_current(&connection).unwrap();
        let id: String = connection.query_row("SELECT id FROM installation", [], |row| row.get(0)).unwrap();
        assert_eq!(id, "kept");
        let workers: i64 =
            connection.query_row("SELECT count(*) FROM workers", [], |row| row.get(0)).unwrap();
        assert_eq!(workers, 0);
        // Who held a seat may have worked in it.
        let mut ready = connection.prepare("SELECT ready_generation FROM seats ORDER BY n").unwrap();
        let ready: Vec<Option<i64>> =
            ready.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(ready, [None, Some(7), Some(7)]);
    }

    #[test]
    fn the_numbers_are_in_order() {
        assert!(MIGRATIONS.iter().map(|migration| migration.version).eq(1..=latest()));
    }
}
