//! `vmctl logs`

use std::time::Duration;

use clap::Args;
use clarateach_gcp::{Kind, ResourceName, gcloud};

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;

/// Print a VM's serial console.
#[derive(Debug, Args)]
pub struct Logs {
    /// The VM.
    name: ResourceName,
    /// Go on printing what comes, until interrupted.
    #[arg(long, short)]
    follow: bool,
    /// Seconds between looks, with --follow.
    #[arg(long, default_value_t = 2.0, hide = true)]
    interval: f64,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let run = DryRun::default()
                .call(context.place.serial_port_output(&self.name, 0))
                .command(gcloud::serial_port_output(&context.place, &self.name, self.follow));
            run.print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        let mut from = 0;
        loop {
            let piece = match compute.serial_port_output(&self.name, from).await {
                Ok(piece) => piece,
                Err(error) if error.kind() == Kind::NotFound && from == 0 => {
                    return Err(context.no_instance(&self.name));
                }
                // Followed to its end.
                Err(error) if error.kind() == Kind::NotFound => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let start: u64 = piece.start.as_deref().and_then(|start| start.parse().ok()).unwrap_or(from);
            if start > from && from > 0 {
                output::note(&format!("({} bytes were overwritten before they could be read)", start - from));
            }
            if !output::print_raw(piece.contents.as_deref().unwrap_or_default()) {
                return Ok(());
            }
            from = piece.next.as_deref().and_then(|next| next.parse().ok()).unwrap_or(from);
            if !self.follow {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_secs_f64(self.interval.clamp(0.01, 60.0))).await;
        }
    }
}
