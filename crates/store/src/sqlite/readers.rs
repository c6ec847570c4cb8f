//! A few connections that only read, so that looking never waits for writing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::connection::{Database, Link, Role};
use super::failure::Outcome;
use crate::StoreError;

const READERS: usize = 3;

/// Connections, opened when they are first needed and again when they fail.
#[derive(Debug)]
pub(super) struct Readers {
    database: Arc<Database>,
    places: Semaphore,
    idle: Mutex<Vec<Link>>,
}

impl Readers {
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self { database, places: Semaphore::new(READERS), idle: Mutex::new(Vec::new()) }
    }

    /// Runs `work` on one state of the database.
    pub(super) async fn ask<T, F>(self: &Arc<Self>, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Outcome<T> + Send + 'static,
    {
        let this = Arc::clone(self);
        let task = async move {
            let place = this.places.acquire().await.map_err(|_| closed())?;
            let readers = Arc::clone(&this);
            let done = tokio::task::spawn_blocking(move || readers.read(operation, work)).await;
            drop(place);
            done.map_err(|error| StoreError::Internal { operation, source: Box::new(error) })?
        };
        task.await
    }

    fn read<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Outcome<T>,
    ) -> Result<T, StoreError> {
        let idle = self.idle().pop().filter(|link| link.still_there().is_ok());
        let link = match idle {
            Some(link) => link,
            None => self.database.connect(Role::Reader)?,
        };
        let outcome = one_state(&link.connection, work);
        let sound = outcome.as_ref().err().and_then(|failure| failure.fault()).is_none();
        if sound && !self.places.is_closed() {
            self.idle().push(link);
        }
        outcome.map_err(|failure| failure.into_store_error(operation))
    }

    /// A journal that is written over needs no room, so a full disk is not always found by writing.
    pub(super) fn has_room(&self) -> Result<(), StoreError> {
        self.database.has_room().map_err(StoreError::from)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Link>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for reads under way and refuses new ones.
    pub(super) async fn close(&self) {
        let all = self.places.acquire_many(u32::try_from(READERS).unwrap_or(u32::MAX)).await;
        self.places.close();
        drop(all);
        self.idle().clear();
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
