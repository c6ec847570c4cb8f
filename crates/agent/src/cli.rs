//! The command line: what to do, and the settings table.

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::SETTINGS;

/// ClaraTeach agent: runs this host's microVMs.
#[derive(Debug, Parser)]
#[command(name = "agent", version, after_help = settings())]
pub struct Cli {
    /// What to do; without it the agent runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What else there is to do than to run.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Checks whether this host can run VMs with these settings, and says how to mend what is broken
    Doctor {
        /// How the findings are printed
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
    /// Removes the bridge, taps and firewall rules of an agent with these settings; refused while it or a VM runs
    RemoveNetwork,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// `{"ok":…,"checks":[…]}`.
    Json,
}

fn settings() -> String {
    let mut text = String::from("Settings come from the environment:\n");
    for (name, default, meaning) in SETTINGS {
        text.push_str(&format!("  {name:<18} {meaning} [default: {default}]\n"));
    }
    text
}

/// Prints what was asked for.
#[allow(clippy::print_stdout, reason = "this is what was asked for")]
pub fn say(text: &str) {
    print!("{text}");
}

/// Says why it did not work.
#[allow(clippy::print_stderr, reason = "there may be no log yet")]
pub fn fail(message: &str) -> ExitCode {
    eprintln!("agent: {message}");
    ExitCode::FAILURE
}
