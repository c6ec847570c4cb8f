//! The worker itself: health, what it is, drain, measurements.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::{Extension, Json};
use clarateach_api::agent::{Drain, DrainBody, HostView, MemoryView, WorkerHealth, WorkerInfo};
use clarateach_ids::InstallationId;

use super::extract::JsonBody;
use super::reply::{BodyRefused, Failure, Refused};
use crate::app::App;
use crate::telemetry;

/// The agent is alive. Open to anyone.
#[utoipa::path(get, path = "/health", tag = "worker", responses((status = 200, body = WorkerHealth)))]
pub(super) async fn health(State(app): State<Arc<App>>) -> Json<WorkerHealth> {
    let capacity = app.host.runtime().capacity().await;
    Json(WorkerHealth {
        status: "ok".to_owned(),
        worker_id: app.worker_id.clone(),
        vm_count: capacity.as_ref().map_or(0, |capacity| capacity.used),
        capacity: capacity.as_ref().map_or(app.config.vmm.capacity, |capacity| capacity.total),
        uptime_seconds: app.started.elapsed().as_secs(),
    })
}

/// What this worker is and has.
#[utoipa::path(get, path = "/info", tag = "worker", responses((status = 200, body = WorkerInfo), Refused))]
pub(super) async fn info(State(app): State<Arc<App>>) -> Result<Json<WorkerInfo>, Failure> {
    let runtime = app.host.runtime();
    let capacity = runtime.capacity().await?;
    let facts = app.host.facts().await;
    Ok(Json(WorkerInfo {
        worker_id: app.worker_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        vmm: facts.vmm,
        bridge: facts.bridge,
        capacity: capacity.total,
        vm_count: capacity.used,
        memory: memory(),
        images: facts.images,
        kernel_version: facts.kernel_version,
        draining: app.is_draining(),
        drained_by: app.drained_by(),
        preempted: app.is_preempted(),
        public_url: app.config.listen.public_url.as_ref().map(ToString::to_string),
        uptime_seconds: app.started.elapsed().as_secs(),
        host: host(),
        warnings: runtime.warnings().await,
    }))
}

/// proc_meminfo(5).
fn memory() -> MemoryView {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let mb = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or_default() / 1024
    };
    MemoryView { total_mb: mb("MemTotal:"), available_mb: mb("MemAvailable:") }
}

fn host() -> HostView {
    let name = rustix::system::uname();
    HostView {
        hostname: name.nodename().to_string_lossy().into_owned(),
        kernel: name.release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(u32::MAX)),
    }
}

/// Refuse new VMs from now on, or no longer. Those that are here go on, and may be restarted and removed.
#[utoipa::path(post, path = "/drain", tag = "worker", request_body = Drain, responses(
    (status = 200, body = DrainBody), Refused, BodyRefused,
))]
pub(super) async fn drain(
    State(app): State<Arc<App>>,
    caller: Option<Extension<InstallationId>>,
    JsonBody(wish): JsonBody<Drain>,
) -> Result<Json<DrainBody>, Failure> {
    app.set_draining(wish.draining, caller.map(|Extension(caller)| caller))?;
    tracing::info!(draining = wish.draining, "drain");
    let capacity = app.host.runtime().capacity().await?;
    Ok(Json(DrainBody { draining: app.is_draining(), vm_count: capacity.used }))
}

/// Measurements for Prometheus. Also opened by METRICS_TOKEN.
#[utoipa::path(get, path = "/metrics", tag = "worker", responses(
    (status = 200, content_type = "text/plain", body = String), Refused,
))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    telemetry::gauges(&app).await;
    ([("content-type", "text/plain; version=0.0.4")], telemetry::render(&app))
}
