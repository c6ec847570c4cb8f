//! The one thread that writes; or, for a simulation, nobody but whoever asks.
//!
//! It takes all work that waits and runs it in one transaction, so that a class that joins at once pays for a few waits
//! for the disk and not for hundreds. Answers go out after the commit.
//!
//! Work that is refused must take back what it changed, and nothing else. Savepoints do that, and cost a copy of every
//! page they may have to bring back; refusals nearly always come before the first change. So a group runs without
//! them first, and again with a savepoint for each piece when one was refused half-way.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use clarateach_ids::WorkshopId;
use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::connection::Database;
use super::failure::{Failure, Fault, Outcome};
use super::lock::FileLock;
use crate::StoreError;

/// Work in one transaction: bounds how long the first of a group waits for the last.
const GROUP: usize = 256;

/// Callers beyond this many wait for a place.
const QUEUE: usize = 1024;

/// What work writes through.
pub(super) struct Write<'a> {
    pub(super) db: &'a Connection,
    /// Workshops with new events, to be told after the commit.
    pub(super) woken: &'a mut Vec<WorkshopId>,
}

/// A piece of work and whoever waits for it.
trait Job: Send {
    /// Runs it, maybe a second time after a rollback; what it changed is taken back by the caller when it fails.
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Option<Fault>>;
    /// Answers.
    fn finish(self: Box<Self>, committed: Result<(), Fault>);
}

