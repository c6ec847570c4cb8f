//! The calls, one function each: first as data ([`ProjectInZone`]), then made ([`Compute`]).

use std::collections::BTreeMap;

use http::Method;
use serde_json::json;

use super::{Compute, ProjectInZone};
use crate::call::Call;
use crate::error::GcpError;
use crate::model::{
    Disk, Everywhere, Instance, Operation, Page, ScopedPage, SerialPortOutput, Snapshot, last_segment,
};
use crate::names::ResourceName;
use crate::spec::InstanceSpec;

/// Entries on a page; the API's own default and limit.
const PAGE: &str = "500";

impl ProjectInZone {
    /// `instances.insert`.
    #[must_use]
    pub fn insert_instance(&self, spec: &InstanceSpec) -> Call {
        self.insert_raw_instance(&spec.to_instance(&self.project, &self.zone))
    }

    /// `instances.insert` of an instance that is written out.
    #[must_use]
    pub fn insert_raw_instance(&self, instance: &Instance) -> Call {
        Call::change(Method::POST, self.zonal("instances")).with_body(instance)
    }

    /// `instances.get`.
    #[must_use]
    pub fn get_instance(&self, name: &ResourceName) -> Call {
        Call::get(self.zonal(&format!("instances/{name}")))
    }

    /// `instances.list`, one page of it. Filter: the API's language, like `labels.clarateach=abc`.
    #[must_use]
    pub fn list_instances(&self, filter: Option<&str>) -> Call {
        listing(self.zonal("instances"), filter)
    }

    /// `instances.aggregatedList`, one page of it: every zone's.
    #[must_use]
    pub fn list_instances_everywhere(&self, filter: Option<&str>) -> Call {
        let path = format!("projects/{}/aggregated/instances", self.project);
        listing(path, filter)
    }

    /// `instances.start`.
    #[must_use]
    pub fn start_instance(&self, name: &ResourceName) -> Call {
        Call::change(Method::POST, self.zonal(&format!("instances/{name}/start")))
    }

    /// `instances.stop`.
    #[must_use]
    pub fn stop_instance(&self, name: &ResourceName) -> Call {
        Call::change(Method::POST, self.zonal(&format!("instances/{name}/stop")))
    }

    /// `instances.delete`.
    #[must_use]
    pub fn delete_instance(&self, name: &ResourceName) -> Call {
        Call::change(Method::DELETE, self.zonal(&format!("instances/{name}")))
    }

    /// `instances.setLabels`: exactly these labels.
    #[must_use]
    pub fn set_labels(
        &self,
        name: &ResourceName,
        labels: &BTreeMap<String, String>,
        fingerprint: &str,
    ) -> Call {
        Call::change(Method::POST, self.zonal(&format!("instances/{name}/setLabels")))
            .with_body(&json!({"labels": labels, "labelFingerprint": fingerprint}))
    }

    /// `instances.setDiskAutoDelete`: whether a disk goes with the instance.
    #[must_use]
    pub fn set_disk_auto_delete(&self, name: &ResourceName, device: &str, goes: bool) -> Call {
        Call::change(Method::POST, self.zonal(&format!("instances/{name}/setDiskAutoDelete")))
            .with("autoDelete", goes.to_string())
            .with("deviceName", device)
    }

    /// `instances.getSerialPortOutput` of port 1, from a byte on.
    #[must_use]
    pub fn serial_port_output(&self, name: &ResourceName, start: u64) -> Call {
        Call::get(self.zonal(&format!("instances/{name}/serialPort")))
            .with("port", "1")
            .with("start", start.to_string())
    }

    /// `disks.get`.
    #[must_use]
    pub fn get_disk(&self, name: &ResourceName) -> Call {
        Call::get(self.zonal(&format!("disks/{name}")))
    }

    /// `disks.list`, one page of it.
    #[must_use]
    pub fn list_disks(&self, filter: Option<&str>) -> Call {
        listing(self.zonal("disks"), filter)
    }

    /// `disks.insert` from a snapshot.
    #[must_use]
    pub fn insert_disk_from_snapshot(
        &self,
        name: &ResourceName,
        snapshot: &ResourceName,
        size_gb: Option<u32>,
    ) -> Call {
        let disk = Disk {
            name: Some(name.to_string()),
            source_snapshot: Some(self.global(&format!("snapshots/{snapshot}"))),
            size_gb: size_gb.map(|size| size.to_string()),
            ..Disk::default()
        };
        Call::change(Method::POST, self.zonal("disks")).with_body(&disk)
    }

    /// `disks.delete`.
    #[must_use]
    pub fn delete_disk(&self, name: &ResourceName) -> Call {
        Call::change(Method::DELETE, self.zonal(&format!("disks/{name}")))
    }

