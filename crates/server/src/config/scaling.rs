//! The settings of a fleet that grows and shrinks by itself on Compute Engine.

mod machine;

use std::sync::Arc;
use std::time::Duration;

use clarateach_gcp::{Credentials, Endpoint, ProjectInZone, ResourceName};

pub use self::machine::MachineSettings;
use super::{ConfigError, MAX_CAPACITY, parsed, wrong};

const MOST_MACHINES: u32 = 1_000;
const WHOLE_NUMBER: &str = "a whole number from 0 to 1000";
const DEFAULT_ZONE: &str = "us-central1-a";

/// How the fleet grows and shrinks; read only when `FLEET_MAX` is above 0.
#[derive(Debug, Clone)]
pub struct Scaling {
    /// `GCP_PROJECT`, with the first zone.
    pub place: ProjectInZone,
    /// `FLEET_ZONES`, in order of preference; never empty.
    pub zones: Vec<ResourceName>,
    /// `FLEET_MIN`.
    pub min: u32,
    /// `FLEET_MAX`.
    pub max: u32,
    /// `FLEET_SEATS_PER_WORKER`.
    pub seats_per_worker: u32,
    /// `FLEET_IDLE_MINUTES`.
    pub idle: Duration,
    /// What each machine is like.
    pub machine: MachineSettings,
    /// `GCP_API_URL`.
    pub endpoint: Endpoint,
    /// Where access tokens come from.
    pub credentials: Arc<Credentials>,
}

