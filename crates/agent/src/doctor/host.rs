//! The host: rights, memory, disks.

use std::path::{Path, PathBuf};

use super::Check;
use crate::config::Config;

/// What a VM has unless told otherwise, and what its VMM takes besides, in MiB.
const VM_MB: u64 = 512;
const VMM_MB: u64 = 8;
/// What the host needs for itself, in MiB.
const HOST_MB: u64 = 512;
/// Below this the first VMs already fill the disk.
const LITTLE_DISK: u64 = 2 << 30;
/// What a learner writes in a day, by experience of the documented 50 GB for 50 VMs.
const DISK_PER_VM: u64 = 1 << 30;

/// Capabilities that VMs need of the agent, by capability.h: bit and name.
const NEEDED: &[(u32, &str)] = &[
    (1, "CAP_DAC_OVERRIDE"),
    (0, "CAP_CHOWN"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (13, "CAP_NET_RAW"),
    (21, "CAP_SYS_ADMIN"),
];

pub(super) fn privileges() -> Check {
    let fix = "sudo agent doctor";
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let Some(effective) = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) else {
        return Check::broken("privileges", "/proc/self/status does not say what this process may do", fix);
    };
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect();
    if !rustix::process::geteuid().is_root() {
        return Check::broken("privileges", "not root: networking and KVM need it", fix);
    }
    if missing.is_empty() {
        Check::ok("privileges", "root, with every capability that is needed")
    } else {
        let message = format!("root without {}", missing.join(", "));
        Check::broken("privileges", message, "start it outside the container or sandbox that takes them away")
    }
}

pub(super) fn checks(config: &Config) -> Vec<Check> {
    vec![memory(config), disk("disk", &config.places.state, config), directory(&config.places.sockets)]
}

fn memory(config: &Config) -> Check {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let total = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    let Some(total) = total.map(|kib| kib / 1024) else {
        return Check::warning("memory", "/proc/meminfo does not say how much there is", "mount /proc");
    };
    let capacity = u64::from(config.vmm.capacity);
    let wanted = capacity * (VM_MB + VMM_MB) + HOST_MB;
    if total >= wanted {
        return Check::ok("memory", format!("{total} MiB hold {capacity} VMs of {VM_MB} MiB"));
    }
    let fits = total.saturating_sub(HOST_MB) / (VM_MB + VMM_MB);
    Check::warning(
        "memory",
        format!("{total} MiB hold {fits} VMs of {VM_MB} MiB that use all of it; CAPACITY is {capacity}"),
        format!("CAPACITY={fits}, or a host with {wanted} MiB"),
    )
}

/// The nearest directory that is there.
fn existing(path: &Path) -> PathBuf {
    path.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn disk(name: &'static str, path: &Path, config: &Config) -> Check {
    let place = existing(path);
    let fix = format!("free some space on {}, or set STATE_DIR to a larger disk", place.display());
    let room = match rustix::fs::statvfs(&place) {
        Ok(stat) => stat.f_bavail * stat.f_frsize,
        Err(error) => return Check::broken(name, format!("{}: {error}", place.display()), fix),
    };
    let wanted = u64::from(config.vmm.capacity) * DISK_PER_VM;
    let message = format!("{} MiB are free on {}", room >> 20, place.display());
    if room < LITTLE_DISK {
        Check::broken(name, message, fix)
    } else if room < wanted {
        let message = format!("{message}: less than 1 GiB for each of {} VMs", config.vmm.capacity);
        Check::warning(name, message, fix)
    } else {
        Check::ok(name, message)
    }
}

/// Sockets must lie where only their owner gets at them.
fn directory(path: &Path) -> Check {
    use std::os::unix::fs::MetadataExt;
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Check::ok("sockets", format!("{shown} will be made"))
        }
        Err(error) => {
            Check::broken("sockets", format!("{shown}: {error}"), "set SOCKET_DIR to another directory")
        }
        Ok(metadata) if !metadata.is_dir() => {
            Check::broken("sockets", format!("{shown} is no directory"), format!("sudo rm {shown}"))
        }
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => Check::broken(
            "sockets",
            format!("{shown} belongs to user {}", metadata.uid()),
            format!("sudo chown $(id -u) {shown}, or set SOCKET_DIR"),
        ),
        Ok(_) => Check::ok("sockets", format!("{shown} is ours")),
    }
}
