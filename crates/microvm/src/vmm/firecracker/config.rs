//! Where Firecracker is, how it is jailed, and what a VM may take.

use std::path::PathBuf;

/// Where Firecracker is and how it shall run.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// The binary; a bare name is looked for in PATH.
    pub program: PathBuf,
    /// How it is jailed; without, it runs as this process's user.
    pub jailer: Option<JailerConfig>,
    /// What a VM may take from the host's disks and network.
    pub rates: Rates,
    /// The device that must open for guests to run; another one only where `program` is a double.
    pub kvm: PathBuf,
}

impl Default for FirecrackerConfig {
    fn default() -> Self {
        Self { program: "firecracker".into(), jailer: None, rates: Rates::default(), kvm: "/dev/kvm".into() }
    }
}

/// How Firecracker is jailed: a chroot of its own, and a user id of its own for every VM. Needs root.
#[derive(Debug, Clone)]
pub struct JailerConfig {
    /// The binary; a bare name is looked for in PATH.
    pub program: PathBuf,
    /// Where jails are made.
    pub chroot_base: PathBuf,
    /// VMs get the user ids from this one on, as many as there are; nobody else must have them.
    pub uid_base: u32,
    /// The group of all jailed VMs.
    pub gid: u32,
}

/// Upper bounds per VM.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Bytes per second to and from each drive.
    pub disk_bytes: u64,
    /// Operations per second on each drive.
    pub disk_operations: u64,
    /// Bytes per second in each direction of the network.
    pub network_bytes: u64,
}

impl Default for Rates {
    /// What one learner hardly notices and fifty can't all take: 256 MiB/s, 20,000 operations/s, 1 Gbit/s.
    fn default() -> Self {
        Self { disk_bytes: 256 << 20, disk_operations: 20_000, network_bytes: 125_000_000 }
    }
}
