//! What `vmctl` does: one module per subcommand in [`commands`].

pub mod cli;
pub mod commands;
pub mod context;
pub mod failure;
pub mod output;

mod confirm;
mod dry_run;
mod progress;
mod remote;
