//! Images being made ready, each once, with what is going on shown.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clarateach_runtime::{ImageRef, PrepareProgress, Reason, Runtime, RuntimeKind};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::plan::ImageState;

/// After a failed fetch, wait this long before the next.
const RETRY: Duration = Duration::from_secs(30);
/// The same when nobody was there to fetch it.
const RETRY_AWAY: Duration = Duration::from_secs(2);

enum Stage {
    Fetching(Option<PrepareProgress>),
    Ready,
    Failed(Reason, Instant),
}

type Stages = HashMap<(RuntimeKind, ImageRef), Stage>;

/// What is being fetched.
#[derive(Default)]
pub struct Progress {
    stages: Arc<Mutex<Stages>>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

fn lock(stages: &Mutex<Stages>) -> MutexGuard<'_, Stages> {
    stages.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// In a few words what is being done for an image, if anything is.
    #[must_use]
    pub fn of(&self, runtime: &str, image: &str) -> Option<String> {
        let kind: RuntimeKind = runtime.parse().ok()?;
        match lock(&self.stages).get(&(kind, ImageRef(image.to_owned())))? {
            Stage::Fetching(Some(PrepareProgress { step, bytes: Some((done, all)) })) => {
                Some(format!("{step}: {} of {} MB", done / 1_000_000, all / 1_000_000))
            }
            Stage::Fetching(Some(progress)) => Some(progress.step.clone()),
            Stage::Fetching(None) => Some(format!("making {image} ready")),
            Stage::Ready | Stage::Failed(..) => None,
        }
    }

    /// Makes the next look prepare the image again: it went missing.
    pub fn forget(&self, kind: RuntimeKind, image: &ImageRef) {
        lock(&self.stages).remove(&(kind, image.clone()));
    }

    /// How far the image is; starts to make it ready when nobody has, and wakes the reconciler when that is over.
    pub fn prepare(
        &self,
        runtime: &Arc<dyn Runtime>,
        image: &ImageRef,
        wake: &Arc<Notify>,
        tasks: &TaskTracker,
    ) -> ImageState {
        let key = (runtime.kind(), image.clone());
        let mut stages = lock(&self.stages);
        match stages.get(&key) {
            Some(Stage::Ready) => return ImageState::Ready,
            Some(Stage::Fetching(_)) => return ImageState::Fetching,
            Some(Stage::Failed(reason, at))
                if at.elapsed() < if reason.code == "RUNTIME_UNAVAILABLE" { RETRY_AWAY } else { RETRY } =>
            {
                return ImageState::Failed(reason.clone());
            }
            Some(Stage::Failed(..)) | None => {}
        }
        stages.insert(key.clone(), Stage::Fetching(None));
        drop(stages);
        let (stages, runtime, wake) = (Arc::clone(&self.stages), Arc::clone(runtime), Arc::clone(wake));
        tasks.spawn(async move {
            let shown = (Arc::clone(&stages), key.clone());
            let progress = Arc::new(move |step: PrepareProgress| {
                if let Some(stage @ Stage::Fetching(_)) = lock(&shown.0).get_mut(&shown.1) {
                    *stage = Stage::Fetching(Some(step));
                }
            });
            let stage = match runtime.prepare(&key.1, progress).await {
                Ok(()) => Stage::Ready,
                Err(error) => {
                    tracing::warn!(image = %key.1, %error, "the image can't be made ready");
                    Stage::Failed(error.reason(), Instant::now())
                }
            };
            lock(&stages).insert(key, stage);
            wake.notify_one();
        });
        ImageState::Fetching
    }
}
