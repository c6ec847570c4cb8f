//! A worker whose seats are not real, in two processes, so that its agent can be killed and its seats go on, as those of a
//! real worker do:
//!
//! ```text
//! simulated-worker host     the seats: an agent over the simulated runtime
//! simulated-worker agent    an agent like any other, over the seats of the host at HOST (host:port)
//! ```
//!
//! Both take the agent's own settings (`PORT`, `BIND_ADDR`, `AGENT_TOKEN`, `STATE_DIR`, `CAPACITY`, `TLS_CERT`, …) from
//! the environment. Used by the test of distributed mode and by runs at scale.

use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

use clarateach_agent::config::Config;
use clarateach_agent::host::BareHost;
use clarateach_agent::state::State;
use clarateach_agent::{listen, start, telemetry};
use clarateach_runtime::SharedRuntime;
use clarateach_runtime_simulated::{SimulatedConfig, SimulatedRuntime};
use clarateach_runtime_worker::{Worker, WorkerAddress, WorkerClient};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
#[allow(clippy::print_stderr, reason = "there may be no log yet")]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("simulated-worker: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let config = Config::read(|name| std::env::var(name).ok())?;
    telemetry::start_log(&config.log)?;
    telemetry::start_metrics();
    let mut terminate = signal(SignalKind::terminate())?;
    let token = config.access.token.obtain().await?;
    let seats: Arc<dyn SharedRuntime> = match std::env::args().nth(1).as_deref() {
        Some("host") => {
            let capacity = config.vmm.capacity;
            Arc::new(SimulatedRuntime::new(SimulatedConfig { capacity, ..SimulatedConfig::default() }))
        }
        Some("agent") => {
            let address = std::env::var("HOST")?;
            let client = WorkerClient::new(WorkerAddress { address, token: token.clone(), tls: None })?;
            // Says from then on what kind its seats are of.
            client.info().await?;
            Arc::new(client)
        }
        _ => return Err("say host or agent".into()),
    };
    let listener = listen(&config).await?;
    let state = State::open(&config.places.state)?;
    let running = start(config, token, listener, state, Arc::new(BareHost::new(seats))).await?;
    let _ = terminate.recv().await;
    running.stop().await;
    Ok(())
}
