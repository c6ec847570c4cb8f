//! The files API, beneath the workspace directory and as the learner.
//!
//! Work on files is done by a few threads that the kernel takes for the learner ([`pool`]); every path is opened by
//! `openat2(2)` beneath the workspace's own descriptor ([`root`]), so neither `..` nor a symbolic link leads out, not
//! even one that is swapped in between two calls.

mod archive;
mod change;
mod content;
mod http;
mod list;
mod ownership;
mod pool;
mod raw;
mod root;
mod shared;
mod version;
mod watch;

use std::{path::PathBuf, rc::Rc, sync::Arc};

pub(crate) use self::{http::route, ownership::give_to_learner, watch::Watch};
use self::{
    pool::Pool,
    root::Root,
    shared::{Question, Questions},
};
use crate::{http::Refusal, learner::Learner};

/// The files of the seat.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    root: Arc<Root>,
    pool: Rc<Pool>,
    archives: Arc<tokio::sync::Semaphore>,
    questions: Questions,
}

impl Files {
    /// Opens the workspace directory and starts the threads that act as the learner.
    pub(crate) fn open(path: PathBuf, learner: &Learner) -> std::io::Result<Files> {
        let pool = Pool::start(learner)?;
        // As the learner, for root without its capabilities may not pass through what is closed to others.
        let root = pool.wait_for(move || {
            std::fs::create_dir_all(&path)?;
            Root::open(path)
        })?;
        Ok(Files {
            root: Arc::new(root),
            pool: Rc::new(pool),
            archives: archive::permits(),
            questions: Questions::default(),
        })
    }

    /// The absolute path of a directory beneath the workspace.
    pub(crate) async fn directory(&self, path: String) -> Result<PathBuf, Refusal> {
        self.run(move |root| {
            let directory = root.open_directory(&root::relative(&path)?)?;
            rustix::fs::readlink(
                format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&directory)),
                Vec::new(),
            )
            .map(|p| PathBuf::from(p.to_string_lossy().into_owned()))
            .map_err(|e| Refusal::from_errno(e, &path))
        })
        .await
    }

    /// A listing or a file's content, as JSON.
    async fn ask(&self, question: Question) -> Result<bytes::Bytes, Refusal> {
        self.questions.ask(question, &self.root, &self.pool).await
    }

    /// Does work on files as the learner, off the main thread.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let root = self.root.clone();
        self.pool.run(move || work(&root)).await
    }
}
