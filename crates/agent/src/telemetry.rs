//! The log and the measurements.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::OnceLock;

use clarateach_runtime::EnvironmentState;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::config::{ConfigError, Log, LogFormat};
use crate::host::PhaseTime;
use crate::routes::status;

static PROMETHEUS: OnceLock<PrometheusHandle> = OnceLock::new();

const SECONDS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const STATES: [EnvironmentState; 6] = [
    EnvironmentState::Starting,
    EnvironmentState::Ready,
    EnvironmentState::Unresponsive,
    EnvironmentState::Stopped,
    EnvironmentState::Failed,
    EnvironmentState::Removing,
];

/// Starts the log as the settings say.
///
/// # Errors
/// When `RUST_LOG` is not a filter.
pub fn start_log(settings: &Log) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&settings.filter).map_err(|error| ConfigError {
        variable: "RUST_LOG",
        problem: format!("{error}; it takes a filter such as info or clarateach_agent=debug"),
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first log.
    let _ = match settings.format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Starts to measure.
pub fn start_metrics() {
    let builder = PrometheusBuilder::new();
    let builder = match builder.set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS) {
        Ok(builder) => builder,
        Err(_) => PrometheusBuilder::new(),
    };
    if let Ok(handle) = builder.install_recorder() {
        let _ = PROMETHEUS.set(handle);
    }
    metrics::describe_gauge!("clarateach_agent_vms", "VMs by status.");
    metrics::describe_gauge!("clarateach_agent_capacity", "VMs that fit.");
    metrics::describe_gauge!("clarateach_agent_draining", "1 while no new VMs are taken.");
    metrics::describe_gauge!("clarateach_agent_uptime_seconds", "Since the agent's start.");
    metrics::describe_gauge!("clarateach_agent_resident_bytes", "The agent's own memory.");
    metrics::describe_gauge!("clarateach_agent_tunnels", "Tunnels that are open.");
    metrics::describe_gauge!("clarateach_agent_connected_sessions", "Learners with a stream open here.");
    metrics::describe_gauge!(
        "clarateach_gateway_streams",
        "Requests and streams to seats under way, by kind."
    );
    metrics::describe_counter!(
        "clarateach_gateway_bytes_total",
        "Bytes of upgraded streams, by where they went to: client or seat."
    );
    metrics::describe_counter!(
        "clarateach_agent_creates_total",
        "Creates by outcome: ok or the error's code."
    );
    metrics::describe_counter!(
        "clarateach_agent_refused_tokens_total",
        "Calls with a missing or wrong token."
    );
    metrics::describe_histogram!("clarateach_agent_http_seconds", "Time to answer, by route and status.");
    metrics::describe_histogram!("clarateach_agent_create_seconds", "Time from a create to a started guest.");
}

/// Sets the gauges to what is so now.
#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub async fn gauges(app: &App) {
    let runtime = app.host.runtime();
    if let Ok(vms) = runtime.observe().await {
        let mut counts: HashMap<EnvironmentState, u32> = HashMap::new();
        for vm in &vms {
            *counts.entry(vm.state).or_default() += 1;
        }
        for state in STATES {
            let count = counts.get(&state).copied().unwrap_or_default();
            metrics::gauge!("clarateach_agent_vms", "status" => status(state)).set(f64::from(count));
        }
    }
    if let Ok(capacity) = runtime.capacity().await {
        metrics::gauge!("clarateach_agent_capacity").set(f64::from(capacity.total));
    }
    metrics::gauge!("clarateach_agent_draining").set(f64::from(u8::from(app.is_draining())));
    metrics::gauge!("clarateach_agent_uptime_seconds").set(app.started.elapsed().as_secs_f64());
    metrics::gauge!("clarateach_agent_connected_sessions").set(app.gateway.connected().len() as f64);
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("clarateach_agent_resident_bytes").set(bytes as f64);
    }
}

/// `VmRSS` of proc_pid_status(5).
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// All measurements in Prometheus' text format.
#[must_use]
pub fn render(app: &App) -> String {
    let mut text = PROMETHEUS.get().map(PrometheusHandle::render).unwrap_or_default();
    // Counted where VMs are made, in buckets of its own.
    phases(&mut text, &app.host.times());
    text
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a phase are far below 2^52")]
fn phases(text: &mut String, times: &[PhaseTime]) {
    const NAME: &str = "clarateach_agent_phase_seconds";
    if times.is_empty() {
        return;
    }
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("# HELP {NAME} Time of each phase of making a VM."));
    line(format!("# TYPE {NAME} histogram"));
    for PhaseTime { phase, count, sum, buckets } in times {
        for (micros, below) in buckets {
            line(format!("{NAME}_bucket{{phase=\"{phase}\",le=\"{}\"}} {below}", *micros as f64 / 1e6));
        }
        line(format!("{NAME}_bucket{{phase=\"{phase}\",le=\"+Inf\"}} {count}"));
        line(format!("{NAME}_sum{{phase=\"{phase}\"}} {}", sum.as_secs_f64()));
        line(format!("{NAME}_count{{phase=\"{phase}\"}} {count}"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn phases_are_a_histogram() {
        let sum = Duration::from_micros(300);
        let times = [PhaseTime { phase: "disk", count: 2, sum, buckets: vec![(64, 0), (128, 1), (256, 2)] }];
        let mut text = String::new();
        phases(&mut text, &times);
        assert!(
            text.contains("clarateach_agent_phase_seconds_bucket{phase=\"disk\",le=\"0.000128\"} 1\n"),
            "{text}"
        );
        assert!(text.contains("clarateach_agent_phase_seconds_sum{phase=\"disk\"} 0.0003\n"), "{text}");
        assert!(text.ends_with("clarateach_agent_phase_seconds_count{phase=\"disk\"} 2\n"), "{text}");
    }
}
