//! What the fleet's machines are like.

use clarateach_gcp::{InstanceSpec, MachineType, ResourceName, StartupFrom};
use secrecy::SecretString;

use super::number;
use crate::config::{ConfigError, wrong};

/// What Compute Engine makes boot disks of, in GB.
const DISK_GB: std::ops::RangeInclusive<u32> = 10..=65_536;
/// Variables of agents that say what the server has to know itself.
const NOT_FOR_AGENTS: [&str; 3] = ["AGENT_TOKEN", "CAPACITY", "PORT"];

/// What a machine of the fleet is like.
#[derive(Debug, Clone)]
pub struct MachineSettings {
    /// `FLEET_MACHINE_TYPE`.
    pub machine_type: MachineType,
    /// `FLEET_SPOT`.
    pub spot: bool,
    /// `FLEET_DISK_GB`.
    pub disk_gb: u32,
    /// `FLEET_NETWORK`.
    pub network: Option<ResourceName>,
    /// `FLEET_SUBNETWORK`.
    pub subnetwork: Option<ResourceName>,
    /// `FLEET_EXTERNAL_IP`.
    pub external_ip: bool,
    /// `FLEET_TAGS`.
    pub tags: Vec<ResourceName>,
    /// `FLEET_SERVICE_ACCOUNT`.
    pub service_account: Option<String>,
    /// `FLEET_AGENT_URL` and `FLEET_AGENT_SHA256`; none: nobody can be made.
    pub agent: Option<StartupFrom>,
    /// `FLEET_AGENT_ENV`: lines of NAME=VALUE.
    pub agent_env: Vec<String>,
}

impl MachineSettings {
    pub(super) fn read(get: &impl Fn(&'static str) -> Option<String>) -> Result<Self, ConfigError> {
        let machine_type = match get("FLEET_MACHINE_TYPE") {
            None => MachineType::default(),
            Some(text) => text.parse().map_err(|unfit: clarateach_gcp::UnfitMachineType| ConfigError {
                variable: "FLEET_MACHINE_TYPE",
                problem: unfit.to_string(),
            })?,
        };
        let takes = "a whole number of GB from 10 to 65536";
        let disk_gb = number(get, "FLEET_DISK_GB", *DISK_GB.start(), *DISK_GB.end(), takes)?;
        Ok(Self {
            machine_type,
            spot: switch(get, "FLEET_SPOT")?,
            disk_gb: disk_gb.unwrap_or(50),
            network: name(get, "FLEET_NETWORK", "the name of a network")?,
            subnetwork: name(get, "FLEET_SUBNETWORK", "the name of a subnetwork of the zones' region")?,
            external_ip: switch(get, "FLEET_EXTERNAL_IP")?,
            tags: tags(get)?,
            service_account: service_account(get)?,
            agent: agent(get)?,
            agent_env: agent_env(get)?,
        })
    }

    /// A machine that has room for `seats`.
    #[must_use]
    pub fn spec(&self, name: ResourceName, token: SecretString, seats: u32) -> InstanceSpec {
        let mut spec = InstanceSpec::new(name, self.machine_type.clone());
        spec.spot = self.spot;
        spec.disk_gb = self.disk_gb;
        spec.network.clone_from(&self.network);
        spec.subnetwork.clone_from(&self.subnetwork);
        spec.external_ip = self.external_ip;
        spec.tags = self.tags.iter().map(ToString::to_string).collect();
        spec.service_account.clone_from(&self.service_account);
        spec.agent_token = Some(token);
        spec.startup.clone_from(&self.agent);
        let capacity = format!("CAPACITY={seats}");
        let lines: Vec<&str> =
            std::iter::once(capacity.as_str()).chain(self.agent_env.iter().map(String::as_str)).collect();
        spec.metadata.insert("clarateach-agent-env".to_owned(), lines.join("\n"));
        spec
    }
}

fn switch(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
) -> Result<bool, ConfigError> {
    match get(variable).as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(wrong(variable, other, "on or off")),
    }
}

fn name(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
    takes: &str,
) -> Result<Option<ResourceName>, ConfigError> {
    get(variable).map(|text| text.parse().map_err(|_| wrong(variable, &text, takes))).transpose()
}

fn tags(get: &impl Fn(&'static str) -> Option<String>) -> Result<Vec<ResourceName>, ConfigError> {
    let text = get("FLEET_TAGS").unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let tag = |part: &str| part.parse().map_err(|_| wrong("FLEET_TAGS", part, "network tags, by commas"));
    parts.map(tag).collect()
}

fn service_account(get: &impl Fn(&'static str) -> Option<String>) -> Result<Option<String>, ConfigError> {
    let variable = "FLEET_SERVICE_ACCOUNT";
    let Some(address) = get(variable) else { return Ok(None) };
    let plain = |part: &str, more: &[u8]| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
    };
    match address.split_once('@') {
        Some((user, domain)) if plain(user, b"-._") && plain(domain, b"-.") => Ok(Some(address)),
        _ => Err(wrong(variable, &address, "the address of a service account")),
    }
}

fn agent(get: &impl Fn(&'static str) -> Option<String>) -> Result<Option<StartupFrom>, ConfigError> {
    let sha256 = get("FLEET_AGENT_SHA256");
    if let Some(sum) = &sha256
        && (sum.len() != 64 || !sum.bytes().all(|byte| byte.is_ascii_hexdigit()))
    {
        return Err(wrong("FLEET_AGENT_SHA256", sum, "64 hexadecimal digits"));
    }
    match get("FLEET_AGENT_URL") {
        None => Ok(None),
        Some(url) if url.starts_with("https://") || url.starts_with("gs://") => {
            Ok(Some(StartupFrom { url, sha256 }))
        }
        Some(other) => Err(wrong(
            "FLEET_AGENT_URL",
            &other,
            "https://… or gs://BUCKET/OBJECT of a .tar.gz, see docs/gcp.md",
        )),
    }
}

fn agent_env(get: &impl Fn(&'static str) -> Option<String>) -> Result<Vec<String>, ConfigError> {
    let variable = "FLEET_AGENT_ENV";
    let text = get(variable).unwrap_or_default();
    text.split_whitespace()
        .map(|setting| {
            let name = setting.split_once('=').map(|(name, _)| name).unwrap_or_default();
            let is_name = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || !name.bytes().all(is_name) {
                return Err(wrong(variable, setting, "NAME=VALUE of agents, separated by blanks"));
            }
            if NOT_FOR_AGENTS.contains(&name) {
                return Err(wrong(variable, setting, "other settings: the server says this one itself"));
            }
            Ok(setting.to_owned())
        })
        .collect()
}
