//! `vmctl list`

use clap::Args;
use clarateach_gcp::{Label, gcloud};

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;

/// List the project's VMs: of all zones, or of the one that --zone gives.
#[derive(Debug, Args)]
pub struct List {
    /// Only those with this label; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

impl List {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let terms: Vec<String> =
            self.labels.iter().map(|label| format!("labels.{}={}", label.key, label.value)).collect();
        let filter = (!terms.is_empty()).then(|| terms.join(" AND "));
        let (place, filter) = (&context.place, filter.as_deref());
        if context.dry_run {
            let (call, command) = if context.zone_is_given {
                (place.list_instances(filter), gcloud::list(place, filter))
            } else {
                (place.list_instances_everywhere(filter), gcloud::list_everywhere(place, filter))
            };
            DryRun::default().call(call).command(command).print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        if context.zone_is_given {
            context.print_instances(compute.instances(filter).await?);
            return Ok(());
        }
        let found = compute.instances_everywhere(filter).await?;
        context.print_instances(found.instances);
        if !found.unreachable.is_empty() {
            let zones = found.unreachable.into_iter().collect::<Vec<_>>().join(", ");
            output::note(&format!("these zones did not answer, and what they have is not listed: {zones}"));
        }
        Ok(())
    }
}
