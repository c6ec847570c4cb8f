//! Work that waits for the same thing anyway, the lock of a workshop's row or the disk, is done together: what comes while
//! a group is done makes up the next one, which pays for one transaction and one wait for the disk.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::database::{Database, PATIENCE};
use super::failure::unavailable;
use crate::StoreError;
use crate::timed::timed;

/// Pieces of work in one transaction: bounds how long the first of a group waits for the last.
const GROUP: usize = 256;

/// A piece of work that can be done with others like it.
pub(super) trait Groupable: Send + Sync + Sized + 'static {
    /// What it waits for.
    type Key: Hash + Eq + Clone + Send + Sync;
    /// What it comes to.
    type Answer: Send;
    /// Its name, for one piece of it.
    const OPERATION: &'static str;

    /// What it waits for.
    fn key(&self) -> Self::Key;

    /// Does all of them in one transaction, or none: one answer each, in their order.
    fn in_one(
        database: &Database,
        works: &[&Self],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, StoreError>> + Send;
}

struct Waiting<W: Groupable> {
    work: W,
    reply: oneshot::Sender<Result<W::Answer, StoreError>>,
}

/// What waits, by what it waits for. A key is there as long as a task is at its work.
pub(super) struct Groups<W: Groupable> {
    lines: Mutex<HashMap<W::Key, Vec<Waiting<W>>>>,
}

impl<W: Groupable> Default for Groups<W> {
    fn default() -> Self {
        Self { lines: Mutex::default() }
    }
}

impl<W: Groupable> Groups<W> {
    fn lines(&self) -> MutexGuard<'_, HashMap<W::Key, Vec<Waiting<W>>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a piece of work done with those that wait too.
    pub(super) async fn ask(
        self: &Arc<Self>,
        database: &Arc<Database>,
        work: W,
    ) -> Result<W::Answer, StoreError> {
        let (reply, answer) = oneshot::channel();
        let key = work.key();
        let is_first = {
            let mut lines = self.lines();
            let is_first = !lines.contains_key(&key);
            lines.entry(key.clone()).or_default().push(Waiting { work, reply });
            is_first
        };
        if is_first {
            tokio::spawn(Arc::clone(self).serve(Arc::clone(database), key));
        }
        // The group before this one may take its time, and then this one.
        match timed(W::OPERATION, timeout(2 * PATIENCE, answer)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(StoreError::Internal {
                operation: W::OPERATION,
                source: "it stopped in the middle".into(),
            }),
            Err(_) => Err(unavailable("PostgreSQL does not answer")),
        }
    }

    /// Works until nothing waits any more.
    async fn serve(self: Arc<Self>, database: Arc<Database>, key: W::Key) {
        // Should the work panic, the next to come is to find that nobody is at it.
        let _at_it = AtIt { groups: &self, key: &key };
        loop {
            let group: Vec<Waiting<W>> = {
                let mut lines = self.lines();
                match lines.get_mut(&key) {
                    Some(line) if !line.is_empty() => line.drain(..line.len().min(GROUP)).collect(),
                    _ => {
                        lines.remove(&key);
                        return;
                    }
                }
            };
            let (works, replies): (Vec<W>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.work, waiting.reply)).unzip();
            let answers = done(&database, &works).await;
            if let Some(Err(StoreError::Unavailable { message })) = answers.last() {
                // Those who came meanwhile need not wait as long to hear the same.
                let line = self.lines().get_mut(&key).map(std::mem::take);
                for waiting in line.into_iter().flatten() {
                    let _ = waiting.reply.send(Err(unavailable(message.as_str())));
                }
            }
            for (reply, answer) in replies.into_iter().zip(answers) {
                // Whoever asked may have gone away; the work is done all the same.
                let _ = reply.send(answer);
            }
        }
    }
}

struct AtIt<'a, W: Groupable> {
    groups: &'a Groups<W>,
    key: &'a W::Key,
}

impl<W: Groupable> Drop for AtIt<'_, W> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.groups.lines().remove(self.key);
        }
    }
}

async fn done<W: Groupable>(database: &Database, works: &[W]) -> Vec<Result<W::Answer, StoreError>> {
    let all: Vec<&W> = works.iter().collect();
    match W::in_one(database, &all).await {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(StoreError::Unavailable { message }) => {
            works.iter().map(|_| Err(unavailable(message.as_str()))).collect()
        }
        Err(error) if works.len() == 1 => vec![Err(error)],
        // One of them was refused half-way, and nothing was done: each for itself.
        Err(_) => {
            let mut answers = Vec::with_capacity(works.len());
            for work in works {
                let answer = W::in_one(database, &[work]).await;
                answers.push(
                    answer.and_then(|mut answers| {
                        answers.pop().ok_or_else(|| unavailable("nothing was decided"))
                    }),
                );
            }
            answers
        }
    }
}
