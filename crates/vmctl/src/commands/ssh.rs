//! `vmctl ssh`

use std::os::unix::process::CommandExt;

use clap::Args;
use clarateach_gcp::ResourceName;

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::remote::Way;

/// Open a shell on a VM, or run a command there.
#[derive(Debug, Args)]
pub struct Ssh {
    /// The VM.
    name: ResourceName,
    /// How it is reached.
    #[command(flatten)]
    way: Way,
    /// A command to run instead of a shell.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Ssh {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let command = self.way.gcloud(context, &self.name, &self.command.join(" "));
            DryRun::default().command(command).print(context);
            return Ok(());
        }
        let instance = if self.way.by_gcloud() {
            None
        } else {
            Some(context.instance(&context.compute()?, &self.name).await?)
        };
        let mut command = self.way.command(context, &self.name, instance.as_ref(), &self.command)?;
        // It becomes that program, which then has the terminal and its signals to itself.
        let error = command.exec();
        Err(Failure::Other(format!("{}: {error}", command.get_program().display())))
    }
}
