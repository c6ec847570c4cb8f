//! `vmctl recreate`: snapshot the disk, delete the VM, create it from the snapshot with nested virtualisation.
//!
//! There is no list of steps to get lost in: each time around, what is there is looked at, and [`plan::next`] says the one thing to
//! do about it. So it goes on wherever it was interrupted, and it notices when somebody else changes something meanwhile.

mod kept;
mod plan;

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use clarateach_gcp::{Boot, Call, Compute, InstanceSpec, Kind, ResourceName, gcloud, last_segment};

use self::kept::Kept;
use self::plan::{Seen, Step, Wanted};
use super::create::{Shape, finish};
use crate::confirm::confirm;
use crate::context::Context;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::output;
use crate::progress::{Progress, complete};

/// Of which VM a snapshot is.
const NAME_LABEL: &str = "clarateach-recreate";
/// And of which zone.
const ZONE_LABEL: &str = "clarateach-zone";
/// Between looks at something that changes by itself.
const PAUSE: Duration = Duration::from_secs(2);

/// Make a VM anew from a snapshot of its disk, with nested virtualisation; goes on where it was interrupted.
///
/// The VM is stopped, a snapshot is made of its boot disk, and only when that is READY the VM is deleted and created from it. Labels,
/// tags, metadata, network, service account and other disks are taken over. The snapshot stays. Run it again after an interruption, with the same
/// flags.
#[derive(Debug, Args)]
pub struct Recreate {
    /// The VM.
    name: ResourceName,
    /// What the new VM is like.
    #[command(flatten)]
    shape: Shape,
    /// The snapshot's name; NAME-snapshot, or the next that is free, unless given.
    #[arg(long, value_name = "NAME")]
    snapshot_name: Option<ResourceName>,
    /// Make it anew even if it is as wanted.
    #[arg(long)]
    force: bool,
}

impl Recreate {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        let first_name = match &self.snapshot_name {
            Some(name) => name.clone(),
            None => numbered(&self.name, 1)?,
        };
        if context.dry_run {
            self.show(context, &first_name);
            return Ok(());
        }
        let compute = context.compute()?;
        let mut work = Work {
            context,
            compute,
            name: self.name.clone(),
            shape: self.shape.clone(),
            snapshot_name: self.snapshot_name.clone(),
            kept: None,
            asked: false,
            force: self.force,
        };
        work.run().await
    }

    fn show(&self, context: &Context, snapshot: &ResourceName) {
        let (place, name) = (&context.place, &self.name);
        let mut spec = self.shape.spec(name.clone());
        spec.boot = Boot::Snapshot(snapshot.clone());
        DryRun::default()
            .call(place.stop_instance(name))
            .call(place.create_snapshot(name, snapshot, &labels(context, name)))
            .call(place.get_snapshot(snapshot))
            .call(place.delete_instance(name))
            .call(place.insert_instance(&spec))
            .step("0. Stop the VM, so that its disk is at rest", gcloud::instance(place, "stop", name))
            .step("1. Snapshot the disk", gcloud::snapshot(place, name, snapshot))
            .step("2. Delete the VM", gcloud::delete(place, name))
            .step("3. Create new VM from snapshot", gcloud::create(place, &spec))
            .print(context);
    }
}

fn labels(context: &Context, name: &ResourceName) -> BTreeMap<String, String> {
    BTreeMap::from([
        (NAME_LABEL.to_owned(), name.to_string()),
        (ZONE_LABEL.to_owned(), context.place.zone.to_string()),
    ])
}

/// `clara2-snapshot`, `clara2-snapshot-2`, …
fn numbered(name: &ResourceName, number: usize) -> Result<ResourceName, Failure> {
    let text = if number == 1 { format!("{name}-snapshot") } else { format!("{name}-snapshot-{number}") };
    text.parse().map_err(|error| Failure::Usage(format!("{error}; give --snapshot-name")))
}

struct Work<'a> {
    context: &'a Context,
    compute: Compute,
    name: ResourceName,
    shape: Shape,
    snapshot_name: Option<ResourceName>,
    /// What is taken over from the old VM.
    kept: Option<Kept>,
    /// Whether somebody has said yes.
    asked: bool,
    /// Whether it is made anew although it is as wanted; over when that has been done.
    force: bool,
}

