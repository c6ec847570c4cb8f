//! `vmctl create`

use std::path::PathBuf;

use clap::Args;
use clarateach_gcp::{
    Boot, Compute, Image, InstanceSpec, InstanceStatus, Label, MachineType, ResourceName, StartupFrom, gcloud,
};
use secrecy::SecretString;

use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::progress::complete;

/// Create a worker VM with nested virtualisation.
#[derive(Debug, Args)]
pub struct Create {
    /// The VM's name.
    name: ResourceName,
    /// What the VM is like.
    #[command(flatten)]
    shape: Shape,
    /// Family of the image to boot.
    #[arg(long, default_value = "debian-12", value_name = "FAMILY")]
    image_family: ResourceName,
    /// Project that publishes the image.
    #[arg(long, default_value = "debian-cloud", value_name = "PROJECT")]
    image_project: ResourceName,
    /// Make the boot disk of this snapshot instead.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["image_family", "image_project"])]
    from_snapshot: Option<ResourceName>,
    /// A file with the token that the VM's agent takes.
    #[arg(long, value_name = "FILE")]
    agent_token_file: Option<PathBuf>,
    /// Install and start the agent at boot: https:// or gs:// URL of an archive, see docs/gcp.md.
    #[arg(long, value_name = "URL", requires = "agent_token_file")]
    release: Option<String>,
    /// The archive's SHA-256; nothing else is installed then.
    #[arg(long, value_name = "HEX", requires = "release")]
    release_sha256: Option<String>,
    /// Give the VM no address on the internet.
    #[arg(long)]
    no_external_ip: bool,
    /// The network; default unless given.
    #[arg(long, value_name = "NAME")]
    network: Option<ResourceName>,
    /// A subnetwork of the zone's region.
    #[arg(long, value_name = "NAME")]
    subnetwork: Option<ResourceName>,
    /// A label; may be given several times.
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<Label>,
    /// A network tag, for firewall rules; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<ResourceName>,
    /// The service account that the VM is; the project's default unless given.
    #[arg(long, value_name = "ADDRESS")]
    service_account: Option<String>,
    /// An OAuth scope of that account; may be given several times.
    #[arg(long = "scope", value_name = "URL")]
    scopes: Vec<String>,
}

/// What a VM is like; `create` and `recreate` take the same.
#[derive(Debug, Clone, Args)]
pub struct Shape {
    /// N1, N2 or C2: only they have nested virtualisation.
    #[arg(long, default_value_t = MachineType::default(), value_name = "TYPE")]
    pub machine_type: MachineType,
    /// The boot disk's size in GB; 50 unless given, and with `recreate` never less than it had.
    #[arg(long, value_name = "GB", value_parser = clap::value_parser!(u32).range(10..=65_536))]
    pub disk_size: Option<u32>,
    /// A VM that is not preempted, at the full price; else Spot.
    #[arg(long)]
    pub standard: bool,
}

impl Shape {
    pub(crate) fn spec(&self, name: ResourceName) -> InstanceSpec {
        let mut spec = InstanceSpec::new(name, self.machine_type.clone());
        spec.disk_gb = self.disk_size.unwrap_or(spec.disk_gb);
        spec.spot = !self.standard;
        spec
    }
}

impl Create {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let spec = self.spec()?;
        let call = context.place.insert_instance(&spec);
        if context.dry_run {
            DryRun::default().call(call).command(gcloud::create(&context.place, &spec)).print(context);
            return Ok(());
        }
        let compute = context.compute()?;
        check_free(context, &compute, &spec.name).await?;
        complete(&compute, &call, &format!("creating {}", spec.name)).await?;
        finish(context, &compute, &spec.name).await
    }

    fn spec(self) -> Result<InstanceSpec, Failure> {
        let mut spec = self.shape.spec(self.name);
        spec.boot = match self.from_snapshot {
            Some(snapshot) => Boot::Snapshot(snapshot),
            None => Boot::Image(Image {
                family: self.image_family.to_string(),
                project: self.image_project.to_string(),
            }),
        };
        spec.external_ip = !self.no_external_ip;
        spec.network = self.network;
        spec.subnetwork = self.subnetwork;
        spec.labels = self.labels.into_iter().map(|label| (label.key, label.value)).collect();
        spec.tags = self.tags.iter().map(ToString::to_string).collect();
        spec.service_account = self.service_account;
        spec.scopes = (!self.scopes.is_empty()).then_some(self.scopes);
        spec.agent_token = self.agent_token_file.map(token).transpose()?;
        if let Some(url) = self.release {
            if !url.starts_with("https://") && !url.starts_with("gs://") {
                return Err(Failure::Usage(format!("--release: {url} is neither https:// nor gs://")));
            }
            let hex = |sum: &String| sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
            if self.release_sha256.as_ref().is_some_and(|sum| !hex(sum)) {
                return Err(Failure::Usage("--release-sha256 takes 64 hexadecimal digits".to_owned()));
            }
            spec.startup =
                Some(StartupFrom { url, sha256: self.release_sha256.map(|sum| sum.to_lowercase()) });
        }
        Ok(spec)
    }
}

fn token(path: PathBuf) -> Result<SecretString, Failure> {
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Failure::Usage(format!("--agent-token-file: {}: {error}", path.display())))?;
    let token = text.trim();
    if token.len() < 16 || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        let why = "a token has at least 16 characters, without blanks; make one with `openssl rand -hex 32`";
        return Err(Failure::Usage(format!("--agent-token-file: {}: {why}", path.display())));
    }
    Ok(token.to_owned().into())
}

/// Says so before anything is made. A disk of that name would, by the API's own description, be taken as it is.
async fn check_free(context: &Context, compute: &Compute, name: &ResourceName) -> Result<(), Failure> {
    let zone = &context.place.zone;
    if compute.instance(name).await?.is_some() {
        return Err(Failure::Exists(format!("there is a VM {name} in {zone} already")));
    }
    if compute.disk(name).await?.is_some() {
        return Err(Failure::Exists(format!(
            "there is a disk {name} in {zone} already, left over from another VM; delete it, or take another name"
        )));
    }
    Ok(())
}

/// Prints what was made, and says so when it does not run.
pub(crate) async fn finish(context: &Context, compute: &Compute, name: &ResourceName) -> Result<(), Failure> {
    let instance = context.instance(compute, name).await?;
    let status = instance.status();
    context.print_instance(compute, name).await?;
    if status == InstanceStatus::Running {
        return Ok(());
    }
    output::note(&format!(
        "{name} was made and is {status} already: Google has preempted it, or somebody has stopped it. `vmctl start {name}` starts it"
    ));
    Ok(())
}
