//! The subcommands, one file each.

pub mod completions;
pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod logs;
pub mod power;
pub mod recreate;
pub mod snapshot;
pub mod ssh;
pub mod verify_kvm;

use crate::cli::{Cli, Command};
use crate::context::Context;
use crate::failure::Failure;

/// Does what the command line says.
///
/// # Errors
/// See [`Failure`].
pub async fn run(cli: Cli) -> Result<(), Failure> {
    if let Command::Completions(completions) = &cli.command {
        completions.run();
        return Ok(());
    }
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Create(create) => create.run(&context).await,
        Command::List(list) => list.run(&context).await,
        Command::Get(get) => get.run(&context).await,
        Command::Start(start) => start.run(&context).await,
        Command::Stop(stop) => stop.run(&context).await,
        Command::Delete(delete) => delete.run(&context).await,
        Command::Ssh(ssh) => ssh.run(&context).await,
        Command::VerifyKvm(verify) => verify.run(&context).await,
        Command::Recreate(recreate) => recreate.run(&context).await,
        Command::Snapshot(snapshot) => snapshot.run(&context).await,
        Command::Logs(logs) => logs.run(&context).await,
        Command::Completions(_) => Ok(()),
    }
}