struct Ask<T, F> {
    operation: &'static str,
    work: F,
    outcome: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, F> Job for Ask<T, F>
where
    T: Send,
    F: Fn(&mut Write<'_>) -> Outcome<T> + Send,
{
    fn run(&mut self, write: &mut Write<'_>) -> Result<(), Option<Fault>> {
        match (self.work)(write) {
            Ok(value) => {
                self.outcome = Some(Ok(value));
                Ok(())
            }
            Err(failure) => {
                let fault = failure.fault();
                self.outcome = Some(Err(failure.into_store_error(self.operation)));
                Err(fault)
            }
        }
    }

    fn finish(self: Box<Self>, committed: Result<(), Fault>) {
        let answer = match (committed, self.outcome) {
            // A refusal changed nothing, so it stands whatever became of the others.
            (_, Some(Err(error))) => Err(error),
            (Ok(()), Some(Ok(value))) => Ok(value),
            (Err(fault), _) => Err(fault.into()),
            (Ok(()), None) => Err(gone(self.operation)),
        };
        // Whoever asked may have gone away; the work is done all the same.
        let _ = self.reply.send(answer);
    }
}

fn gone(operation: &'static str) -> StoreError {
    StoreError::Internal { operation, source: "the writer stopped in the middle".into() }
}

enum Message {
    Work(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// The way to the writer.
#[derive(Debug)]
pub(super) struct Writer {
    queue: Option<mpsc::Sender<Message>>,
    thread: Option<std::thread::JoinHandle<()>>,
    /// Without a thread: what is asked is done by who asks.
    in_line: Option<Mutex<Loop>>,
}

impl Writer {
    /// Starts the thread; it owns `lock` so that the file is let go of after the connection, not before.
    pub(super) fn start(
        database: Option<Arc<Database>>,
        connection: Connection,
        lock: Option<FileLock>,
        wakes: broadcast::Sender<WorkshopId>,
    ) -> std::io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new().name("store-writer".to_owned()).spawn(move || {
            Loop { database, connection: Some(connection), lock, wakes, faulty: false }.run(messages);
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread), in_line: None })
    }

    /// No thread: each call does its own work before it comes back, so that what happens depends on nothing but the
    /// order of the calls.
    pub(super) fn in_line(connection: Connection, wakes: broadcast::Sender<WorkshopId>) -> Self {
        let all = Loop { database: None, connection: Some(connection), lock: None, wakes, faulty: false };
        Self { queue: None, thread: None, in_line: Some(Mutex::new(all)) }
    }

    /// Has `work` done in a transaction, and answers when it is on the disk.
    pub(super) async fn ask<T, F>(&self, operation: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Fn(&mut Write<'_>) -> Outcome<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Ask { operation, work, outcome: None, reply });
        if let Some(all) = &self.in_line {
            all.lock().unwrap_or_else(PoisonError::into_inner).serve(vec![job]);
            return answer.await.map_err(|_| gone(operation))?;
        }
        let closed = || StoreError::Unavailable { message: "it has been closed".to_owned() };
        let queue = self.queue.as_ref().ok_or_else(closed)?;
        queue.send(Message::Work(job)).await.map_err(|_| closed())?;
        answer.await.map_err(|_| gone(operation))?
    }

    /// Waits until all that was asked before is done and the file is let go of.
    pub(super) async fn close(&self) {
        if let Some(all) = &self.in_line {
            all.lock().unwrap_or_else(PoisonError::into_inner).disconnect();
        }
        let (reply, done) = oneshot::channel();
        if let Some(queue) = &self.queue
            && queue.send(Message::Close(reply)).await.is_ok()
        {
            let _ = done.await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Loop {
    /// `None` in memory, where a lost connection can't be had again.
    database: Option<Arc<Database>>,
    connection: Option<Connection>,
    lock: Option<FileLock>,
    wakes: broadcast::Sender<WorkshopId>,
    faulty: bool,
}

impl Loop {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut closing = None;
        while closing.is_none()
            && let Some(first) = messages.blocking_recv()
        {
            let mut group = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Work(job) => group.push(job),
                    Message::Close(reply) => {
                        closing = Some(reply);
                        break;
                    }
                }
                next = if group.len() < GROUP { messages.try_recv().ok() } else { None };
            }
            self.serve(group);
        }
        messages.close();
        // The last connection to go writes the journal back.
        self.disconnect();
        drop(self.lock.take());
        if let Some(reply) = closing {
            let _ = reply.send(());
        }
    }

    fn serve(&mut self, mut group: Vec<Box<dyn Job>>) {
        let mut woken = Vec::new();
        // A panic in one piece of work must not take the writer from everybody: the connection, whose transaction is
        // in an unknown state, is dropped, and the callers of this group are told.
        let committed = catch_unwind(AssertUnwindSafe(|| self.commit(&mut group, &mut woken)));
        let Ok(committed) = committed else {
            tracing::error!("work on the database panicked; its changes are rolled back");
            match &self.connection {
                Some(connection) if self.database.is_none() => {
                    let _ = connection.execute_batch("ROLLBACK");
                }
                _ => self.disconnect(),
            }
            return;
        };
        match &committed {
            Ok(()) => {
                if self.faulty {
                    tracing::info!("the database can be used again");
                }
                self.faulty = false;
                woken.sort_unstable();
                woken.dedup();
                for id in woken {
                    let _ = self.wakes.send(id);
                }
            }
            Err(fault) => {
                if !self.faulty {
                    tracing::error!(reason = %fault.message, "the database can't be used");
                }
                self.faulty = true;
                if fault.reconnect && self.database.is_some() {
                    self.disconnect();
                }
            }
        }
        for job in group {
            job.finish(committed.clone());
        }
    }

    fn disconnect(&mut self) {
        let connection = self.connection.take();
        match &self.database {
            Some(database) => database.disconnect(connection),
            None => drop(connection),
        }
    }

    fn commit(&mut self, group: &mut [Box<dyn Job>], woken: &mut Vec<WorkshopId>) -> Result<(), Fault> {
        if let Some(database) = self.database.clone() {
            if let Err(fault) = database.still_there() {
                tracing::warn!(reason = %fault.message, "opening the database again");
                self.disconnect();
            }
            if self.connection.is_none() {
                self.connection = Some(database.connect_writer()?);
            }
        }
        let Some(db) = &self.connection else { return Err(Fault::new("it is gone from memory")) };
        let committed = transact(db, group, woken);
        if committed.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("ROLLBACK");
        }
        committed?;
        self.database.as_ref().map_or(Ok(()), |database| database.still_there())
    }
}

fn transact(db: &Connection, group: &mut [Box<dyn Job>], woken: &mut Vec<WorkshopId>) -> Result<(), Fault> {
    run(db, "BEGIN IMMEDIATE")?;
    if !run_lightly(db, group, woken)? {
        run(db, "ROLLBACK")?;
        woken.clear();
        run(db, "BEGIN IMMEDIATE")?;
        run_in_savepoints(db, group, woken)?;
    }
    run(db, "COMMIT")
}

/// False when work was refused after it had changed something.
fn run_lightly(
    db: &Connection,
    group: &mut [Box<dyn Job>],
    woken: &mut Vec<WorkshopId>,
) -> Result<bool, Fault> {
    for job in group {
        let changes = db.total_changes();
        match job.run(&mut Write { db, woken }) {
            Ok(()) => {}
            Err(Some(fault)) => return Err(fault),
            Err(None) if db.total_changes() == changes => {}
            Err(None) => return Ok(false),
        }
    }
    Ok(true)
}

fn run_in_savepoints(
    db: &Connection,
    group: &mut [Box<dyn Job>],
    woken: &mut Vec<WorkshopId>,
) -> Result<(), Fault> {
    for job in group {
        run(db, "SAVEPOINT job")?;
        let already = woken.len();
        match job.run(&mut Write { db, woken }) {
            Ok(()) => {}
            Err(Some(fault)) => return Err(fault),
            Err(None) => {
                woken.truncate(already);
                run(db, "ROLLBACK TO job")?;
            }
        }
        run(db, "RELEASE job")?;
    }
    Ok(())
}

fn run(db: &Connection, sql: &'static str) -> Result<(), Fault> {
    let done = db.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    done.map(|_| ())
        .map_err(|error| Failure::Sql(error).fault().unwrap_or_else(|| Fault::new(format!("{sql} failed"))))
}

#[cfg(test)]
mod tests {
    use super::super::connection::in_memory;
    use super::super::failure::conflict;
    use super::*;

    fn writer() -> Writer {
        let connection = in_memory().unwrap();
        connection.execute_batch("CREATE TABLE notes (text TEXT NOT NULL UNIQUE) STRICT").unwrap();
        Writer::start(None, connection, None, broadcast::channel(8).0).unwrap()
    }

    async fn note(writer: &Writer, text: &'static str, refuse: bool) -> Result<(), StoreError> {
        let work = move |write: &mut Write<'_>| {
            write.db.execute("INSERT INTO notes (text) VALUES (?1)", [text])?;
            write.woken.push(text.parse().unwrap());
            if refuse { Err(conflict("no")) } else { Ok(()) }
        };
        writer.ask("note", work).await
    }

    async fn notes(writer: &Writer) -> String {
        let read = |write: &mut Write<'_>| {
            let all = "SELECT coalesce(group_concat(text, ' ' ORDER BY text), '') FROM notes";
            Ok(write.db.query_row(all, [], |row| row.get(0))?)
        };
        writer.ask("read", read).await.unwrap()
    }

