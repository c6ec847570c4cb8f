//! The fleet of worker VMs that an installation makes and removes by itself: found by a label, changed by a plan.
//!
//! [`plan`] decides; [`Fleet`] looks and does. Who the workers are to the control plane (registered, draining, their seats) is told by
//! the caller. Everything that is made carries the label [`INSTALLATION_LABEL`], instance and disk; nothing without it is ever
//! touched, and what a crash left behind is found again by it.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

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
/// A zone without machines is left alone for so long at first, and for twice as long each time after.
const FIRST_REST: Duration = Duration::from_secs(60);
const LONGEST_REST: Duration = Duration::from_secs(30 * 60);

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

/// Something that did not work lately, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What Google said.
    pub message: String,
    until: Instant,
    rest: Duration,
}

/// The worker VMs of one installation.
#[derive(Debug)]
pub struct Fleet {
    compute: Compute,
    installation: String,
    zones: Vec<ResourceName>,
    exhausted: BTreeMap<ResourceName, Trouble>,
    over_quota: Option<Trouble>,
}

impl Fleet {
    /// `installation` has to be a label's value: at most 63 of a-z, 0-9, - and _.
    #[must_use]
    pub fn new(compute: Compute, installation: String, zones: Vec<ResourceName>) -> Self {
        Self { compute, installation, zones, exhausted: BTreeMap::new(), over_quota: None }
    }

    /// Zones to be left alone for now.
    #[must_use]
    pub fn exhausted(&self, now: Instant) -> BTreeSet<ResourceName> {
        let resting = self.exhausted.iter().filter(|(_, trouble)| trouble.until > now);
        resting.map(|(zone, _)| zone.clone()).collect()
    }

    /// Whether quota was used up lately.
    #[must_use]
    pub fn is_over_quota(&self, now: Instant) -> bool {
        self.over_quota.as_ref().is_some_and(|trouble| trouble.until > now)
    }

    /// What did not work lately, for the list of workers.
    #[must_use]
    pub fn troubles(&self, now: Instant) -> Vec<String> {
        let all = self.exhausted.values().chain(&self.over_quota);
        all.filter(|trouble| trouble.until > now).map(|trouble| trouble.message.clone()).collect()
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
    /// See [`GcpError`]; an empty zone and used-up quota are remembered.
    pub async fn create(
        &mut self,
        zone: &ResourceName,
        mut spec: InstanceSpec,
        now: Instant,
    ) -> Result<(), GcpError> {
        spec.labels.insert(INSTALLATION_LABEL.to_owned(), self.installation.clone());
        let compute = self.compute.in_zone(zone.clone());
        let outcome = compute.complete(&compute.place().insert_instance(&spec), &mut |_| {}).await;
        self.heed(zone, outcome.map(drop), now)
    }

    /// Starts a stopped worker.
    ///
    /// # Errors
    /// See [`GcpError`]; an empty zone and used-up quota are remembered.
    pub async fn start(
        &mut self,
        zone: &ResourceName,
        name: &ResourceName,
        now: Instant,
    ) -> Result<(), GcpError> {
        let compute = self.compute.in_zone(zone.clone());
        let outcome = compute.complete(&compute.place().start_instance(name), &mut |_| {}).await;
        self.heed(zone, outcome.map(drop), now)
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

    fn heed(
        &mut self,
        zone: &ResourceName,
        outcome: Result<(), GcpError>,
        now: Instant,
    ) -> Result<(), GcpError> {
        match &outcome {
            Ok(()) => {
                self.exhausted.remove(zone);
                self.over_quota = None;
            }
            Err(error) if error.kind() == Kind::ZoneExhausted => {
                let trouble = longer(self.exhausted.get(zone), error, now);
                self.exhausted.insert(zone.clone(), trouble);
            }
            Err(error) if error.kind() == Kind::QuotaExceeded => {
                self.over_quota = Some(longer(self.over_quota.as_ref(), error, now));
            }
            Err(_) => {}
        }
        outcome
    }
}

fn longer(before: Option<&Trouble>, error: &GcpError, now: Instant) -> Trouble {
    let rest = before.map_or(FIRST_REST, |before| (before.rest * 2).min(LONGEST_REST));
    Trouble { message: error.one_line(), until: now + rest, rest }
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
