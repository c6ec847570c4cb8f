//! What all VMs of a runtime share.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clarateach_ids::MacAddr;
use clarateach_runtime::{Egress, EnvironmentState, Generations, RuntimeError};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio_util::sync::CancellationToken;

use crate::config::{MicroVmConfig, Readiness};
use crate::directory::Lock;
use crate::error::Fault;
use crate::guest::{self, GuestError, initramfs};
use crate::images::{self, Images};
use crate::instance::Instances;
use crate::journal::{Journal, Record};
use crate::net::slots::Slots;
use crate::net::{Network, Slot, tap_name};
use crate::snapshot::Snapshots;
use crate::times::Times;
use crate::vm::{Board, Phase, Vm, Wish};
use crate::vmm::{Drive, Nic, VmSpec, Vmm};

/// Shared by the tasks of all seats.
pub(crate) struct Host {
    pub(crate) config: MicroVmConfig,
    pub(crate) vmm: Arc<dyn Vmm>,
    pub(crate) network: Arc<dyn Network>,
    pub(crate) slots: Slots,
    pub(crate) images: Images,
    pub(crate) instances: Instances,
    pub(crate) journal: Journal,
    pub(crate) generations: Generations,
    pub(crate) board: Board,
    pub(crate) snapshots: Snapshots,
    pub(crate) times: Times,
    pub(crate) draining: AtomicBool,
    /// This process ends its work; what runs goes on running.
    pub(crate) closing: CancellationToken,
    pub(crate) lock: Lock,
    /// Read while a VM without egress is attached or detached; written while left-overs in the firewall are removed.
    pub(crate) closed_egress: tokio::sync::RwLock<()>,
    /// Taps are made a few at a time: the kernel makes them one by one, and who waits for its lock there keeps a processor
    /// from those who work.
    pub(crate) furnishing: tokio::sync::Semaphore,
    /// The initramfs and what it was built from; held while it is built.
    pub(crate) built: tokio::sync::Mutex<Option<(String, PathBuf)>>,
}

impl Host {
    /// The directory of a VM: its drive and its console.
    pub(crate) fn vm_directory(&self, instance: &str) -> PathBuf {
        self.vms().join(instance)
    }

    pub(crate) fn vms(&self) -> PathBuf {
        self.config.state_dir.join("vms")
    }

    /// Checks the kernel that VMs boot.
    ///
    /// # Errors
    /// `KERNEL_NOT_FOUND`, `KERNEL_UNUSABLE`.
    pub(crate) fn check_kernel(&self) -> Result<String, Fault> {
        images::check_kernel(&self.images.kernel())
    }

