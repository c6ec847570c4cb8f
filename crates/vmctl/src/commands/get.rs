//! `vmctl get`

use clap::Args;
use clarateach_gcp::{Instance, ResourceName, gcloud, last_segment};

use crate::cli::Format;
use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;

/// Show one VM.
#[derive(Debug, Args)]
pub struct Get {
    /// The VM.
    name: ResourceName,
}

impl Get {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        if context.dry_run {
            let run = DryRun::default()
                .call(context.place.get_instance(&self.name))
                .command(gcloud::instance(&context.place, "describe", &self.name));
            run.print(context);
            return Ok(());
        }
        let instance = context.instance(&context.compute()?, &self.name).await?;
        match context.format {
            Format::Json => output::print_json(&output::without_secrets(instance)),
            Format::Table => output::print(&output::table(&["FIELD", "VALUE"], rows(&instance))),
        }
        Ok(())
    }
}

fn rows(instance: &Instance) -> Vec<Vec<String>> {
    let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let labels: Vec<String> =
        instance.labels.iter().flatten().map(|(key, value)| format!("{key}={value}")).collect();
    let disks: Vec<String> = instance
        .disks
        .iter()
        .flatten()
        .map(|disk| {
            let boot = if disk.boot == Some(true) { ", boot" } else { "" };
            let goes = if disk.auto_delete == Some(true) { ", goes with the VM" } else { ", stays" };
            let size = disk.disk_size_gb.as_deref().unwrap_or("?");
            format!("{} ({size} GB{boot}{goes})", last_segment(disk.source.as_deref().unwrap_or("?")))
        })
        .collect();
    let keys: Vec<&str> = instance
        .metadata
        .iter()
        .flat_map(|metadata| metadata.items.iter().flatten())
        .filter_map(|item| item.key.as_deref())
        .collect();
    let row = |field: &str, value: String| vec![field.to_owned(), value];
    vec![
        row("name", instance.name().to_owned()),
        row("zone", instance.zone_name().to_owned()),
        row("status", instance.status().to_string()),
        row("machine type", instance.machine_type_name().to_owned()),
        row("model", if instance.is_spot() { "SPOT" } else { "STANDARD" }.to_owned()),
        row("nested virtualisation", if instance.nested_virtualization() { "yes" } else { "no" }.to_owned()),
        row("internal address", or_dash(instance.internal_ip())),
        row("external address", or_dash(instance.external_ip())),
        row("disks", if disks.is_empty() { "-".to_owned() } else { disks.join("; ") }),
        row("labels", if labels.is_empty() { "-".to_owned() } else { labels.join(", ") }),
        row("metadata", if keys.is_empty() { "-".to_owned() } else { keys.join(", ") }),
        row("created", or_dash(instance.creation_timestamp.as_deref())),
        row("last started", or_dash(instance.last_start_timestamp.as_deref())),
        row("last stopped", or_dash(instance.last_stop_timestamp.as_deref())),
    ]
}
