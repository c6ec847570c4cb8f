//! What there is.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::faults::Faults;
use super::{PROJECT, TOKEN};

/// Zones that there are.
pub(super) const ZONES: &[&str] =
    &["us-central1-a", "us-central1-b", "us-central1-c", "us-central1-f", "europe-west1-b"];
/// Bytes of a serial console that are kept.
const CONSOLE: usize = 1 << 20;

/// A call as it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    /// Like `instances.insert`; empty for a call that the excerpt does not know.
    pub method: String,
    /// HTTP method and path.
    pub call: String,
    /// Query parameters.
    pub query: BTreeMap<String, String>,
    /// The JSON body.
    pub body: Option<Value>,
}

#[derive(Debug)]
pub(super) struct InstanceRow {
    pub(super) value: Value,
    pub(super) console: String,
    pub(super) console_start: usize,
}

#[derive(Debug)]
pub(super) struct DiskRow {
    pub(super) value: Value,
    pub(super) content: String,
}

#[derive(Debug)]
pub(super) struct SnapshotRow {
    pub(super) value: Value,
    pub(super) content: String,
}

/// Zone and name.
pub(super) type Key = (String, String);

#[derive(Debug)]
pub(super) struct World {
    pub(super) instances: BTreeMap<Key, InstanceRow>,
    pub(super) disks: BTreeMap<Key, DiskRow>,
    pub(super) snapshots: BTreeMap<String, SnapshotRow>,
    pub(super) operations: BTreeMap<String, Value>,
    /// Request ids with the operations they made.
    pub(super) requests: BTreeMap<String, String>,
    pub(super) recorded: Vec<Recorded>,
    pub(super) tokens: BTreeSet<String>,
    pub(super) service_accounts: BTreeSet<String>,
    pub(super) gives_tokens: bool,
    pub(super) exhausted: BTreeSet<String>,
    pub(super) unreachable: BTreeSet<String>,
    pub(super) cpus: u32,
    pub(super) faults: Faults,
    next: u64,
}

impl World {
    pub(super) fn new(cpus: u32) -> Self {
        Self {
            instances: BTreeMap::new(),
            disks: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            operations: BTreeMap::new(),
            requests: BTreeMap::new(),
            recorded: Vec::new(),
            tokens: BTreeSet::from([TOKEN.to_owned()]),
            service_accounts: BTreeSet::new(),
            gives_tokens: true,
            exhausted: BTreeSet::new(),
            unreachable: BTreeSet::new(),
            cpus,
            faults: Faults::default(),
            next: 1_000_000,
        }
    }

    /// A number that was never used.
    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A fingerprint that was never used: bytes in base64.
    pub(super) fn fingerprint(&mut self) -> String {
        STANDARD.encode(self.number().to_be_bytes())
    }

    /// CPUs of the instances that hold a machine.
    pub(super) fn cpus_used(&self) -> u32 {
        let holding = self.instances.values().filter(|row| {
            matches!(row.value["status"].as_str(), Some("PROVISIONING" | "STAGING" | "RUNNING" | "STOPPING"))
        });
        holding.map(|row| cpus_of(row.value["machineType"].as_str().unwrap_or_default())).sum()
    }

    pub(super) fn print(&mut self, zone: &str, name: &str, text: &str) {
        if let Some(row) = self.instances.get_mut(&(zone.to_owned(), name.to_owned())) {
            row.console.push_str(text);
            if row.console.len() > CONSOLE {
                let mut cut = row.console.len() - CONSOLE;
                while !row.console.is_char_boundary(cut) {
                    cut += 1;
                }
                row.console.drain(..cut);
                row.console_start += cut;
            }
        }
    }
}

/// `n2-standard-8` has eight.
pub(super) fn cpus_of(machine_type: &str) -> u32 {
    machine_type.rsplit('-').next().and_then(|count| count.parse().ok()).unwrap_or(1)
}

/// URL of something in a zone, as the API gives it.
pub(super) fn zonal_url(zone: &str, kind: &str, name: &str) -> String {
    format!("https://www.googleapis.com/compute/v1/projects/{PROJECT}/zones/{zone}/{kind}/{name}")
}

/// What error messages call it.
pub(super) fn short(url: &str) -> &str {
    url.find("projects/").map_or(url, |at| &url[at..])
}

pub(super) fn now() -> String {
    jiff::Timestamp::now().to_string()
}

/// A value of an object that may be missing.
pub(super) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}
