//! Threads that the kernel takes for the learner where files are concerned.
//!
//! File system ids, groups and capabilities belong to a thread. The real ids stay ours, so that the learner can't
//! signal or trace these threads.

use std::{
    io,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};
use tokio::sync::oneshot;

use crate::{http::Refusal, learner::Learner};

/// Threads; file work rarely waits, and there may be few cores.
const THREADS: usize = 2;

type Job = Box<dyn FnOnce() + Send>;

/// What a thread must become.
#[derive(Clone, Debug)]
struct Identity {
    uid: u32,
    gid: u32,
    groups: Vec<rustix::process::Gid>,
}

impl Identity {
    /// Makes the calling thread the learner for good.
    fn assume(&self) -> io::Result<()> {
        set_thread_groups(&self.groups)?;
        setfsgid(Gid::from_raw(self.gid));
        setfsuid(Uid::from_raw(self.uid));
        // setfsuid(2) reports no failure but tells the id that was there before.
        if setfsuid(Uid::from_raw(self.uid)).as_raw() != self.uid {
            return Err(io::Error::other("the kernel did not change the file system uid"));
        }
        let none = CapabilitySet::empty();
        Ok(set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?)
    }
}

/// The threads and the way to them.
#[derive(Debug)]
pub(super) struct Pool {
    jobs: mpsc::Sender<Job>,
    identity: Option<Identity>,
}

impl Pool {
    pub(super) fn start(learner: &Learner) -> io::Result<Pool> {
        let identity = learner.drops.then(|| Identity {
            uid: learner.uid,
            gid: learner.gid,
            groups: learner.groups.iter().map(|g| rustix::process::Gid::from_raw(*g)).collect(),
        });
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..THREADS {
            let queue = queue.clone();
            spawn(identity.clone(), move || {
                loop {
                    let job = queue.lock().ok().and_then(|q| q.recv().ok());
                    match job {
                        Some(job) => job(),
                        None => return,
                    }
                }
            })?;
        }
        Ok(Pool { jobs, identity })
    }

    /// Runs a job on one of the threads.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.submit(move || drop(answer.send(work())))?;
        answered.await.map_err(|e| Refusal::internal(&e))?
    }

    /// Lets a job be done on one of the threads.
    pub(super) fn submit(&self, job: impl FnOnce() + Send + 'static) -> Result<(), Refusal> {
        self.jobs.send(Box::new(job)).map_err(|e| Refusal::internal(&e))
    }

    /// Runs something on a thread of its own and waits for it.
    pub(super) fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = mpsc::channel();
        self.detached(move || drop(answer.send(work())))?;
        answered.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended early")))
    }

    /// Runs something long on a thread of its own.
    pub(super) fn detached(&self, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        spawn(self.identity.clone(), work)
    }
}

/// Returns once the thread has become the learner, or why it couldn't.
fn spawn(identity: Option<Identity>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (ready, is_ready) = mpsc::channel();
    thread::Builder::new().name("files".into()).stack_size(256 << 10).spawn(move || {
        let assumed = identity.map_or(Ok(()), |i| i.assume());
        let fine = assumed.is_ok();
        let _ = ready.send(assumed);
        if fine {
            work();
        }
    })?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended before it began")))
}
