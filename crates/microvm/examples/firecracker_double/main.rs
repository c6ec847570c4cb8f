//! A double of Firecracker for tests: its command line, its HTTP API with its refusals, its files, sockets and tap; and
//! instead of a guest, a few hundred lines that answer ARP, ping and the guest control protocol.
//!
//! It runs where there is no KVM, starts in milliseconds and takes a few megabytes, so two hundred run at once. What it
//! accepts is checked against Firecracker's published API description (version 1.16) by `tests/firecracker_api.rs`.
//!
//! Faults, in `FIRECRACKER_DOUBLE_FAULT`, or after `--fault` (from a wrapper script, as drivers clear the environment), or
//! in the boot arguments as `double.fault=…`, several separated by commas:
//!
//! | fault | what happens |
//! |---|---|
//! | `exit` | ends at once with status 1 and a message |
//! | `hang` | runs, but its API never comes up |
//! | `deaf` | InstanceStart and snapshot loads are never answered |
//! | `die=N` | ends N milliseconds after the guest was started |
//! | `print` | prints endlessly on the console once started |
//! | `mute` | the guest prints nothing, answers no ping and never opens its control channel |
//! | `version=V` | says that it is Firecracker V |

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, missing_docs)]

mod api;
mod bodies;
mod faults;
mod guest;
mod machine;
mod network;
mod tap;

use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use faults::Faults;
use machine::Machine;

/// Firecracker's own default, see its docs/getting-started.md.
const DEFAULT_API_SOCKET: &str = "/run/firecracker.socket";

#[derive(Debug, Default)]
struct Arguments {
    id: String,
    api_socket: Option<PathBuf>,
    version: bool,
    faults: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Self, String> {
        let mut parsed = Self { id: "anonymous-instance".into(), ..Self::default() };
        let mut arguments = std::env::args().skip(1);
        while let Some(flag) = arguments.next() {
            let mut value = || {
                arguments
                    .next()
                    .ok_or(format!("The argument '{flag}' requires a value, but none was supplied."))
            };
            match flag.as_str() {
                "--id" => parsed.id = value()?,
                "--api-sock" => parsed.api_socket = Some(value()?.into()),
                "--fault" => parsed.faults.push(value()?),
                "--version" => parsed.version = true,
                "--no-seccomp" | "--boot-timer" | "--show-level" | "--show-log-origin" | "--enable-pci" => {}
                "--level"
                | "--log-path"
                | "--metrics-path"
                | "--seccomp-filter"
                | "--start-time-us"
                | "--start-time-cpu-us"
                | "--parent-cpu-time-us"
                | "--http-api-max-payload-size"
                | "--mmds-size-limit" => {
                    value()?;
                }
                other => {
                    return Err(format!(
                        "Found argument '{other}' which wasn't expected, or isn't valid in this context."
                    ));
                }
            }
        }
        let valid = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if parsed.id.is_empty() || parsed.id.len() > 64 || !parsed.id.chars().all(valid) {
            return Err(format!("Invalid instance ID: {}", parsed.id));
        }
        Ok(parsed)
    }
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(message) => {
            eprintln!("Arguments parsing error: {message}");
            return ExitCode::from(153);
        }
    };
    let environment = std::env::var("FIRECRACKER_DOUBLE_FAULT").ok();
    let faults = match Faults::parse(arguments.faults.iter().chain(environment.iter()).map(String::as_str)) {
        Ok(faults) => faults,
        Err(message) => {
            eprintln!("{message}");
            return ExitCode::from(153);
        }
    };
    if arguments.version {
        println!("Firecracker {}\n", faults.version.as_deref().unwrap_or("v1.16.1"));
        return ExitCode::SUCCESS;
    }
    if faults.exit {
        eprintln!("double: told to end at once");
        return ExitCode::FAILURE;
    }
    let socket = arguments.api_socket.unwrap_or_else(|| DEFAULT_API_SOCKET.into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        if faults.hang {
            std::future::pending::<()>().await;
        }
        let machine = Rc::new(Machine::new(arguments.id, faults));
        match api::serve(&socket, machine).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                // As Firecracker says it when the socket exists.
                eprintln!(
                    "Failed to open the API socket at: {}: {error}. Check that it is not already used.",
                    socket.display()
                );
                ExitCode::FAILURE
            }
        }
    })
}
