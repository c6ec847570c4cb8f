//! What a [`crate::MicroVmRuntime`] is told about its host.

use std::path::PathBuf;

use clarateach_runtime::probe::ProbePolicy;
use serde::{Deserialize, Serialize};

/// Processors of a VM, unless it is told otherwise.
pub const DEFAULT_VCPUS: u32 = 2;
/// Memory of a VM in MiB, unless it is told otherwise.
pub const DEFAULT_MEMORY_MB: u32 = 512;
/// Size of a VM's upper drive in MiB, unless it is told otherwise. Sparse: it takes what the learner writes.
pub const DEFAULT_DISK_MB: u32 = 10 << 10;

/// How it is told that a VM is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// Its workspace answers `/health`. The guest boots our initramfs and is told who it is over the control channel.
    #[default]
    Health,
    /// It answers a ping. For kernels and images of another make: no initramfs, no control channel; the kernel gets its
    /// address on its command line (`ip=`) and mounts the image itself.
    Ping,
}

/// Configuration of a [`crate::MicroVmRuntime`].
#[derive(Debug, Clone)]
pub struct MicroVmConfig {
    /// Where `vmlinux`, `rootfs.ext4`, other images as `NAME.ext4`, and optionally kernel `modules/` are.
    pub images_dir: PathBuf,
    /// Sockets of VMMs: one directory per VM. Made if need be, mode 0700; must belong to us. Keep it short: a Unix
    /// socket's path has at most 107 bytes.
    pub socket_dir: PathBuf,
    /// Journal, generations, disks, consoles, snapshots. Made if need be, mode 0700; must belong to us. One process at a time.
    pub state_dir: PathBuf,
    /// The most VMs at once, failed and stopped ones included.
    pub capacity: u32,
    /// The installation or worker that everything made here is marked as belonging to.
    pub owner: String,
    /// The static `workspace` binary, which becomes the guests' first process.
    pub workspace_bin: PathBuf,
    /// Processors of a VM whose wish says 0.
    pub default_vcpus: u32,
    /// Memory in MiB of a VM whose wish says 0.
    pub default_memory_mb: u32,
    /// Size in MiB of the upper drive of a VM whose wish says 0.
    pub default_disk_mb: u32,
    /// How VMs are found ready, unless a create says otherwise.
    pub readiness: Readiness,
    /// Whether VMs start from a snapshot of one that is parked, where the VMM can.
    pub snapshots: bool,
    /// How often VMs are asked whether they are well; `patience` is how long one may take until it is for the first time.
    pub probe: ProbePolicy,
}

impl MicroVmConfig {
    /// The usual directories and figures.
    #[must_use]
    pub fn new(owner: String, workspace_bin: PathBuf) -> Self {
        Self {
            images_dir: PathBuf::from("/var/lib/clarateach/images"),
            socket_dir: PathBuf::from("/tmp/clarateach"),
            state_dir: PathBuf::from("/var/lib/clarateach/state"),
            capacity: 50,
            owner,
            workspace_bin,
            default_vcpus: DEFAULT_VCPUS,
            default_memory_mb: DEFAULT_MEMORY_MB,
            default_disk_mb: DEFAULT_DISK_MB,
            readiness: Readiness::default(),
            snapshots: true,
            probe: ProbePolicy::default(),
        }
    }
}
