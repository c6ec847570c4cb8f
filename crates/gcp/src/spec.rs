//! What is wanted of a worker VM, and the instance that says so to the API.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use crate::machine_type::MachineType;
use crate::model::{
    AccessConfig, AdvancedMachineFeatures, AttachedDisk, InitializeParams, Instance, Metadata, MetadataItem,
    NetworkInterface, Scheduling, ServiceAccount, Tags,
};
use crate::names::ResourceName;
use crate::startup::{AGENT_TOKEN_ATTRIBUTE, StartupFrom};

/// The scopes that `gcloud` gives a machine unless told otherwise: enough to read buckets and write logs.
pub const DEFAULT_SCOPES: &[&str] = &[
    "https://www.googleapis.com/auth/devstorage.read_only",
    "https://www.googleapis.com/auth/logging.write",
    "https://www.googleapis.com/auth/monitoring.write",
    "https://www.googleapis.com/auth/pubsub",
    "https://www.googleapis.com/auth/service.management.readonly",
    "https://www.googleapis.com/auth/servicecontrol",
    "https://www.googleapis.com/auth/trace.append",
];

/// A published image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The newest of this family is taken.
    pub family: String,
    /// Who publishes it.
    pub project: String,
}

impl Default for Image {
    fn default() -> Self {
        Self { family: "debian-12".to_owned(), project: "debian-cloud".to_owned() }
    }
}

/// What the boot disk is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// A published image.
    Image(Image),
    /// A snapshot of this project.
    Snapshot(ResourceName),
}

/// A worker VM as wanted.
#[derive(Debug, Clone)]
pub struct InstanceSpec {
    /// Its name, and its boot disk's unless that has another one.
    pub name: ResourceName,
    /// The boot disk's name.
    pub disk_name: Option<ResourceName>,
    /// N1, N2 or C2.
    pub machine_type: MachineType,
    /// What it boots.
    pub boot: Boot,
    /// The boot disk's size in GB; 50 is enough for some twenty images and fifty seats.
    pub disk_gb: u32,
    /// Whether it may be preempted; it is stopped then, and its disk stays.
    pub spot: bool,
    /// For people and for filters; the disk gets the same.
    pub labels: BTreeMap<String, String>,
    /// Who it is to other services; the project's default unless given.
    pub service_account: Option<String>,
    /// OAuth scopes of that account; [`DEFAULT_SCOPES`] unless given.
    pub scopes: Option<Vec<String>>,
    /// For firewall rules.
    pub tags: Vec<String>,
    /// The network; `default` unless given.
    pub network: Option<ResourceName>,
    /// A subnetwork of the zone's region.
    pub subnetwork: Option<ResourceName>,
    /// Whether it has an address on the internet.
    pub external_ip: bool,
    /// The token that its agent takes.
    pub agent_token: Option<SecretString>,
    /// Where its agent comes from; none: nothing is installed.
    pub startup: Option<StartupFrom>,
    /// More metadata.
    pub metadata: BTreeMap<String, String>,
}

impl InstanceSpec {
    /// A Spot worker of Debian 12 on a disk of 50 GB.
    #[must_use]
    pub fn new(name: ResourceName, machine_type: MachineType) -> Self {
        Self {
            name,
            disk_name: None,
            machine_type,
            boot: Boot::Image(Image::default()),
            disk_gb: 50,
            spot: true,
            labels: BTreeMap::new(),
            service_account: None,
            scopes: None,
            tags: Vec::new(),
            network: None,
            subnetwork: None,
            external_ip: true,
            agent_token: None,
            startup: None,
            metadata: BTreeMap::new(),
        }
    }

