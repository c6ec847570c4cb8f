//! `vmctl snapshot`

use std::collections::BTreeMap;

use clap::Args;
use clarateach_gcp::{Label, ResourceName, SnapshotStatus, gcloud, last_segment};

use crate::cli::Format;
use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::progress::complete;

/// Make a snapshot of a VM's boot disk.
#[derive(Debug, Args)]
pub struct SnapshotDisk {
    /// The VM.
    name: ResourceName,
    /// The snapshot's name; NAME-snapshot unless given.
    #[arg(long, value_name = "NAME")]
    snapshot_name: Option<ResourceName>,
    /// A label of the snapshot; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

impl SnapshotDisk {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let name = &self.name;
        let snapshot = match self.snapshot_name {
            Some(snapshot) => snapshot,
            None => format!("{name}-snapshot")
                .parse()
                .map_err(|error| Failure::Usage(format!("{error}; give --snapshot-name")))?,
        };
        let labels: BTreeMap<String, String> =
            self.labels.into_iter().map(|label| (label.key, label.value)).collect();
        if context.dry_run {
            let run = DryRun::default()
                .call(context.place.create_snapshot(name, &snapshot, &labels))
                .command(gcloud::snapshot(&context.place, name, &snapshot));
            run.print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        let instance = context.instance(&compute, name).await?;
        let disk: ResourceName = instance
            .boot_disk()
            .and_then(|disk| last_segment(disk.source.as_deref()?).parse().ok())
            .ok_or_else(|| Failure::Other(format!("{name} has no boot disk")))?;
        if !instance.status().is_stopped() {
            output::note(&format!(
                "{name} is {}: the snapshot is as after a power failure; stop it first for a disk at rest",
                instance.status()
            ));
        }
        let call = context.place.create_snapshot(&disk, &snapshot, &labels);
        complete(&compute, &call, &format!("making the snapshot {snapshot} of {disk}")).await?;
        let made = compute.snapshot(&snapshot).await?;
        let made = made.filter(|made| made.status() == SnapshotStatus::Ready).ok_or_else(|| {
            Failure::Other(format!("Google says that the snapshot {snapshot} is made, but it is not READY"))
        })?;
        match context.format {
            Format::Json => output::print_json(&made),
            Format::Table => {
                let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
                let row = vec![
                    made.name().to_owned(),
                    made.status().to_string(),
                    disk.to_string(),
                    or_dash(made.disk_size_gb.as_deref()),
                    or_dash(made.creation_timestamp.as_deref()),
                ];
                output::print(&output::table(&["NAME", "STATUS", "DISK", "SIZE_GB", "CREATED"], vec![row]));
            }
        }
        Ok(())
    }
}
