//! The part of the fleet that is made on Compute Engine as seats need it, and deleted when they don't.
//!
//! `clarateach_gcp::fleet` decides what is to be done and does it; here it is told what it can't see (who the workers are,
//! their seats, how many seats find no room), and what it does is made known to the registry. Nothing is remembered that
//! could not be found out again but for how long things have been as they are: a server that is killed anywhere finds what
//! it made by the installation's label. Of several servers one does this at a time, by the lease [`LEASE`].

mod act;
mod need;
mod scaler;
mod sight;
mod trouble;
mod underway;
mod unhelped;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clarateach_api::FleetView;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use self::scaler::Scaler;
use super::App;
use super::leases::RENEWAL;
use crate::config::Scaling;

/// Held by the server that does this.
pub const LEASE: &str = "scaling";
/// How often is looked when nothing happens.
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks, also when seats ask for them.
const BREATH: Duration = Duration::from_secs(2);

/// What is said of the fleet, and to it.
#[derive(Debug, Default)]
pub struct Bulletin {
    wake: Notify,
    said: Mutex<Said>,
}

#[derive(Debug, Default)]
struct Said {
    machines: Option<u32>,
    problems: BTreeSet<String>,
}

impl Bulletin {
    /// Seats find no room, or may not.
    pub fn ask(&self) {
        self.wake.notify_one();
    }

    /// As it is shown.
    #[must_use]
    pub fn view(&self, settings: &Scaling) -> FleetView {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        FleetView {
            min: settings.min,
            max: settings.max,
            machines: said.machines,
            problems: said.problems.iter().cloned().collect(),
        }
    }

    /// What the last look came to; what is new is logged, once.
    fn post(&self, machines: Option<u32>, problems: BTreeSet<String>) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems.difference(&said.problems) {
            tracing::warn!("the fleet of workers: {problem}");
        }
        said.machines = machines.or(said.machines);
        said.problems = problems;
    }

    /// Another server looks after the fleet.
    fn clear(&self) {
        *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Said::default();
    }
}

/// Looks after the fleet until `stop`, whenever it is this server's turn.
pub async fn run(app: Arc<App>, settings: Scaling, stop: CancellationToken) {
    let (turn, mut is_mine) = watch::channel(false);
    let keeping = keep_lease(&app, &turn);
    let working = async {
        let mut scaler = Scaler::new(Arc::clone(&app), settings, is_mine.clone());
        loop {
            if is_mine.wait_for(|mine| *mine).await.is_err() {
                return;
            }
            scaler.round().await;
            let asked = async {
                tokio::time::sleep(BREATH).await;
                tokio::select! {
                    () = app.scaling.wake.notified() => {}
                    () = tokio::time::sleep(PERIOD) => {}
                }
            };
            // When something has ended, what is there now is looked at at once.
            tokio::select! {
                () = scaler.ended() => {}
                () = asked => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keeping => {}
        () = working => {}
    }
}

async fn keep_lease(app: &App, turn: &watch::Sender<bool>) {
    loop {
        let mine = match app.leases.alone_for(&*app.store, LEASE, app.clock.now()).await {
            Ok(mine) => mine,
            Err(error) => {
                tracing::debug!(%error, "the lease for the fleet could not be asked for");
                false
            }
        };
        if turn.send_replace(mine) && !mine {
            app.scaling.clear();
        }
        tokio::time::sleep(RENEWAL).await;
    }
}