    /// `disks.createSnapshot`.
    #[must_use]
    pub fn create_snapshot(
        &self,
        disk: &ResourceName,
        snapshot: &ResourceName,
        labels: &BTreeMap<String, String>,
    ) -> Call {
        let body = Snapshot {
            name: Some(snapshot.to_string()),
            labels: (!labels.is_empty()).then(|| labels.clone()),
            ..Snapshot::default()
        };
        Call::change(Method::POST, self.zonal(&format!("disks/{disk}/createSnapshot"))).with_body(&body)
    }

    /// `snapshots.get`.
    #[must_use]
    pub fn get_snapshot(&self, name: &ResourceName) -> Call {
        Call::get(self.global(&format!("snapshots/{name}")))
    }

    /// `snapshots.list`, one page of it.
    #[must_use]
    pub fn list_snapshots(&self, filter: Option<&str>) -> Call {
        listing(self.global("snapshots"), filter)
    }

    /// `snapshots.delete`.
    #[must_use]
    pub fn delete_snapshot(&self, name: &ResourceName) -> Call {
        Call::change(Method::DELETE, self.global(&format!("snapshots/{name}")))
    }

    /// `zoneOperations.list`, one page of it.
    #[must_use]
    pub fn list_operations(&self, filter: Option<&str>) -> Call {
        listing(self.zonal("operations"), filter)
    }
}

fn listing(path: String, filter: Option<&str>) -> Call {
    let call = Call::get(path).with("maxResults", PAGE);
    match filter {
        Some(filter) => call.with("filter", filter),
        None => call,
    }
}

impl Compute {
    /// Makes a change; the operation may still go on.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn change(&self, call: &Call) -> Result<Operation, GcpError> {
        self.send(call).await
    }

    /// An instance; none: it is not there.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn instance(&self, name: &ResourceName) -> Result<Option<Instance>, GcpError> {
        self.send_optional(&self.place.get_instance(name)).await
    }

    /// All instances of the zone that the filter takes.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn instances(&self, filter: Option<&str>) -> Result<Vec<Instance>, GcpError> {
        self.send_pages(&self.place.list_instances(filter)).await
    }

    /// All instances of the project that the filter takes, whichever zone they are in.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn instances_everywhere(&self, filter: Option<&str>) -> Result<Everywhere, GcpError> {
        let first = self.place.list_instances_everywhere(filter);
        let (mut all, mut call) = (Everywhere::default(), first.clone());
        loop {
            let page: ScopedPage = self.send(&call).await?;
            all.unreachable.extend(page.unreachables.iter().map(|scope| last_segment(scope).to_owned()));
            for (name, scope) in page.items {
                if scope.warning.and_then(|warning| warning.code).as_deref() == Some("UNREACHABLE") {
                    all.unreachable.insert(last_segment(&name).to_owned());
                }
                all.instances.extend(scope.instances);
            }
            match page.next_page_token.filter(|token| !token.is_empty()) {
                Some(token) => call = first.clone().with("pageToken", token),
                None => return Ok(all),
            }
        }
    }

    /// A disk; none: it is not there.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn disk(&self, name: &ResourceName) -> Result<Option<Disk>, GcpError> {
        self.send_optional(&self.place.get_disk(name)).await
    }

    /// All disks of the zone that the filter takes.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn disks(&self, filter: Option<&str>) -> Result<Vec<Disk>, GcpError> {
        self.send_pages(&self.place.list_disks(filter)).await
    }

    /// A snapshot; none: it is not there.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn snapshot(&self, name: &ResourceName) -> Result<Option<Snapshot>, GcpError> {
        self.send_optional(&self.place.get_snapshot(name)).await
    }

    /// All snapshots of the project that the filter takes.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn snapshots(&self, filter: Option<&str>) -> Result<Vec<Snapshot>, GcpError> {
        self.send_pages(&self.place.list_snapshots(filter)).await
    }

    /// The zone's operations that the filter takes.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn operations(&self, filter: Option<&str>) -> Result<Vec<Operation>, GcpError> {
        self.send_pages(&self.place.list_operations(filter)).await
    }

    /// The serial console from a byte on.
    ///
    /// # Errors
    /// See [`GcpError`].
    pub async fn serial_port_output(
        &self,
        name: &ResourceName,
        start: u64,
    ) -> Result<SerialPortOutput, GcpError> {
        self.send(&self.place.serial_port_output(name, start)).await
    }

    async fn send_pages<T: serde::de::DeserializeOwned>(&self, first: &Call) -> Result<Vec<T>, GcpError> {
        let mut all = Vec::new();
        let mut call = first.clone();
        loop {
            let page: Page<T> = self.send(&call).await?;
            all.extend(page.items);
            match page.next_page_token.filter(|token| !token.is_empty()) {
                Some(token) => call = first.clone().with("pageToken", token),
                None => return Ok(all),
            }
        }
    }
}
