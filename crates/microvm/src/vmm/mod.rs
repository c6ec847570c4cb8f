//! Virtual machine monitors.
//!
//! A [`Vmm`] makes processes and keeps no state of its own: everything it needs to find a VM again is in the VM's
//! [`VmSpec`] (which the journal keeps), its [`VmProcess`], and the sockets in [`VmSpec::run_dir`]. So a new agent process
//! takes over what an earlier one has started by calling the same methods with what the journal holds.

mod cgroup;
mod console;
mod ending;
pub mod firecracker;
mod manifest;
mod pidfd;
mod preflight;
mod process;
pub mod qemu;
mod spawn;
mod staging;

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use clarateach_ids::MacAddr;
use clarateach_runtime::{BoxedSeatStream, RuntimeKind};
use serde::{Deserialize, Serialize};

/// Everything a VMM must know to start a VM. Contains no secret, so it can be written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec {
    /// Unique among all VMs that this host has ever had: `[a-z0-9-]`, 1 to 40 characters. It is on the VMM's command
    /// line (`--id`, `-name`) and names its cgroup, so that a process can be told to be this VM's without a record.
    pub instance: String,
    /// A directory of this VM's own (0700, short enough for Unix sockets): API socket, control socket.
    pub run_dir: PathBuf,
    /// What the guest prints goes here, bounded to [`CONSOLE_LIMIT`].
    pub console: PathBuf,
    /// Processors.
    pub vcpus: u32,
    /// Memory in MiB.
    pub memory_mb: u32,
    /// An uncompressed kernel (ELF vmlinux).
    pub kernel: PathBuf,
    /// An initramfs in cpio form, compressed or not.
    pub initramfs: Option<PathBuf>,
    /// Kernel arguments that the caller wants; the driver puts those that its machine needs (console, reboot, quick boot)
    /// in front of them.
    pub kernel_args: String,
    /// Block devices in order: the first is `/dev/vda`.
    pub drives: Vec<Drive>,
    /// The one network interface, `eth0`.
    pub nic: Option<Nic>,
    /// Whether the VM has a control channel, see `clarateach_seatproto::guest`.
    pub control: bool,
}

/// A block device of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drive {
    /// `base` or `upper`; unique in the VM.
    pub id: String,
    /// A raw image.
    pub path: PathBuf,
    /// Whether the guest may not write to it.
    pub read_only: bool,
}

/// A network interface of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// A tap device that exists, is not in use, and is persistent.
    pub tap: String,
    /// The address that the device shows at boot.
    pub mac: MacAddr,
}

/// A VMM process, told apart from a later one with the same pid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmProcess {
    /// Process id.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks from boot to the start of the process.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id` when it was started.
    pub boot_id: String,
}

/// A snapshot on disk: a directory with whatever its driver puts there. Complete or not there: it is renamed into place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The directory.
    pub dir: PathBuf,
    /// What the snapshotted VM was started with: paths of drives, tap and sockets are those the snapshot refers to.
    pub spec: VmSpec,
    /// The VMM's version string at the time.
    pub vmm_version: String,
}

/// Most bytes of console output that are kept per VM; when it is full the oldest go.
pub const CONSOLE_LIMIT: u64 = 256 << 10;

/// What a VMM failed at.
#[derive(Debug, thiserror::Error)]
pub enum VmmError {
    /// The binary is not there, or is not what it should be.
    #[error("{program} can't be used: {message}")]
    Program {
        /// What was to be run.
        program: String,
        /// Why, and what to do.
        message: String,
    },
    /// The VMM ended before or while it was told what to do.
    #[error("the VMM of {instance} ended while {during}: {message}")]
    Exited {
        /// The VM.
        instance: String,
        /// What was being done.
        during: &'static str,
        /// Exit status and the last lines it printed.
        message: String,
    },
    /// The VMM refused a call.
    #[error("the VMM of {instance} refused {call}: {message}")]
    Refused {
        /// The VM.
        instance: String,
        /// The API call or QMP command.
        call: String,
        /// Its words.
        message: String,
    },
    /// The VMM does not answer in time.
    #[error("the VMM of {instance} did not answer {call} within {seconds} s")]
    Silent {
        /// The VM.
        instance: String,
        /// The API call or QMP command.
        call: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// This host can't run VMs with it.
    #[error("{message}")]
    Host {
        /// Why, and what to do.
        message: String,
    },
    /// A file or socket failed.
    #[error("{operation} {path}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
}

/// Starts VMs and talks to them. All methods may be called by a process other than the one that started the VM.
#[async_trait]
pub trait Vmm: Send + Sync + 'static {
    /// Which driver this is: [`RuntimeKind::Firecracker`] or [`RuntimeKind::Qemu`].
    fn kind(&self) -> RuntimeKind;

    /// The VMM's own version string, like `Firecracker v1.13.1` or `QEMU 7.2.22 (tcg)`; checks that it can be used here.
    ///
    /// # Errors
    /// [`VmmError::Program`], [`VmmError::Host`].
    async fn version(&self) -> Result<String, VmmError>;

    /// Spawns the VMM, detached from this process (own session, own cgroup, console to a bounded file), and calls
    /// `spawned` as soon as its pid is known, before the guest runs; then configures it and starts the guest. On an
    /// error nothing of it is left running.
    ///
    /// # Errors
    /// Whatever the VMM failed at.
    async fn start(&self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<VmProcess, VmmError>;

    /// As [`Vmm::start`], but from a snapshot of a VM that was parked: same kernel, memory and processors, the drives, tap
    /// and sockets of `spec`. The guest runs when this returns.
    ///
    /// # Errors
    /// Whatever the VMM failed at, a snapshot that does not fit among it.
    async fn restore(
        &self,
        snapshot: &Snapshot,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
    ) -> Result<VmProcess, VmmError>;

    /// Pauses the VM, writes a full snapshot into `dir` (which must not exist; complete or absent afterwards) and leaves the
    /// VM paused.
    ///
    /// # Errors
    /// Whatever the VMM failed at.
    async fn snapshot(&self, spec: &VmSpec, process: &VmProcess, dir: &Path) -> Result<Snapshot, VmmError>;

    /// Whether `process` is alive and is the VMM of `spec`: pid, start time and boot id match, and its command line names
    /// the instance.
    fn is_alive(&self, spec: &VmSpec, process: &VmProcess) -> bool;

    /// Finds the VMM of an instance without a record of its pid: by its cgroup, else by the command lines in /proc.
    fn find(&self, instance: &str) -> Vec<VmProcess>;

    /// Waits until the VMM has ended; at once if it has. By pidfd, so it needs not be a child of this process.
    ///
    /// # Errors
    /// When the process can't be watched.
    async fn wait(&self, process: &VmProcess) -> std::io::Result<()>;

    /// Kills the VMM (SIGKILL) and waits until it is gone and reaped; removes its cgroup, sockets and jail. Fine when
    /// there is nothing.
    ///
    /// # Errors
    /// When something is left.
    async fn kill(&self, spec: &VmSpec, process: Option<&VmProcess>) -> Result<(), VmmError>;

    /// Opens the control channel to the guest's first process.
    ///
    /// # Errors
    /// When nothing listens: the guest may not have come that far.
    async fn control(&self, spec: &VmSpec) -> std::io::Result<BoxedSeatStream>;
}

/// Called with the VMM's process before the guest runs, so that it can be journaled.
pub type OnSpawn<'a> = Box<dyn FnOnce(&VmProcess) -> std::io::Result<()> + Send + 'a>;
