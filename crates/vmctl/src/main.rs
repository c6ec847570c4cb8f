//! `vmctl`: worker VMs on GCP.

use std::process::ExitCode;

use clap::Parser;
use clarateach_vmctl::cli::Cli;
use clarateach_vmctl::failure::Failure;
use clarateach_vmctl::output;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(cli));
            // A prompt that waits for a line keeps a thread; it must not keep the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(Failure::Other(format!("no threads to run on: {error}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure.to_string());
            ExitCode::from(failure.exit_code())
        }
    }
}

async fn run(cli: Cli) -> Result<(), Failure> {
    tokio::select! {
        outcome = clarateach_vmctl::commands::run(cli) => outcome,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    }
}
