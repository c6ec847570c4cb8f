//! `vmctl verify-kvm`

use std::process::Stdio;

use clap::Args;
use clarateach_gcp::{Instance, InstanceStatus, ResourceName};
use serde_json::json;

use crate::cli::Format;
use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::remote::Way;

const LOOK: &str = "ls -la /dev/kvm";
/// What ssh ends with when it could not connect.
const NO_CONNECTION: i32 = 255;

/// Tell whether a VM has /dev/kvm: exit code 0 when it has, 9 when it has not.
#[derive(Debug, Args)]
pub struct VerifyKvm {
    /// The VM.
    name: ResourceName,
    /// How it is reached.
    #[command(flatten)]
    way: Way,
}

impl VerifyKvm {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let name = &self.name;
        if context.dry_run {
            DryRun::default()
                .command(self.way.gcloud(context, name, ""))
                .command(format!("{LOOK}  # Should exist"))
                .print(context);
            return Ok(());
        }
        let instance = context.instance(&context.compute()?, name).await?;
        if instance.status() != InstanceStatus::Running {
            return Err(Failure::Other(format!(
                "{name} is {}; start it first: vmctl start {name}",
                instance.status()
            )));
        }
        let remote: Vec<String> = LOOK.split(' ').map(str::to_owned).collect();
        let command = self.way.command(context, name, Some(&instance), &remote)?;
        let program = command.get_program().display().to_string();
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        let output = command.output().await.map_err(|error| Failure::Other(format!("{program}: {error}")))?;
        let listing = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match output.status.code() {
            Some(0) => {
                match context.format {
                    Format::Json => output::print_json(&json!({"name": name.as_str(), "kvm": true})),
                    Format::Table => {
                        output::print(&listing);
                        output::print(&format!("{name} has /dev/kvm: microVMs can run there"));
                    }
                }
                Ok(())
            }
            Some(NO_CONNECTION) | None => Err(Failure::Other(format!(
                "{program} could not reach {name}; a VM that has just been started needs a minute, and port 22 has to be open \
                 (vmctl logs {name} shows its console)"
            ))),
            // `ls` ends with 2 for a file that is not there.
            Some(2) => {
                if context.format == Format::Json {
                    output::print_json(&json!({"name": name.as_str(), "kvm": false}));
                }
                Err(Failure::NoKvm(format!("{name} has no /dev/kvm: {}", way_out(&instance, name))))
            }
            Some(status) => Err(Failure::Other(format!("{program} ended with status {status}"))),
        }
    }
}

fn way_out(instance: &Instance, name: &ResourceName) -> String {
    if !instance.nested_virtualization() {
        return format!(
            "it was made without nested virtualisation, which can't be switched on later. Make it anew from a snapshot of its disk: \
             vmctl recreate {name}"
        );
    }
    format!(
        "though nested virtualisation is on ({}); is the image's kernel without kvm_intel? Try `sudo modprobe kvm_intel` there",
        instance.machine_type_name()
    )
}
