//! `vmctl completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::output;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
pub struct Completions {
    /// For which.
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "vmctl", &mut script);
        output::print_raw(&String::from_utf8_lossy(&script));
    }
}
