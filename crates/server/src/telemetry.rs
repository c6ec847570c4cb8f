//! The log and the measurements.

use std::io::IsTerminal;
use std::sync::OnceLock;

use clarateach_runtime::Capacity;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::config::{Config, ConfigError, LogFormat};

static PROMETHEUS: OnceLock<PrometheusHandle> = OnceLock::new();

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// From a call to a ready seat: a container in less than a second, an image that has to be pulled in minutes.
const SEAT_READY: &str = "clarateach_seat_ready_seconds";
const UNTIL_READY: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];

/// Starts the log as the settings say.
///
/// # Errors
/// When `RUST_LOG` is not a filter.
pub fn start_log(config: &Config) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.log_filter).map_err(|error| ConfigError {
        variable: "RUST_LOG",
        problem: format!("{error}; it takes a filter such as info or clarateach_server=debug"),
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first log.
    let _ = match config.log_format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Starts to measure.
pub fn start_metrics() {
    let builder = PrometheusBuilder::new();
    let builder = builder
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Full(SEAT_READY.to_owned()), UNTIL_READY))
        .unwrap_or_default();
    if let Ok(handle) = builder.install_recorder() {
        let _ = PROMETHEUS.set(handle);
    }
    metrics::describe_counter!("clarateach_joins_total", "Joins by outcome.");
    metrics::describe_counter!("clarateach_seat_failures_total", "Seats that could not be made.");
    metrics::describe_histogram!("clarateach_http_seconds", "Time to answer, by route and status.");
    metrics::describe_histogram!("clarateach_reconcile_seconds", "Time of one look of the reconciler.");
    metrics::describe_histogram!(SEAT_READY, "Time from the first call for a seat until it was seen ready.");
    metrics::describe_histogram!("clarateach_store_seconds", "Time of calls to the database, by operation.");
    metrics::describe_gauge!("clarateach_seats", "Seats by state.");
    metrics::describe_gauge!("clarateach_workshops", "Workshops there are.");
    metrics::describe_gauge!("clarateach_waiting", "Learners in line.");
    metrics::describe_gauge!("clarateach_workers", "Workers by state.");
    metrics::describe_gauge!("clarateach_worker_seats", "Seats that a worker has or may have.");
    metrics::describe_histogram!("clarateach_worker_call_seconds", "Time of calls to workers, by call.");
    metrics::describe_gauge!("clarateach_leases_held", "Shards of the reconciler that this server holds.");
    metrics::describe_gauge!("clarateach_placements", "Seats that workers have or may have, in all.");
    metrics::describe_gauge!("clarateach_replicas", "Servers on this database that are alive.");
    metrics::describe_gauge!("clarateach_fleet_machines", "Machines on GCP that the fleet has.");
    metrics::describe_gauge!("clarateach_fleet_problems", "Things that do not work with them.");
    metrics::describe_gauge!("clarateach_connected_sessions", "Sessions with a stream open.");
    metrics::describe_gauge!("clarateach_capacity", "Environments that fit, by runtime.");
    metrics::describe_gauge!("clarateach_capacity_used", "Environments there are, by runtime.");
    metrics::describe_gauge!("clarateach_uptime_seconds", "Since the server's start.");
    metrics::describe_gauge!(
        "clarateach_gateway_streams",
        "Requests and streams to seats under way, by kind."
    );
    metrics::describe_counter!(
        "clarateach_gateway_bytes_total",
        "Bytes of upgraded streams, by where they went to: client or seat."
    );
}

/// Sets the gauges to what is so now.
pub async fn gauges(app: &App) {
    metrics::gauge!("clarateach_uptime_seconds").set(app.started.elapsed().as_secs_f64());
    for runtime in &app.runtimes.all() {
        // One that does not answer holds nothing that could be given out.
        let capacity = runtime.capacity().await.unwrap_or(Capacity { total: 0, used: 0 });
        let kind = runtime.kind().as_str();
        metrics::gauge!("clarateach_capacity", "runtime" => kind).set(f64::from(capacity.total));
        metrics::gauge!("clarateach_capacity_used", "runtime" => kind).set(f64::from(capacity.used));
    }
    for (health, count) in app.fleet.healths() {
        metrics::gauge!("clarateach_workers", "state" => health.as_str()).set(f64::from(count));
    }
    for (worker, seats) in app.fleet.seats_by_worker() {
        metrics::gauge!("clarateach_worker_seats", "worker" => worker).set(f64::from(seats));
    }
    if let Some(settings) = &app.config.scaling {
        let fleet = app.scaling.view(settings);
        let problems = u32::try_from(fleet.problems.len()).unwrap_or(u32::MAX);
        // Servers whose turn it isn't know of none.
        metrics::gauge!("clarateach_fleet_machines").set(f64::from(fleet.machines.unwrap_or(0)));
        metrics::gauge!("clarateach_fleet_problems").set(f64::from(problems));
    }
    let (held, replicas) = app.leases.held();
    metrics::gauge!("clarateach_leases_held").set(f64::from(u32::try_from(held.len()).unwrap_or(0)));
    metrics::gauge!("clarateach_replicas").set(f64::from(replicas));
    let Ok(workshops) = app.store.workshops(None).await else { return };
    let sum = |of: fn(&clarateach_store::WorkshopCounts) -> u32| {
        f64::from(workshops.iter().map(|(_, counts)| of(counts)).sum::<u32>())
    };
    metrics::gauge!("clarateach_seats", "state" => "pending").set(sum(|c| c.pending));
    metrics::gauge!("clarateach_seats", "state" => "starting").set(sum(|c| c.starting));
    metrics::gauge!("clarateach_seats", "state" => "ready").set(sum(|c| c.ready));
    metrics::gauge!("clarateach_seats", "state" => "occupied").set(sum(|c| c.occupied));
    metrics::gauge!("clarateach_seats", "state" => "unreachable").set(sum(|c| c.unreachable));
    metrics::gauge!("clarateach_seats", "state" => "failed").set(sum(|c| c.failed));
    metrics::gauge!("clarateach_waiting").set(sum(|c| c.waiting));
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    {
        metrics::gauge!("clarateach_workshops").set(workshops.len() as f64);
        metrics::gauge!("clarateach_connected_sessions").set(app.gateway.connected().len() as f64);
        metrics::gauge!("clarateach_placements").set(app.fleet.placements() as f64);
    }
}

/// All measurements in Prometheus' text format.
#[must_use]
pub fn render() -> String {
    PROMETHEUS.get().map(PrometheusHandle::render).unwrap_or_default()
}
