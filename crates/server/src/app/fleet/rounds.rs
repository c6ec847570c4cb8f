//! What the fleet does by itself, until it is stopped: reads who the workers are, counts silence, looks for forgotten ones.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use clarateach_runtime::ImageRef;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::placement::ImageSight;
use super::runtime::prepare_on;
use super::{Fleet, lock, tombstones};

/// How often the store is asked who the workers are: other servers change that too.
const SYNC_PERIOD: Duration = Duration::from_secs(5);
/// How often silence is counted.
const PULSE_PERIOD: Duration = Duration::from_millis(500);
/// How often the store is asked who holds what, where other servers write that too.
const READING_PERIOD: Duration = Duration::from_secs(5);

impl Fleet {
    /// Keeps the fleet up to date until it is stopped.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let syncing = async {
            let mut before = None;
            loop {
                if let Err(error) = self.sync().await {
                    tracing::warn!(%error, "the workers could not be read");
                }
                let due = self.leases.are_shared() && !matches!(before, Some(at) if Instant::now() < at);
                if due {
                    before = Some(Instant::now() + READING_PERIOD);
                    if let Err(error) = self.read_placements(None).await {
                        tracing::debug!(%error, "who holds what could not be read");
                    }
                }
                tokio::time::sleep(SYNC_PERIOD).await;
            }
        };
        let counting = async {
            let mut before: BTreeMap<String, Health> = BTreeMap::new();
            loop {
                self.find_doubles();
                self.prepare_newcomers();
                let now: BTreeMap<_, _> =
                    self.members().into_iter().map(|(id, member)| (id, member.health())).collect();
                if now != before {
                    for (id, health) in &now {
                        if before.get(id).is_some_and(|before| before != health) {
                            tracing::info!(worker = %id, state = health.as_str(), "the worker's state has changed");
                        }
                    }
                    before = now;
                    self.changed();
                }
                tokio::time::sleep(PULSE_PERIOD).await;
            }
        };
        let burying = async {
            loop {
                tokio::time::sleep(tombstones::PERIOD).await;
                if let Err(error) = self.sweep_tombstones().await {
                    tracing::debug!(%error, "forgotten workers could not be looked for");
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = syncing => {}
            () = counting => {}
            () = burying => {}
        }
        self.stop.cancel();
        for member in self.members().into_values() {
            member.stop();
        }
        self.tasks.close();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.tasks.wait()).await;
    }

    /// Wakes whoever decides, whenever anything about a worker changes, until `stop`.
    pub async fn wake_on_change(&self, wake: &tokio::sync::Notify, stop: &CancellationToken) {
        let mut revision = self.around.revision.subscribe();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                changed = revision.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    wake.notify_one();
                }
            }
        }
    }

    /// Has workers that came later make the images in use ready.
    pub(super) fn prepare_newcomers(self: &Arc<Self>) {
        let images = lock(&self.images).clone();
        for (kind, image) in images {
            let image = ImageRef(image);
            for member in self.of_kind(kind) {
                let lacks = member.with(|seen| {
                    seen.takes_seats(&self.around.local) && seen.image(&image) == ImageSight::Unknown
                });
                if lacks && member.is_there() {
                    self.tasks.spawn(prepare_on(member, image.clone(), Arc::new(|_| {})));
                }
            }
        }
    }
}