    #[tokio::test]
    async fn work_that_is_refused_half_way_is_undone_alone() {
        let writer = writer();
        let (a, b, c, d) = tokio::join!(
            note(&writer, "a", false),
            note(&writer, "b", true),
            note(&writer, "a", false),
            note(&writer, "d", false),
        );
        assert!(a.is_ok() && d.is_ok());
        assert!(matches!(b, Err(StoreError::Conflict { .. })), "{b:?}");
        assert!(matches!(c, Err(StoreError::Internal { operation: "note", .. })), "{c:?}");
        assert_eq!(notes(&writer).await, "a d");
    }

    #[tokio::test]
    async fn only_what_was_committed_wakes() {
        let connection = in_memory().unwrap();
        connection.execute_batch("CREATE TABLE notes (text TEXT NOT NULL UNIQUE) STRICT").unwrap();
        let (wakes, mut woken) = broadcast::channel(8);
        let writer = Writer::start(None, connection, None, wakes).unwrap();
        let (a, b) = tokio::join!(note(&writer, "a", false), note(&writer, "b", true));
        assert!(a.is_ok() && b.is_err());
        writer.close().await;
        drop(writer);
        assert_eq!(woken.recv().await.unwrap().as_str(), "a");
        assert!(woken.recv().await.is_err(), "nothing else, and then the end");
    }

    #[tokio::test]
    async fn a_panic_takes_its_own_group_and_not_the_writer() {
        let writer = writer();
        note(&writer, "a", false).await.unwrap();
        let broken = |write: &mut Write<'_>| -> Outcome<()> {
            write.db.execute("INSERT INTO notes (text) VALUES ('b')", [])?;
            panic!("on purpose")
        };
        let answer = writer.ask("break", broken).await;
        assert!(matches!(answer, Err(StoreError::Internal { operation: "break", .. })), "{answer:?}");
        note(&writer, "c", false).await.unwrap();
        assert_eq!(notes(&writer).await, "a c");
    }
}
