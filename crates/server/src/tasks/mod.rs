//! What runs without being called. Each task is idempotent and goes on after a failure.

mod keys;
mod presence;
mod replicas;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::app::reconcile::Reconciler;

/// How often addresses that have been quiet are forgotten.
const SWEEP_PERIOD: Duration = Duration::from_secs(300);

/// Starts all tasks on `tracker`; they end with `stop`.
pub fn spawn(app: &Arc<App>, tracker: &TaskTracker, stop: &CancellationToken) {
    tracker.spawn(Arc::clone(&app.fleet).run(stop.clone()));
    tracker.spawn(Reconciler::new(Arc::clone(app)).run(stop.clone()));
    if app.leases.are_shared() {
        tracker.spawn(replicas::keep_leases(Arc::clone(app), stop.clone()));
        tracker.spawn(replicas::heed(Arc::clone(app), stop.clone()));
    }
    if let Some(settings) = app.config.scaling.clone() {
        tracker.spawn(crate::app::scaling::run(Arc::clone(app), settings, stop.clone()));
    }
    let keys = Arc::clone(app);
    tracker.spawn(every(crate::app::signer::ROTATION_PERIOD, stop.clone(), move || {
        keys::rotate(Arc::clone(&keys))
    }));
    let presence = Arc::clone(app);
    tracker.spawn(every(presence::PERIOD, stop.clone(), move || presence::note(Arc::clone(&presence))));
    let sweep = Arc::clone(app);
    tracker.spawn(every(SWEEP_PERIOD, stop.clone(), move || {
        let app = Arc::clone(&sweep);
        async move { app.throttle.sweep() }
    }));
}

async fn every<F: Future<Output = ()>>(period: Duration, stop: CancellationToken, run: impl Fn() -> F) {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(period) => run().await,
        }
    }
}
