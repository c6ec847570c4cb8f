//! Reaching a VM: by `gcloud compute ssh` where there is gcloud, else by plain ssh.

use std::path::PathBuf;
use std::process::Command;

use clarateach_gcp::gcloud::Gcloud;
use clarateach_gcp::{Instance, ResourceName, gcloud};

use crate::context::Context;
use crate::failure::Failure;

/// How a VM is reached.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Way {
    /// Go to the internal address: from within the network, or over a VPN.
    #[arg(long)]
    pub internal_ip: bool,
    /// The user on the VM; with gcloud, the one of its account unless given.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Use ssh even where there is gcloud.
    #[arg(long)]
    pub no_gcloud: bool,
}

impl Way {
    /// Whether `gcloud` will be used.
    pub(crate) fn by_gcloud(&self) -> bool {
        !self.no_gcloud && program("gcloud").is_some()
    }

    /// As a command of gcloud's.
    pub(crate) fn gcloud(&self, context: &Context, name: &ResourceName, remote: &str) -> Gcloud {
        gcloud::ssh(&context.place, name, self.user.as_deref(), self.internal_ip, remote)
    }

    /// The command that runs `remote` on the VM, or opens a shell without one. `instance` is needed without gcloud.
    pub(crate) fn command(
        &self,
        context: &Context,
        name: &ResourceName,
        instance: Option<&Instance>,
        remote: &[String],
    ) -> Result<Command, Failure> {
        let remote = remote.join(" ");
        if self.by_gcloud() {
            let mut command = Command::new("gcloud");
            command.args(self.gcloud(context, name, &remote).arguments());
            return Ok(command);
        }
        if program("ssh").is_none() {
            return Err(Failure::Other(
                "neither gcloud nor ssh is installed; install the Google Cloud CLI or openssh-client"
                    .to_owned(),
            ));
        }
        let instance = instance.ok_or_else(|| context.no_instance(name))?;
        let address = if self.internal_ip { instance.internal_ip() } else { instance.external_ip() };
        let address = address.ok_or_else(|| {
            let other = if self.internal_ip {
                ""
            } else {
                "; with --internal-ip you reach it from within its network"
            };
            Failure::Other(format!("{name} has no such address{other}"))
        })?;
        let target = match &self.user {
            Some(user) => format!("{user}@{address}"),
            None => address.to_owned(),
        };
        let mut command = Command::new("ssh");
        // The key of a VM's host is known by its name and not by an address, which the next VM may have.
        command
            .arg("-o")
            .arg(format!("HostKeyAlias=compute.{}", instance.id.as_deref().unwrap_or(name.as_str())));
        command.args(["-o", "StrictHostKeyChecking=accept-new"]).arg("--").arg(target);
        if !remote.is_empty() {
            command.arg(remote);
        }
        Ok(command)
    }
}

/// Where a program is.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}
