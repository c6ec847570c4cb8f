//! `vmctl start` and `vmctl stop`

use clap::Args;
use clarateach_gcp::{InstanceStatus, ResourceName, gcloud};

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::progress::complete;

/// Start stopped VMs.
#[derive(Debug, Args)]
pub struct Start {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ResourceName>,
}

/// Stop VMs; their disks stay.
#[derive(Debug, Args)]
pub struct Stop {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ResourceName>,
}

impl Start {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let run = self.names.iter().fold(DryRun::default(), |run, name| {
                run.call(context.place.start_instance(name)).command(gcloud::instance(
                    &context.place,
                    "start",
                    name,
                ))
            });
            run.print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        for name in &self.names {
            let found = context.instance(&compute, name).await?.status();
            if found == InstanceStatus::Running {
                output::note(&format!("{name} runs already"));
                continue;
            }
            if found == InstanceStatus::Suspended {
                let zone = &context.place.zone;
                return Err(Failure::Other(format!(
                    "{name} is suspended: it goes on with `gcloud compute instances resume {name} --zone={zone}`"
                )));
            }
            if !found.is_stopped() {
                let why = format!(
                    "{name} is {found}; it can be started when it has stopped: try again in a minute"
                );
                return Err(Failure::Other(why));
            }
            complete(&compute, &context.place.start_instance(name), &format!("starting {name}")).await?;
            context.print_instance(&compute, name).await?;
        }
        Ok(())
    }
}

impl Stop {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let run = self.names.iter().fold(DryRun::default(), |run, name| {
                run.call(context.place.stop_instance(name)).command(gcloud::instance(
                    &context.place,
                    "stop",
                    name,
                ))
            });
            run.print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        for name in &self.names {
            if context.instance(&compute, name).await?.status().is_stopped() {
                output::note(&format!("{name} is stopped already"));
                continue;
            }
            complete(&compute, &context.place.stop_instance(name), &format!("stopping {name}")).await?;
            context.print_instance(&compute, name).await?;
        }
        Ok(())
    }
}
