//! Transactions: a connection is had, work is done, and done again when it lost against others.

use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clarateach_ids::WorkshopId;
use deadpool_postgres::{Object, Pool};
use futures_util::future::try_join;
use tokio::sync::{RwLock, broadcast};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::events::{self, PendingEvent};
use super::failure::{Again, Failure, Outcome, no_connection, unavailable};
use crate::StoreError;
use crate::timed::timed;

/// How long a caller waits for an answer, everything taken together.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often work is tried that loses against others or its connection.
const ATTEMPTS: u32 = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Parameters of a statement.
pub(super) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// A connection in a transaction. Unless that has been brought to its end, the connection goes with it: what is under
/// way on it is of no use to the next.
pub(super) struct Session {
    object: Option<Object>,
    clean: AtomicBool,
}

impl Session {
    fn client(&self) -> Outcome<&Object> {
        self.object.as_ref().ok_or_else(|| Failure::Refused(unavailable("the connection is gone")))
    }

    pub(super) async fn query(&self, sql: &'static str, parameters: Parameters<'_>) -> Outcome<Vec<Row>> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.query(&statement, parameters).await?)
    }

    pub(super) async fn query_opt(
        &self,
        sql: &'static str,
        parameters: Parameters<'_>,
    ) -> Outcome<Option<Row>> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    pub(super) async fn query_one(&self, sql: &'static str, parameters: Parameters<'_>) -> Outcome<Row> {
        let row = self.query_opt(sql, parameters).await?;
        row.ok_or_else(|| Failure::Unreadable(format!("no row came back from {sql}").into()))
    }

    pub(super) async fn execute(&self, sql: &'static str, parameters: Parameters<'_>) -> Outcome<u64> {
        let client = self.client()?;
        let statement = client.prepare_cached(sql).await?;
        Ok(client.execute(&statement, parameters).await?)
    }

    /// Has statements ready that are about to be sent together, so that none of them waits for its own preparation.
    pub(super) async fn prepare(&self, statements: &[&'static str]) -> Outcome<()> {
        let client = self.client()?;
        for sql in statements {
            client.prepare_cached(sql).await?;
        }
        Ok(())
    }

    async fn run(&self, sql: &'static str) -> Outcome<()> {
        Ok(self.client()?.batch_execute(sql).await?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(object) = self.object.take()
            && !self.clean.load(Ordering::Acquire)
        {
            drop(Object::take(object));
        }
    }
}

/// What was decided and is written at the end of the transaction, all at once.
#[derive(Default)]
pub(super) struct Pending {
    pub(super) events: Vec<PendingEvent>,
    /// Workshops whose watchers are to look.
    pub(super) woken: Vec<WorkshopId>,
    /// How many of the latter other stores are told of.
    pub(super) told: usize,
}

/// What work writes through.
pub(super) struct Write {
    session: Session,
    pending: Mutex<Pending>,
    /// [`Database::origin`].
    pub(super) origin: String,
}

impl Deref for Write {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Write {
    /// Never held across a wait.
    pub(super) fn pending(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the database is, and who is told of events.
pub(super) struct Database {
    pub(super) pool: Pool,
    pub(super) wakes: broadcast::Sender<WorkshopId>,
    /// Marks this store's own notifications, which it need not be told of.
    pub(super) origin: String,
    /// Held by work under way, so that closing waits for it.
    under_way: RwLock<()>,
}

impl Database {
    pub(super) fn new(pool: Pool, wakes: broadcast::Sender<WorkshopId>, origin: String) -> Self {
        Self { pool, wakes, origin, under_way: RwLock::new(()) }
    }

    async fn session(&self) -> Result<Session, StoreError> {
        let object = self.pool.get().await.map_err(no_connection)?;
        Ok(Session { object: Some(object), clean: AtomicBool::new(false) })
    }

    /// Reads one state of the database.
    pub(super) async fn read<T, F, Fut>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        F: Fn(Arc<Session>) -> Fut,
        Fut: Future<Output = Outcome<T>>,
    {
        let work = &work;
        let attempt = move || async move {
            let session = Arc::new(self.session().await.map_err(Failure::Refused)?);
            let begin = session.run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
            let outcome = begun(begin, work(Arc::clone(&session))).await?;
            end(&session, outcome, "COMMIT").await
        };
        timed(operation, self.patiently(operation, attempt)).await
    }

    /// Has `work` done in a transaction, and answers when it is on the disk.
    pub(super) async fn write<T, F, Fut>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        F: Fn(Arc<Write>) -> Fut,
        Fut: Future<Output = Outcome<T>>,
    {
        let work = &work;
        let attempt = move || async move {
            let session = self.session().await.map_err(Failure::Refused)?;
            let write = Arc::new(Write { session, pending: Mutex::default(), origin: self.origin.clone() });
            let mut outcome = begun(write.run("BEGIN"), work(Arc::clone(&write))).await?;
            if outcome.is_ok()
                && let Err(failure) = events::flush(&write).await
            {
                outcome = Err(failure);
            }
            let value = end(&write.session, outcome, "COMMIT").await?;
            let mut woken = std::mem::take(&mut write.pending().woken);
            woken.sort_unstable();
            woken.dedup();
            for id in woken {
                let _ = self.wakes.send(id);
            }
            Ok(value)
        };
        timed(operation, self.patiently(operation, attempt)).await
    }

    async fn patiently<T, Fut>(
        &self,
        operation: &'static str,
        attempt: impl Fn() -> Fut,
    ) -> Result<T, StoreError>
    where
        Fut: Future<Output = Outcome<T>>,
    {
        let deadline = Instant::now() + PATIENCE;
        let late = || unavailable(format!("PostgreSQL did not answer within {} seconds", PATIENCE.as_secs()));
        let Ok(_under_way) = timeout_at(deadline, self.under_way.read()).await else { return Err(late()) };
        let mut pause = FIRST_PAUSE;
        for _ in 1..ATTEMPTS {
            match timeout_at(deadline, attempt()).await {
                Err(_) => return Err(late()),
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(failure)) if failure.again() == Again::AtOnce => {
                    tracing::debug!(operation, ?failure, "trying again");
                    sleep(pause).await;
                    pause *= 2;
                }
                Ok(Err(failure)) => return Err(failure.into_store_error(operation)),
            }
        }
        match timeout_at(deadline, attempt()).await {
            Err(_) => Err(late()),
            Ok(outcome) => outcome.map_err(|failure| failure.into_store_error(operation)),
        }
    }

    /// Waits for what is under way and refuses what comes.
    pub(super) async fn close(&self) {
        let nothing = self.under_way.write().await;
        self.pool.close();
        drop(nothing);
    }
}

/// Sends `begin` and, without waiting for its answer, the first statement of `work`. Answers come in order: should the
/// beginning fail, the work gets no further than that statement.
async fn begun<T>(
    begin: impl Future<Output = Outcome<()>>,
    work: impl Future<Output = Outcome<T>>,
) -> Outcome<Outcome<T>> {
    let work = async { Ok(work.await) };
    let ((), outcome) = try_join(begin, work).await?;
    Ok(outcome)
}

/// Ends a transaction as its work ended.
async fn end<T>(session: &Session, outcome: Outcome<T>, commit: &'static str) -> Outcome<T> {
    match outcome {
        Ok(value) => {
            session.run(commit).await.map_err(commit_failed)?;
            session.clean.store(true, Ordering::Release);
            Ok(value)
        }
        Err(failure) => {
            let keep = failure.again() == Again::No || is_race(&failure);
            if keep && session.run("ROLLBACK").await.is_ok() {
                session.clean.store(true, Ordering::Release);
            }
            Err(failure)
        }
    }
}

fn is_race(failure: &Failure) -> bool {
    matches!(failure, Failure::Sql(error) if error.code().is_some_and(super::failure::lost_a_race))
}

/// A commit that PostgreSQL refused was not done. Of one that it did not answer nobody knows, so it is not tried again.
fn commit_failed(failure: Failure) -> Failure {
    match &failure {
        Failure::Sql(error) if error.as_db_error().is_none() => Failure::Refused(unavailable(
            "the connection to PostgreSQL was lost while it committed; look whether it was done",
        )),
        _ => failure,
    }
}
