//! `vmctl list`

use clap::Args;
use clarateach_gcp::{Label, gcloud};

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;

/// List VMs.
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
        if context.dry_run {
            let place = &context.place;
            let run = DryRun::default()
                .call(place.list_instances(filter.as_deref()))
                .command(gcloud::list(place, filter.as_deref()));
            run.print(context);
            return Ok(());
        }
        context.print_instances(context.compute()?.instances(filter.as_deref()).await?);
        Ok(())
    }
}