impl Work<'_> {
    async fn run(&mut self) -> Result<(), Failure> {
        let mut waiting: Option<Progress> = None;
        loop {
            let seen = self.look().await?;
            let wanted = Wanted {
                machine_type: self.shape.machine_type.as_str(),
                spot: !self.shape.standard,
                disk_size: self.shape.disk_size,
                force: self.force,
            };
            let step = plan::next(&seen, &wanted).map_err(Failure::Other)?;
            if !matches!(step, Step::Wait(_))
                && let Some(progress) = waiting.take()
            {
                progress.done();
            }
            match step {
                Step::Wait(for_what) => {
                    let name = &self.name;
                    let progress =
                        waiting.get_or_insert_with(|| Progress::new(format!("waiting for {name}")));
                    progress.at(for_what);
                    tokio::time::sleep(pause()).await;
                }
                Step::Stop => {
                    self.ask("stopped, deleted and made anew from a snapshot of its disk").await?;
                    self.change(&self.context.place.stop_instance(&self.name), "stopping").await?;
                }
                Step::Snapshot => {
                    self.ask("deleted and made anew from a snapshot of its disk").await?;
                    self.snapshot(&seen).await?;
                }
                Step::Keep { device } => {
                    self.ask("deleted and made anew from a snapshot of its disk; its other disks stay")
                        .await?;
                    // That it goes with the VM is known only here by now.
                    self.save()?;
                    let call = self.context.place.set_disk_auto_delete(&self.name, &device, false);
                    self.change(&call, &format!("keeping the disk {device} of")).await?;
                }
                Step::Delete { snapshot } => {
                    self.ask(&format!("deleted and made anew from the snapshot {snapshot}")).await?;
                    self.delete(&snapshot).await?;
                }
                Step::Create { snapshot } => self.create(&seen, &snapshot).await?,
                Step::NothingThere => {
                    return Err(Failure::NotFound(format!(
                        "there is no VM {} in {} of {}, and no snapshot of one that recreate has made",
                        self.name, self.context.place.zone, self.context.place.project
                    )));
                }
                Step::Done => {
                    Kept::forget(&self.context.place, &self.name);
                    output::note(&format!("{} is as wanted: nested virtualisation is on", self.name));
                    return finish(self.context, &self.compute, &self.name).await;
                }
            }
        }
    }

    async fn look(&mut self) -> Result<Seen, Failure> {
        let mut instance = self.compute.instance(&self.name).await?;
        let disk_name = match &instance {
            Some(instance) => instance
                .boot_disk()
                .map(|disk| last_segment(disk.source.as_deref().unwrap_or_default()).to_owned())
                .unwrap_or_else(|| self.name.to_string()),
            None => self.name.to_string(),
        };
        let disk = match disk_name.parse::<ResourceName>() {
            Ok(disk_name) => self.compute.disk(&disk_name).await?,
            Err(_) => None,
        };
        if disk.is_none() && instance.is_some() {
            // A deletion that was begun before may have taken both since the VM was looked at.
            instance = self.compute.instance(&self.name).await?;
        }
        if let Some(instance) = &instance
            && self.kept.is_none()
        {
            let saved = Kept::load(&self.context.place, &self.name)?;
            self.kept = Some(Kept::of(instance, disk.as_ref(), saved.as_ref()));
        }
        let filter =
            format!("labels.{NAME_LABEL}={} AND labels.{ZONE_LABEL}={}", self.name, self.context.place.zone);
        let snapshots = self.compute.snapshots(Some(&filter)).await?;
        Ok(Seen { instance, disk, snapshots })
    }

    async fn ask(&mut self, what: &str) -> Result<(), Failure> {
        if !self.asked {
            let what = format!("{} in {} will be {what}", self.name, self.context.place.zone);
            confirm(self.context, &what, self.name.as_str()).await?;
            self.asked = true;
        }
        Ok(())
    }

    /// Something else may have been quicker; then the next look tells.
    async fn change(&self, call: &Call, what: &str) -> Result<(), Failure> {
        match complete(&self.compute, call, &format!("{what} {}", self.name)).await {
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::NotReady) => {
                tokio::time::sleep(pause()).await;
                Ok(())
            }
            outcome => Ok(outcome.map(drop)?),
        }
    }

    async fn snapshot(&self, seen: &Seen) -> Result<(), Failure> {
        let disk: ResourceName = seen
            .disk
            .as_ref()
            .and_then(|disk| disk.name().parse().ok())
            .ok_or_else(|| Failure::Other(format!("{} has no boot disk", self.name)))?;
        let name = self.free_snapshot_name().await?;
        let call = self.context.place.create_snapshot(&disk, &name, &labels(self.context, &self.name));
        complete(&self.compute, &call, &format!("making the snapshot {name} of the disk {disk}")).await?;
        Ok(())
    }

    async fn free_snapshot_name(&self) -> Result<ResourceName, Failure> {
        if let Some(name) = &self.snapshot_name {
            if self.compute.snapshot(name).await?.is_some() {
                let why =
                    format!("there is a snapshot {name} already, and it is not of the disk as it is now");
                return Err(Failure::Exists(format!("{why}; give another --snapshot-name")));
            }
            return Ok(name.clone());
        }
        let mut number = 1;
        loop {
            let name = numbered(&self.name, number)?;
            if self.compute.snapshot(&name).await?.is_none() {
                return Ok(name);
            }
            number += 1;
        }
    }

    /// What is not in the snapshot has to outlive the VM, and perhaps this process.
    fn save(&self) -> Result<(), Failure> {
        self.kept.as_ref().map_or(Ok(()), |kept| kept.save(&self.context.place, &self.name))
    }

    async fn delete(&mut self, snapshot: &str) -> Result<(), Failure> {
        self.save()?;
        output::note(&format!("the snapshot {snapshot} is READY; the disk is safe"));
        self.force = false;
        self.change(&self.context.place.delete_instance(&self.name), "deleting").await
    }

    async fn create(&mut self, seen: &Seen, snapshot: &str) -> Result<(), Failure> {
        let snapshot: ResourceName =
            snapshot.parse().map_err(|error: clarateach_gcp::BadName| Failure::Other(error.to_string()))?;
        if self.kept.is_none() {
            self.kept = Kept::load(&self.context.place, &self.name)?;
            if self.kept.is_none() {
                output::note(&format!(
                    "what the old {} had of labels, tags, metadata and other disks is not known on this machine; the new one gets none",
                    self.name
                ));
            }
        }
        let mut spec: InstanceSpec = self.shape.spec(self.name.clone());
        spec.disk_gb = self.disk_size(seen, snapshot.as_str(), spec.disk_gb)?;
        spec.boot = Boot::Snapshot(snapshot.clone());
        if seen.disk.is_some() {
            // The old disk did not go with the VM; it keeps its name, and what is on it.
            spec.disk_name = Some(self.free_disk_name().await?);
        }
        let mut instance = spec.to_instance(&self.context.place.project, &self.context.place.zone);
        if let Some(kept) = &self.kept {
            kept.put_into(&mut instance, &self.context.place.zone);
        }
        self.force = false;
        let call = self.context.place.insert_raw_instance(&instance);
        match complete(&self.compute, &call, &format!("creating {}", self.name)).await {
            Err(error) if error.kind() == Kind::AlreadyExists => Ok(()),
            Err(error) => {
                output::note(&format!(
                    "{name} is deleted, and all that was on its disk is in the snapshot {snapshot}: run the same again to go on, or elsewhere \
                     vmctl create {name} --from-snapshot {snapshot} --zone ZONE",
                    name = self.name
                ));
                Err(error.into())
            }
            Ok(_) => Ok(()),
        }
    }

    /// GB: a disk is never smaller than the one that its snapshot was made of.
    fn disk_size(&self, seen: &Seen, snapshot: &str, usual: u32) -> Result<u32, Failure> {
        let snapshot = seen.snapshots.iter().find(|one| one.name() == snapshot);
        let least = snapshot.and_then(|one| one.disk_size_gb.as_deref()?.parse().ok()).unwrap_or(0);
        match self.shape.disk_size {
            Some(given) if given < least => Err(Failure::Usage(format!(
                "the snapshot is of a disk of {least} GB: give --disk-size {least} or more, or none"
            ))),
            Some(given) => Ok(given),
            None => Ok(usual.max(least)),
        }
    }

    async fn free_disk_name(&self) -> Result<ResourceName, Failure> {
        for number in 2.. {
            let name: ResourceName = format!("{}-{number}", self.name)
                .parse()
                .map_err(|error: clarateach_gcp::BadName| Failure::Other(error.to_string()))?;
            if self.compute.disk(&name).await?.is_none() {
                return Ok(name);
            }
        }
        unreachable!("numbers don't end")
    }
}

/// `VMCTL_PAUSE_MS` shortens it for tests.
fn pause() -> Duration {
    let set = std::env::var("VMCTL_PAUSE_MS").ok().and_then(|ms| ms.parse().ok());
    set.map_or(PAUSE, Duration::from_millis)
}
