//! A few connections that only read, so that looking never waits for writing.

use std::sync::Arc;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::connection::Database;
use super::failure::Outcome;
use crate::StoreError;

const READERS: usize = 3;

/// How many may read at once. Their connections are opened when they are first needed, and again when they fail.
#[derive(Debug)]
pub(super) struct Readers {
    database: Arc<Database>,
    places: Semaphore,
}

impl Readers {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, places: Semaphore::new(READERS) }
    }

    /// Runs `work` on one state of the database.
    pub(super) async fn ask<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let place = self.places.acquire().await.map_err(|_| closed())?;
        let database = Arc::clone(&self.database);
        let done = tokio::task::spawn_blocking(move || database.read(|db| one_state(db, work))).await;
        drop(place);
        let outcome = done.map_err(|error| StoreError::Internal { operation, source: Box::new(error) })??;
        outcome.map_err(|failure| failure.into_store_error(operation))
    }

    /// Whether the files that are open are those that are there.
    pub(super) fn still_there(&self) -> bool {
        self.database.still_there().is_ok()
    }

    /// A journal that is written over needs no room, so a full disk is not always found by writing.
    pub(super) fn has_room(&self) -> Result<(), StoreError> {
        self.database.has_room().map_err(StoreError::from)
    }

    /// Waits for reads under way and refuses new ones.
    pub(super) async fn close(&self) {
        let all = self.places.acquire_many(u32::try_from(READERS).unwrap_or(u32::MAX)).await;
        self.places.close();
        drop(all);
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { message: "it has been closed".to_owned() }
}

fn one_state<T>(db: &Connection, work: impl FnOnce(&Connection) -> Outcome<T>) -> Outcome<T> {
    db.prepare_cached("BEGIN")?.execute([])?;
    let outcome = work(db);
    let ended = db.prepare_cached("COMMIT")?.execute([]);
    let value = outcome?;
    ended?;
    Ok(value)
}