    /// What the initramfs is made from, in a word.
    fn initramfs_stamp(&self) -> Result<String, Fault> {
        let missing = |path: &Path, error: &io::Error| {
            Fault::io("WORKSPACE_NOT_FOUND", format!("the workspace binary {}", path.display()), error)
        };
        let mut hash = blake3::Hasher::new();
        let workspace = &self.config.workspace_bin;
        let mut stamp = |metadata: fs::Metadata| {
            hash.update(&metadata.ino().to_le_bytes())
                .update(&metadata.len().to_le_bytes())
                .update(&metadata.mtime().to_le_bytes())
                .update(&metadata.mtime_nsec().to_le_bytes());
        };
        stamp(fs::metadata(workspace).map_err(|error| missing(workspace, &error))?);
        if let Some(modules) = self.images.modules() {
            stamp(fs::metadata(&modules).map_err(|error| missing(&modules, &error))?);
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }

    /// The directory of what VMs boot.
    pub(crate) fn boot(&self) -> PathBuf {
        self.config.state_dir.join("boot")
    }

    /// The initramfs for the workspace and modules that are there now, built if need be.
    ///
    /// # Errors
    /// `WORKSPACE_NOT_FOUND`, `INITRAMFS_FAILED`, `NO_SPACE`.
    pub(crate) async fn initramfs(&self) -> Result<PathBuf, Fault> {
        let stamp = self.initramfs_stamp()?;
        let mut built = self.built.lock().await;
        if let Some((of, path)) = built.as_ref()
            && *of == stamp
            && path.exists()
        {
            return Ok(path.clone());
        }
        let (workspace, modules, into) =
            (self.config.workspace_bin.clone(), self.images.modules(), self.boot());
        let build = move || initramfs::build(&workspace, modules.as_deref(), &into);
        let path = tokio::task::spawn_blocking(build)
            .await
            .map_err(|error| Fault::new("INITRAMFS_FAILED", error.to_string()))?
            .map_err(|error| match &error {
                GuestError::Io { source, .. } => Fault::io("INITRAMFS_FAILED", &error, source),
                GuestError::Unfit { .. } => Fault::new("INITRAMFS_FAILED", error.to_string()),
            })?;
        *built = Some((stamp, path.clone()));
        Ok(path)
    }

    /// What the kernel of a VM is now: it may have been replaced since it was made.
    pub(crate) fn refresh(&self, record: &mut Record) {
        record.spec.kernel = self.images.kernel();
    }

    /// Decides everything about a new VM: its name, its place among the others, its files. Nothing is made but the link
    /// to its image.
    ///
    /// # Errors
    /// [`RuntimeError::AtCapacity`], [`RuntimeError::Failed`].
    pub(crate) fn plan(&self, wish: &Wish) -> Result<Record, RuntimeError> {
        let Wish { desired, image, initramfs, readiness, .. } = wish;
        let failed = |fault: Fault| fault.runtime_error("plan the VM");
        let instance = self.instances.random().map_err(|error| RuntimeError::Failed {
            operation: "name the VM".to_owned(),
            message: error.to_string(),
        })?;
        let config = &self.config;
        let or = |given: u32, default: u32| if given == 0 { default } else { given };
        let vcpus = or(desired.vcpus, config.default_vcpus);
        let memory_mb = or(desired.memory_mb, config.default_memory_mb);
        let disk_mb = or(desired.disk_mb, config.default_disk_mb);
        let created_at = Timestamp::now();
        let initramfs = match readiness {
            Readiness::Health => initramfs.clone(),
            Readiness::Ping => None,
        };
        let base = self.images.hold(image).map_err(failed)?;
        let seat = u32::from(desired.key.seat);
        let slot = self.board.reserve(&desired.key, desired.secret.clone(), |taken| {
            let address = self.slots.choose(seat, taken)?;
            let slot = self.slot(address, desired.egress);
            let vm = Vm {
                key: desired.key.clone(),
                generation: desired.generation,
                instance: instance.clone(),
                address,
                mac: slot.mac,
                state: EnvironmentState::Starting,
                reason: None,
                pid: None,
                started: false,
                restored: false,
                created_at,
                not_after: desired.not_after,
                readiness: *readiness,
                image: image.name.clone(),
                vcpus,
                memory_mb,
                disk_mb,
            };
            Some((slot, vm))
        });
        let slot = slot.inspect_err(|_| self.images.release(&image.fingerprint))?;
        let home = self.vm_directory(&instance);
        let upper = home.join("upper.ext4");
        let kernel_args = match readiness {
            Readiness::Health => guest::BOOT_ARGUMENTS.to_owned(),
            Readiness::Ping => self.ping_kernel_args(&slot),
        };
        let drive = |id: &str, path: PathBuf, read_only| Drive { id: id.to_owned(), path, read_only };
        let spec = VmSpec {
            run_dir: config.socket_dir.join(&instance),
            console: home.join("console.log"),
            instance,
            vcpus,
            memory_mb,
            kernel: self.images.kernel(),
            initramfs,
            kernel_args,
            drives: vec![drive("base", base, true), drive("upper", upper.clone(), false)],
            nic: Some(Nic { tap: slot.tap.clone(), mac: slot.mac }),
            control: *readiness == Readiness::Health,
        };
        Ok(Record {
            workshop: desired.key.workshop.clone(),
            seat: desired.key.seat,
            generation: desired.generation,
            slot,
            spec,
            image: image.name.clone(),
            base: image.fingerprint.clone(),
            upper,
            disk_mb,
            env: desired.env.clone(),
            secret: desired.secret.expose_secret().to_owned(),
            not_after: desired.not_after,
            readiness: *readiness,
            created_at,
            phase: Phase::Making,
            reason: None,
            process: None,
        })
    }

    /// The place of a VM with this address.
    pub(crate) fn slot(&self, address: Ipv4Addr, egress: Egress) -> Slot {
        let tap = tap_name(&self.config.owner, address);
        Slot { address, tap, mac: MacAddr::of_ipv4(address), egress }
    }

    /// For kernels that configure themselves, see Documentation/admin-guide/nfs/nfsroot.rst in Linux.
    fn ping_kernel_args(&self, slot: &Slot) -> String {
        let (gateway, prefix) = self.network.gateway();
        let mask = Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
        format!("root=/dev/vda ro ip={}::{gateway}:{mask}::eth0:off", slot.address)
    }
}
