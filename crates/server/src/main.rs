//! The `server` binary: settings in, control plane up, signals down.

use std::process::ExitCode;

use clarateach_server::config::{Config, with_files};
use clarateach_server::{cli, start, telemetry};
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let database_url = || with_files(|name| std::env::var(name).ok()).map(|get| get("DATABASE_URL"));
    match std::env::args().nth(1).as_deref() {
        None => {}
        Some("migrate-database") => {
            let moved = database_url().map_err(|error| error.to_string());
            let moved = moved.and_then(|url| cli::migrate_database(std::env::args().skip(2), url));
            return moved.map_or_else(|error| fail(&error), |text| say(&text));
        }
        Some("--version" | "-V") => return say(&format!("server {}\n", env!("CARGO_PKG_VERSION"))),
        Some("--help" | "-h") => return say(&cli::help()),
        Some(other) => return fail(&format!("{other:?} is not an option; see server --help")),
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no threads to run on: {error}")),
    };
    match runtime.block_on(run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.to_string()),
    }
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let config = Config::read(with_files(|name| std::env::var(name).ok())?)?;
    telemetry::start_log(&config)?;
    telemetry::start_metrics();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = start(config).await?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping; seats go on running");
    running.stop().await;
    Ok(())
}

#[allow(clippy::print_stdout, reason = "this is what was asked for")]
fn say(text: &str) -> ExitCode {
    print!("{text}");
    ExitCode::SUCCESS
}

#[allow(clippy::print_stderr, reason = "there may be no log yet")]
fn fail(message: &str) -> ExitCode {
    eprintln!("server: {message}");
    ExitCode::FAILURE
}
