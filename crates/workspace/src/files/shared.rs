//! Answers that several requests share.
//!
//! A request for what is already asked for, but not yet begun to be read, gets the same answer: it is read after the
//! request came, so nobody sees anything older than what a reading of their own would have shown.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{content, list, pool::Pool, root::Root};
use crate::http::Refusal;

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    /// The listing of a directory.
    Listing(String),
    /// The content of a file, or the listing if it is a directory.
    Content(String),
}

impl Question {
    fn answer(&self, root: &Root) -> Result<Bytes, Refusal> {
        match self {
            Question::Listing(path) => list::listing(root, path),
            Question::Content(path) => match content::read(root, path) {
                Err(refusal) if refusal.code == "IS_DIRECTORY" => list::listing(root, path),
                other => other,
            },
        }
        .map(Bytes::from)
    }
}

type Waiting = HashMap<Question, Vec<oneshot::Sender<Result<Bytes, Refusal>>>>;

/// Questions that no thread has begun with.
#[derive(Clone, Debug, Default)]
pub(super) struct Questions(Arc<Mutex<Waiting>>);

impl Questions {
    /// The answer to a question, as JSON.
    pub(super) async fn ask(
        &self,
        question: Question,
        root: &Arc<Root>,
        pool: &Pool,
    ) -> Result<Bytes, Refusal> {
        let (sender, answer) = oneshot::channel();
        let is_new = {
            let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let askers = waiting.entry(question.clone()).or_default();
            askers.push(sender);
            askers.len() == 1
        };
        if is_new {
            let (waiting, root) = (self.0.clone(), root.clone());
            pool.submit(move || {
                let askers = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&question);
                let answer = question.answer(&root);
                for asker in askers.into_iter().flatten() {
                    let _ = asker.send(answer.clone());
                }
            })?;
        }
        answer.await.map_err(|e| Refusal::internal(&e))?
    }
}
