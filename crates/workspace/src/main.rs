//! The binary of every seat: see the library for its command line, environment and protocol.

use std::process::ExitCode;

use clarateach_workspace::{
    config::Config,
    pid1::{self, guest},
    server,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            clarateach_workspace::say(&problem.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    if guest::is_first_process() {
        guest::boot();
    }
    match std::env::args().nth(1).as_deref() {
        None | Some("serve") => serve(|| {}),
        Some("guest") => guest::live(serve),
        Some("--version") => {
            clarateach_workspace::say(concat!("workspace ", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
        Some(other) => Err(format!("unknown command {other:?}: `workspace serve` is the only one").into()),
    }
}

fn serve(listening: impl FnOnce()) -> Result<(), Box<dyn std::error::Error>> {
    pid1::close_memory()?;
    let config = Config::from_environment()?;
    pid1::scrub_environment();
    let seat = server::Seat::prepare(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .thread_stack_size(256 << 10)
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, seat.serve(listening))?;
    Ok(())
}
