//! The admin's view of everything.

use clarateach_api::{AdminOverview, AdminVm, AdminVmsBody, RuntimeView};
use clarateach_lifecycle::WorkshopStatus;
use clarateach_runtime::EnvironmentState;

use super::App;
use super::error::AppError;

const fn state_word(state: EnvironmentState) -> &'static str {
    match state {
        EnvironmentState::Starting => "starting",
        EnvironmentState::Ready => "ready",
        EnvironmentState::Unresponsive => "unresponsive",
        EnvironmentState::Stopped => "stopped",
        EnvironmentState::Failed => "failed",
        EnvironmentState::Removing => "removing",
    }
}

impl App {
    /// The runtimes and how much room they have.
    pub async fn runtime_views(&self) -> Vec<RuntimeView> {
        let default = self.runtimes.default().await.map(|runtime| runtime.kind());
        let mut views = Vec::new();
        for runtime in &self.runtimes.all() {
            let mut warnings = runtime.warnings().await;
            let capacity = runtime.capacity().await;
            if let Err(error) = &capacity {
                warnings.push(error.to_string());
            }
            views.push(RuntimeView {
                runtime: runtime.kind().as_str().to_owned(),
                available: capacity.is_ok(),
                capacity: capacity.as_ref().map_or(0, |c| c.total),
                used: capacity.as_ref().map_or(0, |c| c.used),
                warnings,
                default: default == Some(runtime.kind()),
            });
        }
        views
    }

    /// Every environment of every runtime; runtimes that can't be asked are named.
    pub async fn vms(&self) -> AdminVmsBody {
        let mut body = AdminVmsBody { vms: Vec::new(), unknown: Vec::new() };
        for runtime in &self.runtimes.all() {
            let remote = self.runtimes.is_remote(runtime.kind());
            match runtime.observe().await {
                Ok(environments) => body.vms.extend(environments.into_iter().map(|environment| AdminVm {
                    worker: if remote { self.fleet.worker_of(&environment.key) } else { None },
                    workshop_id: environment.key.workshop,
                    seat_id: environment.key.seat,
                    generation: environment.generation,
                    runtime: runtime.kind().as_str().to_owned(),
                    status: state_word(environment.state).to_owned(),
                    reason: environment.reason.map(|reason| reason.message),
                    address: environment.address,
                    handle: environment.handle,
                })),
                Err(error) => body.unknown.push(format!("{}: {error}", runtime.kind())),
            }
        }
        body.vms.sort_by(|a, b| (&a.workshop_id, a.seat_id).cmp(&(&b.workshop_id, b.seat_id)));
        body
    }

    /// The dashboard.
    ///
    /// # Errors
    /// When the store can't be asked.
    pub async fn overview(&self) -> Result<AdminOverview, AppError> {
        let workshops = self.store.workshops(None).await?;
        let sum =
            |of: fn(&clarateach_store::WorkshopCounts) -> u32| workshops.iter().map(|(_, c)| of(c)).sum();
        let vms = self.vms().await.vms.len();
        let (workers, usable_workers) = self.fleet.count();
        Ok(AdminOverview {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            workshops: u32::try_from(workshops.len()).unwrap_or(u32::MAX),
            running_workshops: u32::try_from(
                workshops.iter().filter(|(w, _)| w.status == WorkshopStatus::Running).count(),
            )
            .unwrap_or(u32::MAX),
            seats: workshops.iter().map(|(w, _)| w.seats).sum(),
            ready_seats: sum(|c| c.ready + c.occupied),
            learners: sum(|c| c.active),
            waiting: sum(|c| c.waiting),
            vms: u32::try_from(vms).unwrap_or(u32::MAX),
            workers,
            usable_workers,
            runtimes: self.runtime_views().await,
        })
    }
}
