//! The fleet of worker VMs that an installation makes and removes by itself: found by a label, changed by a plan.
//!
//! [`plan`] decides; [`Fleet`] looks and does; [`shortage`] remembers what Google had none of. Who the workers are to the control plane (registered, draining, their seats) is told by
//! the caller. Everything that is made carries the label [`INSTALLATION_LABEL`], instance and disk; nothing without it is ever
//! touched, and what a crash left behind is found again by it.

pub mod plan;
pub mod shortage;

use std::collections::BTreeMap;

use secrecy::SecretString;

use self::plan::Machine;
use crate::compute::Compute;
use crate::error::{GcpError, Kind};
use crate::model::{Instance, InstanceStatus};
use crate::names::ResourceName;
use crate::spec::InstanceSpec;
use crate::startup::AGENT_TOKEN_ATTRIBUTE;

/// Whose an instance or disk is.
pub const INSTALLATION_LABEL: &str = "clarateach-installation";
/// What was found of a worker at Google's.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is.
    pub zone: ResourceName,
    /// Its machine.
    pub machine: Machine,
    /// Its address within the network.
    pub internal_ip: Option<String>,
    /// The token that its agent takes, as it is in the instance's metadata: so a worker whose registration a crash prevented
    /// can be registered.
    pub agent_token: Option<SecretString>,
}

/// The worker VMs of one installation. Cheap to clone: several things may be done at once.
#[derive(Debug, Clone)]
pub struct Fleet {
    compute: Compute,
    installation: String,
    zones: Vec<ResourceName>,
}

impl Fleet {
    /// `installation` has to be a label's value: at most 63 of a-z, 0-9, - and _.
    #[must_use]
    pub fn new(compute: Compute, installation: String, zones: Vec<ResourceName>) -> Self {
        Self { compute, installation, zones }
    }

    fn filter(&self) -> String {
        format!("labels.{INSTALLATION_LABEL}={}", self.installation)
    }

    /// All that this installation has at Google's, by name: instances, and disks that instances have left. It is complete, or an error.
    ///
    /// # Errors
    /// When one of the zones can't be asked.
    pub async fn look(&self) -> Result<BTreeMap<ResourceName, Found>, GcpError> {
        let mut found = BTreeMap::new();
        for zone in &self.zones {
            let compute = self.compute.in_zone(zone.clone());
            let left = |machine| Found { zone: zone.clone(), machine, internal_ip: None, agent_token: None };
            // Disks first: an instance that is made in between is then only seen with its instance.
            for disk in compute.disks(Some(&self.filter())).await? {
                if let Ok(name) = disk.name().parse() {
                    found.insert(name, left(Machine::DiskOnly));
                }
            }
            for instance in compute.instances(Some(&self.filter())).await? {
                if let Ok(name) = instance.name().parse() {
                    let entry = Found {
                        internal_ip: instance.internal_ip().map(str::to_owned),
                        agent_token: agent_token(&instance),
                        ..left(machine(instance.status()))
                    };
                    found.insert(name, entry);
                }
            }
        }
        Ok(found)
    }

    /// Makes a worker and waits until it runs. The labels say whose it is.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn create(&self, zone: &ResourceName, mut spec: InstanceSpec) -> Result<(), GcpError> {
        spec.labels.insert(INSTALLATION_LABEL.to_owned(), self.installation.clone());
        let compute = self.compute.in_zone(zone.clone());
        compute.complete(&compute.place().insert_instance(&spec), &mut |_| {}).await.map(drop)
    }

    /// Starts a stopped worker.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn start(&self, zone: &ResourceName, name: &ResourceName) -> Result<(), GcpError> {
        let compute = self.compute.in_zone(zone.clone());
        compute.complete(&compute.place().start_instance(name), &mut |_| {}).await.map(drop)
    }

    /// Deletes a worker and what its disk holds, if it is this installation's. True: the API says that neither instance nor disk is there
    /// any more.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn delete(&self, zone: &ResourceName, name: &ResourceName) -> Result<bool, GcpError> {
        let compute = self.compute.in_zone(zone.clone());
        let place = compute.place();
        if let Some(instance) = compute.instance(name).await? {
            if instance.label(INSTALLATION_LABEL) != Some(self.installation.as_str()) {
                tracing::warn!(worker = %name, "not deleted: the instance is not this installation's");
                return Ok(false);
            }
            done_or_gone(compute.complete(&place.delete_instance(name), &mut |_| {}).await)?;
        }
        if let Some(disk) = compute.disk(name).await? {
            let owner = disk.labels.as_ref().and_then(|labels| labels.get(INSTALLATION_LABEL));
            if owner != Some(&self.installation) {
                tracing::warn!(disk = %name, "not deleted: the disk is not this installation's");
                return Ok(false);
            }
            done_or_gone(compute.complete(&place.delete_disk(name), &mut |_| {}).await)?;
        }
        Ok(compute.instance(name).await?.is_none() && compute.disk(name).await?.is_none())
    }
}

fn done_or_gone<T>(outcome: Result<T, GcpError>) -> Result<(), GcpError> {
    match outcome {
        Err(error) if error.kind() != Kind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn machine(status: InstanceStatus) -> Machine {
    match status {
        InstanceStatus::Running => Machine::Running,
        InstanceStatus::Terminated | InstanceStatus::Stopped | InstanceStatus::Suspended => Machine::Stopped,
        InstanceStatus::Pending
        | InstanceStatus::Provisioning
        | InstanceStatus::Staging
        | InstanceStatus::Repairing => Machine::Starting,
        _ => Machine::Stopping,
    }
}

fn agent_token(instance: &Instance) -> Option<SecretString> {
    let items = instance.metadata.as_ref()?.items.as_ref()?;
    let item = items.iter().find(|item| item.key.as_deref() == Some(AGENT_TOKEN_ATTRIBUTE))?;
    item.value.clone().map(SecretString::from)
}
