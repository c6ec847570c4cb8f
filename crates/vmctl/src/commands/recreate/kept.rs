//! What a VM has besides its disk, taken over by the next one.
//!
//! It is kept in a file of this machine's while the VM is away, and not with the snapshot: metadata may hold the agent's token.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

use clarateach_gcp::{AttachedDisk, Disk, Instance, ProjectInZone, ResourceName, last_segment};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// Labels, tags, metadata, network, service accounts and other disks of an instance, and what its boot disk was like.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Kept {
    instance: Instance,
    boot_disk_type: Option<String>,
}

fn others(instance: &Instance) -> impl Iterator<Item = &AttachedDisk> {
    instance.disks.iter().flatten().filter(|disk| disk.boot != Some(true))
}

impl Kept {
    /// `saved`: what an earlier run has kept of it, before it changed which disks go with the VM.
    pub(super) fn of(old: &Instance, boot_disk: Option<&Disk>, saved: Option<&Self>) -> Self {
        let saved = saved.filter(|saved| saved.instance.id.is_some() && saved.instance.id == old.id);
        let went = |device: &Option<String>| {
            others(&saved?.instance).find(|disk| disk.device_name == *device)?.auto_delete
        };
        let disks = others(old).map(|disk| AttachedDisk {
            boot: Some(false),
            auto_delete: went(&disk.device_name).or(disk.auto_delete),
            r#type: disk.r#type.clone(),
            mode: disk.mode.clone(),
            device_name: disk.device_name.clone(),
            source: disk.source.clone(),
            ..AttachedDisk::default()
        });
        let mut interfaces = old.network_interfaces.clone();
        for interface in interfaces.iter_mut().flatten() {
            interface.network_ip = None;
            for config in interface.access_configs.iter_mut().flatten() {
                config.nat_ip = None;
            }
        }
        let boot_disk_type = boot_disk.and_then(|disk| disk.r#type.as_deref()).map(last_segment);
        Self {
            instance: Instance {
                id: old.id.clone(),
                disks: Some(disks.collect()),
                labels: old.labels.clone(),
                tags: old.tags.clone(),
                metadata: old.metadata.clone(),
                network_interfaces: interfaces,
                service_accounts: old.service_accounts.clone(),
                ..Instance::default()
            },
            boot_disk_type: boot_disk_type.map(str::to_owned),
        }
    }

    /// The new instance in `zone` gets them.
    pub(super) fn put_into(&self, new: &mut Instance, zone: &ResourceName) {
        let old = &self.instance;
        new.labels = old.labels.clone().filter(|labels| !labels.is_empty());
        new.tags = old.tags.clone().filter(|tags| tags.items.as_ref().is_some_and(|items| !items.is_empty()));
        new.metadata = old.metadata.clone().filter(|metadata| metadata.items.is_some());
        if let Some(interfaces) = old.network_interfaces.clone().filter(|interfaces| !interfaces.is_empty()) {
            new.network_interfaces = Some(interfaces);
        }
        if let Some(accounts) = old.service_accounts.clone().filter(|accounts| !accounts.is_empty()) {
            new.service_accounts = Some(accounts);
        }
        let disks = new.disks.get_or_insert_default();
        // Others than persistent disks are not taken by every machine type that is.
        let of_boot = self.boot_disk_type.as_deref().filter(|kind| kind.starts_with("pd-"));
        if let (Some(kind), Some(boot)) = (of_boot, disks.first_mut()) {
            let params = boot.initialize_params.get_or_insert_default();
            params.disk_type = Some(format!("zones/{zone}/diskTypes/{kind}"));
        }
        disks.extend(old.disks.iter().flatten().cloned());
    }

    /// Before the VM goes.
    pub(super) fn save(&self, place: &ProjectInZone, name: &ResourceName) -> Result<(), Failure> {
        let Some(path) = path(place, name) else { return Ok(()) };
        let failed = |error: std::io::Error| Failure::Other(format!("{}: {error}", path.display()));
        if let Some(directory) = path.parent() {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        }
        let text = serde_json::to_vec_pretty(self).map_err(|error| Failure::Other(error.to_string()))?;
        let new = path.with_extension("new");
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(failed)?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, &path).map_err(failed)
    }

    /// When the VM is gone already.
    pub(super) fn load(place: &ProjectInZone, name: &ResourceName) -> Result<Option<Self>, Failure> {
        let Some(path) = path(place, name) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .map_err(|error| Failure::Other(format!("{}: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Failure::Other(format!("{}: {error}", path.display()))),
        }
    }

    /// When the new VM is there.
    pub(super) fn forget(place: &ProjectInZone, name: &ResourceName) {
        if let Some(path) = path(place, name) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// `XDG_STATE_HOME` or `~/.local/state`; none without a home.
fn path(place: &ProjectInZone, name: &ResourceName) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").or_else(|| set("HOME").map(|home| home.join(".local/state")))?;
    let project = place.project.replace(':', "_");
    Some(state.join("clarateach/vmctl").join(format!("{project}-{}-{name}.json", place.zone)))
}