impl Scaling {
    /// None: the fleet is what it is told to be. `lookup` gives variables that Google's own libraries read.
    pub(super) fn read(
        get: &impl Fn(&'static str) -> Option<String>,
        lookup: &impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, ConfigError> {
        let max = number(get, "FLEET_MAX", 0, MOST_MACHINES, WHOLE_NUMBER)?.unwrap_or(0);
        let min = number(get, "FLEET_MIN", 0, MOST_MACHINES, WHOLE_NUMBER)?.unwrap_or(0);
        let takes = "a whole number from 1 to 100000";
        let seats_per_worker = number(get, "FLEET_SEATS_PER_WORKER", 1, MAX_CAPACITY, takes)?.unwrap_or(50);
        let takes = "a whole number of minutes from 0 to 10080";
        let idle = number(get, "FLEET_IDLE_MINUTES", 0, 7 * 24 * 60, takes)?.unwrap_or(15);
        let zones = zones(get)?;
        let machine = MachineSettings::read(get)?;
        let endpoint = match get("GCP_API_URL") {
            None => Endpoint::default(),
            Some(url) if url.starts_with("http://") || url.starts_with("https://") => Endpoint::new(&url),
            Some(other) => return Err(wrong("GCP_API_URL", &other, "an http:// or https:// URL")),
        };
        if max == 0 {
            return Ok(None);
        }
        if min > max {
            return Err(wrong("FLEET_MIN", &min.to_string(), "at most what FLEET_MAX says"));
        }
        let missing = |variable, problem: &str| ConfigError { variable, problem: problem.to_owned() };
        let project = get("GCP_PROJECT").ok_or_else(|| {
            missing("GCP_PROJECT", "FLEET_MAX is above 0, which needs the project to make machines in")
        })?;
        let place = ProjectInZone::new(&project, zones[0].as_str())
            .map_err(|error| ConfigError { variable: "GCP_PROJECT", problem: error.to_string() })?;
        if machine.agent.is_none() {
            let problem = "FLEET_MAX is above 0, which needs the archive that agents come from";
            return Err(missing("FLEET_AGENT_URL", problem));
        }
        let credentials = Credentials::find(lookup).map_err(|error| ConfigError {
            variable: "GOOGLE_APPLICATION_CREDENTIALS",
            problem: error.to_string(),
        })?;
        let idle = Duration::from_secs(u64::from(idle) * 60);
        let credentials = Arc::new(credentials);
        Ok(Some(Self { place, zones, min, max, seats_per_worker, idle, machine, endpoint, credentials }))
    }
}

fn number(
    get: &impl Fn(&'static str) -> Option<String>,
    variable: &'static str,
    low: u32,
    high: u32,
    takes: &str,
) -> Result<Option<u32>, ConfigError> {
    match parsed::<u32>(get, variable, takes)? {
        Some(value) if !(low..=high).contains(&value) => Err(wrong(variable, &value.to_string(), takes)),
        value => Ok(value),
    }
}

fn zones(get: &impl Fn(&'static str) -> Option<String>) -> Result<Vec<ResourceName>, ConfigError> {
    let (variable, text) = match (get("FLEET_ZONES"), get("GCP_ZONE")) {
        (Some(text), _) => ("FLEET_ZONES", text),
        (None, zone) => ("GCP_ZONE", zone.unwrap_or_else(|| DEFAULT_ZONE.to_owned())),
    };
    let takes = "zones such as us-central1-a, separated by commas";
    let mut zones = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let zone: ResourceName = part.parse().map_err(|_| wrong(variable, part, takes))?;
        if !zones.contains(&zone) {
            zones.push(zone);
        }
    }
    if zones.is_empty() { Err(wrong(variable, &text, takes)) } else { Ok(zones) }
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, ConfigError};

    const ON: [(&str, &str); 4] = [
        ("GCP_PROJECT", "clarateach"),
        ("FLEET_MAX", "3"),
        ("FLEET_AGENT_URL", "gs://bucket/agent.tar.gz"),
        ("CLOUDSDK_AUTH_ACCESS_TOKEN", "a-token"),
    ];

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| pairs.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn it_is_off_unless_there_may_be_machines() {
        assert!(read(&[]).unwrap().scaling.is_none());
        assert!(read(&[("GCP_PROJECT", "clarateach")]).unwrap().scaling.is_none());
        let scaling = read(&ON).unwrap().scaling.unwrap();
        assert_eq!((scaling.min, scaling.max, scaling.seats_per_worker), (0, 3, 50));
        let machine = &scaling.machine;
        assert_eq!(machine.machine_type.as_str(), "n2-standard-8");
        assert_eq!((machine.spot, machine.disk_gb, machine.external_ip), (true, 50, true));
        assert_eq!(scaling.idle.as_secs(), 15 * 60);
        assert_eq!(scaling.zones.iter().map(ToString::to_string).collect::<Vec<_>>(), ["us-central1-a"]);
    }

    #[test]
    fn a_machine_is_as_the_settings_say() {
        let mut pairs = ON.to_vec();
        pairs.extend([
            ("FLEET_SPOT", "off"),
            ("FLEET_DISK_GB", "200"),
            ("FLEET_NETWORK", "classes"),
            ("FLEET_SUBNETWORK", "workers"),
            ("FLEET_EXTERNAL_IP", "off"),
            ("FLEET_TAGS", "clarateach-worker, private"),
            ("FLEET_SERVICE_ACCOUNT", "workers@clarateach.iam.gserviceaccount.com"),
            ("FLEET_AGENT_ENV", "JAILER_BIN=/usr/local/bin/jailer  LOG_FORMAT=json"),
        ]);
        let scaling = read(&pairs).unwrap().scaling.unwrap();
        let spec = scaling.machine.spec("w".parse().unwrap(), "a-token".to_owned().into(), 20);
        let instance =
            serde_json::to_value(spec.to_instance("clarateach", &"us-central1-a".parse().unwrap())).unwrap();
        assert_eq!(instance["scheduling"]["provisioningModel"], "STANDARD");
        assert_eq!(instance["disks"][0]["initializeParams"]["diskSizeGb"], "200");
        assert_eq!(
            instance["networkInterfaces"],
            serde_json::json!([{"network": "global/networks/classes", "subnetwork": "regions/us-central1/subnetworks/workers"}])
        );
        assert_eq!(instance["tags"]["items"], serde_json::json!(["clarateach-worker", "private"]));
        assert_eq!(instance["serviceAccounts"][0]["email"], "workers@clarateach.iam.gserviceaccount.com");
        assert_eq!(
            spec.metadata["clarateach-agent-env"],
            "CAPACITY=20\nJAILER_BIN=/usr/local/bin/jailer\nLOG_FORMAT=json"
        );
    }

    #[test]
    fn wrong_settings_are_refused_by_name() {
        for (name, value) in [
            ("FLEET_MIN", "4"),
            ("FLEET_MIN", "-1"),
            ("FLEET_MAX", "many"),
            ("FLEET_MAX", "1001"),
            ("FLEET_MACHINE_TYPE", "large"),
            ("FLEET_SEATS_PER_WORKER", "0"),
            ("FLEET_IDLE_MINUTES", "soon"),
            ("FLEET_ZONES", "us-central1-a,Nowhere"),
            ("FLEET_ZONES", ","),
            ("GCP_ZONE", "../x"),
            ("FLEET_SPOT", "yes"),
            ("FLEET_DISK_GB", "9"),
            ("FLEET_NETWORK", "projects/other/global/networks/x"),
            ("FLEET_SUBNETWORK", "../x"),
            ("FLEET_EXTERNAL_IP", "no"),
            ("FLEET_TAGS", "worker,Tag"),
            ("FLEET_SERVICE_ACCOUNT", "workers"),
            ("FLEET_AGENT_ENV", "JAILER_BIN"),
            ("FLEET_AGENT_ENV", "CAPACITY=3"),
            ("FLEET_AGENT_ENV", "AGENT_TOKEN=x"),
            ("FLEET_AGENT_URL", "http://example.org/agent.tar.gz"),
            ("FLEET_AGENT_URL", ""),
            ("FLEET_AGENT_SHA256", "abc"),
            ("GCP_API_URL", "ftp://x"),
            ("GCP_PROJECT", ""),
            ("GCP_PROJECT", "../x"),
        ] {
            let mut pairs = ON.to_vec();
            pairs.push((name, value));
            assert_eq!(read(&pairs).unwrap_err().variable, name, "{name}={value}");
        }
        for unfit in ["e2-standard-8", "n2d-standard-8"] {
            let error = read(&[("FLEET_MACHINE_TYPE", unfit)]).unwrap_err();
            assert_eq!(error.variable, "FLEET_MACHINE_TYPE");
            assert!(error.problem.contains("nested virtualisation"), "{error}");
        }
    }
}
