//! Learners want in. Joins of one workshop wait for each other anyway, for the lock of its row: those that come while
//! a group is being decided make up the next one, which pays for one lock and one wait for the disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use clarateach_ids::JoinCode;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::classroom::Classroom;
use super::database::{Database, PATIENCE, Write};
use super::failure::{Outcome, unavailable};
use crate::timed::timed;
use crate::{JoinDecision, JoinWish, StoreError};

/// Joins in one transaction: bounds how long the first of a group waits for the last.
const GROUP: usize = 256;

const OPERATION: &str = "decide a join";
const OF_A_GROUP: &str = "decide a group of joins";

struct Waiting {
    wish: JoinWish,
    reply: oneshot::Sender<Result<JoinDecision, StoreError>>,
}

/// Those who wait, by the code that they came with. A code is there as long as a task decides on its joins.
#[derive(Default)]
pub(super) struct Joining {
    lines: Mutex<HashMap<JoinCode, Vec<Waiting>>>,
}

impl Joining {
    fn lines(&self) -> std::sync::MutexGuard<'_, HashMap<JoinCode, Vec<Waiting>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a join decided with those that wait too.
    pub(super) async fn join(
        self: &Arc<Self>,
        database: &Arc<Database>,
        wish: JoinWish,
    ) -> Result<JoinDecision, StoreError> {
        let (reply, answer) = oneshot::channel();
        let code = wish.join_code;
        let is_first = {
            let mut lines = self.lines();
            let is_first = !lines.contains_key(&code);
            lines.entry(code).or_default().push(Waiting { wish, reply });
            is_first
        };
        if is_first {
            tokio::spawn(Arc::clone(self).serve(Arc::clone(database), code));
        }
        // The group before this one may take its time, and then this one.
        match timed(OPERATION, timeout(2 * PATIENCE, answer)).await {
            Ok(Ok(decision)) => decision,
            Ok(Err(_)) => Err(StoreError::Internal {
                operation: OPERATION,
                source: "deciding stopped in the middle".into(),
            }),
            Err(_) => Err(unavailable("PostgreSQL does not answer")),
        }
    }

    /// Decides until nobody waits any more.
    async fn serve(self: Arc<Self>, database: Arc<Database>, code: JoinCode) {
        // Should deciding panic, the next to come is to find that nobody is at it.
        let _at_it = AtIt { joining: &self, code };
        loop {
            let group: Vec<Waiting> = {
                let mut lines = self.lines();
                match lines.get_mut(&code) {
                    Some(line) if !line.is_empty() => line.drain(..line.len().min(GROUP)).collect(),
                    _ => {
                        lines.remove(&code);
                        return;
                    }
                }
            };
            let (wishes, replies): (Vec<JoinWish>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.wish, waiting.reply)).unzip();
            let answers = decide_all(&database, &wishes).await;
            if let Some(Err(StoreError::Unavailable { message })) = answers.last() {
                // Those who came meanwhile need not wait as long to hear the same.
                let line = self.lines().get_mut(&code).map(std::mem::take);
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

struct AtIt<'a> {
    joining: &'a Joining,
    code: JoinCode,
}

impl Drop for AtIt<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.joining.lines().remove(&self.code);
        }
    }
}

async fn decide_all(database: &Database, wishes: &[JoinWish]) -> Vec<Result<JoinDecision, StoreError>> {
    let all: Vec<&JoinWish> = wishes.iter().collect();
    match decide(database, &all).await {
        Ok(decisions) => decisions.into_iter().map(Ok).collect(),
        Err(StoreError::Unavailable { message }) => {
            wishes.iter().map(|_| Err(unavailable(message.as_str()))).collect()
        }
        // One of them was refused half-way, and nothing was done: each for itself.
        Err(_) => {
            let mut answers = Vec::with_capacity(wishes.len());
            for wish in wishes {
                let answer = decide(database, &[wish]).await;
                answers.push(answer.and_then(|mut decisions| {
                    decisions.pop().ok_or_else(|| unavailable("the join was not decided"))
                }));
            }
            answers
        }
    }
}

/// All in one transaction.
async fn decide(database: &Database, wishes: &[&JoinWish]) -> Result<Vec<JoinDecision>, StoreError> {
    database.write(OF_A_GROUP, |write| async move { decide_in(&write, wishes).await }).await
}

async fn decide_in(write: &Write, wishes: &[&JoinWish]) -> Outcome<Vec<JoinDecision>> {
    let Some(first) = wishes.first() else { return Ok(Vec::new()) };
    let Some(mut classroom) = Classroom::lock(write, &first.join_code, wishes).await? else {
        return Ok(wishes.iter().map(|_| JoinDecision::NotFound).collect());
    };
    let mut decisions = Vec::with_capacity(wishes.len());
    for wish in wishes {
        decisions.push(classroom.join(write, wish)?);
    }
    classroom.store(write).await?;
    Ok(decisions)
}
