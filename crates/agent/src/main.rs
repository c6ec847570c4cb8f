//! The `agent` binary: settings in, VMs served, signals down.

use std::process::ExitCode;

use clap::Parser;
use clarateach_agent::cli::{Cli, Command, fail, say};
use clarateach_agent::config::Config;
use clarateach_agent::{doctor, listen, open, remove_network, start, telemetry};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads to run on: {error}")),
    };
    let config = Config::read(|name| std::env::var(name).ok());
    match cli.command {
        Some(Command::Doctor { format }) => {
            let report = runtime.block_on(doctor::examine(config));
            say(&report.print(format));
            report.exit_code()
        }
        Some(Command::RemoveNetwork) => exit(runtime.block_on(remove(config))),
        None => exit(runtime.block_on(run(config))),
    }
}

fn exit(outcome: Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

async fn remove(
    config: Result<Config, impl std::error::Error + 'static>,
) -> Result<(), Box<dyn std::error::Error>> {
    Ok(remove_network(&config?).await?)
}

async fn run(
    config: Result<Config, impl std::error::Error + 'static>,
) -> Result<(), Box<dyn std::error::Error>> {
    let config = config?;
    telemetry::start_log(&config.log)?;
    telemetry::start_metrics();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    // Whoever reloads an agent that has no certificate to read again ends nothing.
    let _hangup = signal(SignalKind::hangup())?;
    let token = config.access.token.obtain().await?;
    let listener = listen(&config).await?;
    let (state, host) = open(&config).await?;
    let running = start(config, token, listener, state, host).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; VMs go on running");
    running.stop().await;
    Ok(())
}