    /// The instance in `zone` of `project` as the API takes it.
    #[must_use]
    pub fn to_instance(&self, project: &str, zone: &ResourceName) -> Instance {
        let labels = (!self.labels.is_empty()).then(|| self.labels.clone());
        Instance {
            name: Some(self.name.to_string()),
            machine_type: Some(format!("zones/{zone}/machineTypes/{}", self.machine_type)),
            labels: labels.clone(),
            disks: Some(vec![self.boot_disk(project, labels)]),
            advanced_machine_features: Some(AdvancedMachineFeatures {
                enable_nested_virtualization: Some(true),
            }),
            scheduling: Some(self.scheduling()),
            network_interfaces: Some(vec![self.network_interface(zone)]),
            service_accounts: Some(vec![ServiceAccount {
                email: Some(self.service_account.clone().unwrap_or_else(|| "default".to_owned())),
                scopes: Some(
                    self.scopes
                        .clone()
                        .unwrap_or_else(|| DEFAULT_SCOPES.iter().map(|scope| (*scope).to_owned()).collect()),
                ),
            }]),
            tags: (!self.tags.is_empty()).then(|| Tags { items: Some(self.tags.clone()) }),
            metadata: self.metadata(),
            ..Instance::default()
        }
    }

    fn boot_disk(&self, project: &str, labels: Option<BTreeMap<String, String>>) -> AttachedDisk {
        let (source_image, source_snapshot) = match &self.boot {
            Boot::Image(Image { family, project }) => {
                (Some(format!("projects/{project}/global/images/family/{family}")), None)
            }
            Boot::Snapshot(snapshot) => {
                (None, Some(format!("projects/{project}/global/snapshots/{snapshot}")))
            }
        };
        AttachedDisk {
            boot: Some(true),
            auto_delete: Some(true),
            r#type: Some("PERSISTENT".to_owned()),
            mode: Some("READ_WRITE".to_owned()),
            device_name: Some(self.name.to_string()),
            initialize_params: Some(InitializeParams {
                disk_name: self.disk_name.as_ref().map(ToString::to_string),
                disk_size_gb: Some(self.disk_gb.to_string()),
                source_image,
                source_snapshot,
                labels,
                ..InitializeParams::default()
            }),
            ..AttachedDisk::default()
        }
    }

    /// Machines with nested virtualisation can't be moved to another host, Spot ones are never restarted by themselves.
    fn scheduling(&self) -> Scheduling {
        let mut scheduling = Scheduling {
            provisioning_model: Some("STANDARD".to_owned()),
            on_host_maintenance: Some("TERMINATE".to_owned()),
            automatic_restart: Some(true),
            ..Scheduling::default()
        };
        if self.spot {
            scheduling.provisioning_model = Some("SPOT".to_owned());
            scheduling.instance_termination_action = Some("STOP".to_owned());
            scheduling.automatic_restart = Some(false);
        }
        scheduling
    }

    fn network_interface(&self, zone: &ResourceName) -> NetworkInterface {
        let network = match (&self.network, &self.subnetwork) {
            (Some(network), _) => Some(network.as_str()),
            (None, None) => Some("default"),
            (None, Some(_)) => None,
        };
        let region = zone.as_str().rsplit_once('-').map_or(zone.as_str(), |(region, _)| region);
        let nat = || AccessConfig {
            r#type: Some("ONE_TO_ONE_NAT".to_owned()),
            name: Some("external-nat".to_owned()),
            nat_ip: None,
        };
        NetworkInterface {
            network: network.map(|network| format!("global/networks/{network}")),
            subnetwork: self.subnetwork.as_ref().map(|name| format!("regions/{region}/subnetworks/{name}")),
            network_ip: None,
            access_configs: self.external_ip.then(|| vec![nat()]),
        }
    }

    /// What the machine is told, the agent's token and the startup script among it.
    #[must_use]
    pub fn metadata(&self) -> Option<Metadata> {
        let mut all = self.metadata.clone();
        if let Some(token) = &self.agent_token {
            all.insert(AGENT_TOKEN_ATTRIBUTE.to_owned(), token.expose_secret().to_owned());
        }
        if let Some(startup) = &self.startup {
            all.extend(startup.metadata());
        }
        let items: Vec<MetadataItem> =
            all.into_iter().map(|(key, value)| MetadataItem { key: Some(key), value: Some(value) }).collect();
        (!items.is_empty()).then_some(Metadata { items: Some(items) })
    }
}
