//! Snapshots: the devices and what stands for the guest in one file, and a memory file of the right size.

use std::fs::File;
use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::{Devices, Machine, POST_BOOT, PRE_BOOT, Phase};
use crate::bodies::{BackendType, SnapshotCreate, SnapshotLoad, SnapshotType};
use crate::guest::Guest;

/// What a snapshot's state file holds.
#[derive(Serialize, Deserialize)]
struct Saved {
    devices: Devices,
    guest: Guest,
}

impl Machine {
    pub(crate) fn create_snapshot(&self, create: &SnapshotCreate) -> Result<(), String> {
        self.after_boot()?;
        if self.phase.get() != Phase::Paused {
            return Err("Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running".into());
        }
        let devices = self.devices.borrow().clone();
        let tracked = devices.machine.as_ref().is_some_and(|machine| machine.track_dirty_pages);
        if create.snapshot_type == SnapshotType::Diff && !tracked {
            return Err("Create snapshot error: Diff snapshots need dirty page tracking".into());
        }
        let guest = self.guest.borrow().as_ref().map(|guest| guest.borrow().clone());
        let saved = Saved { guest: guest.ok_or(PRE_BOOT)?, devices };
        let memory = saved.devices.machine.as_ref().map_or(128, |machine| machine.mem_size_mib) as u64;
        let fault = |what: &str, error: std::io::Error| {
            format!("Create snapshot error: Cannot write {what} file: {error}")
        };
        let text = serde_json::to_vec(&saved).map_err(|error| fault("state", error.into()))?;
        std::fs::write(&create.snapshot_path, text).map_err(|error| fault("state", error))?;
        let file = File::create(&create.mem_file_path).map_err(|error| fault("memory", error))?;
        file.set_len(memory << 20).map_err(|error| fault("memory", error))
    }

    pub(crate) async fn load_snapshot(self: &Rc<Self>, load: &SnapshotLoad) -> Result<(), String> {
        if self.phase.get() != Phase::Configured {
            return Err(POST_BOOT.into());
        }
        if self.devices.borrow().touched {
            return Err("Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.".into());
        }
        if self.faults.borrow().deaf {
            std::future::pending::<()>().await;
        }
        let loaded = self.load(load);
        if loaded.is_err() {
            // Too dirty to go on, as Firecracker says: it answers, then ends.
            let end = Rc::clone(&self.end);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                end.notify_one();
            });
        }
        loaded
    }

    fn load(self: &Rc<Self>, load: &SnapshotLoad) -> Result<(), String> {
        let memory = match (&load.mem_file_path, &load.mem_backend) {
            (Some(path), None) => path,
            (None, Some(backend)) if backend.backend_type == BackendType::File => &backend.backend_path,
            (None, Some(_)) => return Err("Load snapshot error: the double has no userfaultfd".into()),
            _ => {
                return Err(
                    "Load snapshot error: exactly one of mem_file_path and mem_backend must be given".into(),
                );
            }
        };
        let failed = |error: String| format!("Load snapshot error: Failed to restore from snapshot: {error}");
        let text = std::fs::read(&load.snapshot_path)
            .map_err(|error| failed(format!("Failed to open snapshot file: {error}")))?;
        let Saved { mut devices, guest } = serde_json::from_slice(&text)
            .map_err(|error| failed(format!("Failed to load snapshot state from file: {error}")))?;
        let size = devices.machine.as_ref().map_or(128, |machine| machine.mem_size_mib) as u64;
        let length = std::fs::metadata(memory)
            .map_err(|error| failed(format!("Failed to open memory file: {error}")))?;
        if length.len() != size << 20 {
            return Err(failed("Failed to load guest memory: file size mismatch".into()));
        }
        for wanted in &load.network_overrides {
            let interface = devices.networks.iter_mut().find(|nic| nic.iface_id == wanted.iface_id);
            let interface =
                interface.ok_or_else(|| failed(format!("Unknown Network Device: {}", wanted.iface_id)))?;
            interface.host_dev_name.clone_from(&wanted.host_dev_name);
        }
        if let (Some(vsock), Some(wanted)) = (&mut devices.vsock, &load.vsock_override) {
            vsock.uds_path.clone_from(&wanted.uds_path);
        }
        for drive in &devices.drives {
            self.open_drive(drive).map_err(failed)?;
        }
        for interface in &devices.networks {
            self.open_tap(interface).map_err(failed)?;
        }
        if let Some(vsock) = &devices.vsock {
            self.bind_vsock(vsock).map_err(failed)?;
        }
        *self.devices.borrow_mut() = devices;
        self.run(guest, load.resume_vm);
        Ok(())
    }
}
