//! `vmctl delete`

use clap::Args;
use clarateach_gcp::{Compute, Instance, Kind, ResourceName, gcloud, last_segment};

use crate::confirm::confirm;
use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::progress::complete;

/// Delete VMs and their boot disks.
#[derive(Debug, Args)]
pub struct Delete {
    /// The VMs.
    #[arg(required = true, value_name = "NAME")]
    names: Vec<ResourceName>,
}

impl Delete {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let run = self.names.iter().fold(DryRun::default(), |run, name| {
                run.call(context.place.delete_instance(name)).command(gcloud::delete(&context.place, name))
            });
            run.print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        // A name that is wrong is told before anything is deleted.
        let mut instances = Vec::new();
        for name in &self.names {
            instances.push((name, context.instance(&compute, name).await?));
        }
        for (name, instance) in instances {
            let what =
                format!("{name} in {} will be deleted: {}", context.place.zone, fate_of_disks(&instance));
            confirm(context, &what, name.as_str()).await?;
            match complete(&compute, &context.place.delete_instance(name), &format!("deleting {name}")).await
            {
                Ok(_) => {}
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            check_gone(&compute, name, &instance).await?;
        }
        Ok(())
    }
}

/// Deleted is what is gone: the instance, and the disks that go with it.
async fn check_gone(compute: &Compute, name: &ResourceName, was: &Instance) -> Result<(), Failure> {
    if compute.instance(name).await?.is_some_and(|instance| instance.id == was.id) {
        return Err(Failure::Other(format!("{name} is still there, though Google says it is deleted")));
    }
    for disk in was.disks.iter().flatten() {
        let Ok(disk_name) = last_segment(disk.source.as_deref().unwrap_or_default()).parse::<ResourceName>()
        else {
            continue;
        };
        match (disk.auto_delete == Some(true), compute.disk(&disk_name).await?.is_some()) {
            (true, true) => {
                return Err(Failure::Other(format!(
                    "{name} is gone, but its disk {disk_name} is still there"
                )));
            }
            (false, true) => output::note(&format!("the disk {disk_name} stays, and costs")),
            (_, false) => {}
        }
    }
    Ok(())
}

fn fate_of_disks(instance: &Instance) -> String {
    let fates: Vec<String> = instance
        .disks
        .iter()
        .flatten()
        .map(|disk| {
            let name = last_segment(disk.source.as_deref().unwrap_or("?"));
            if disk.auto_delete == Some(true) {
                format!("the disk {name} goes with all that is on it")
            } else {
                format!("the disk {name} stays")
            }
        })
        .collect();
    fates.join(", ")
}
