//! A control group of its own for every VMM: its limits, and a way to find it without a record.
//!
//! `clarateach/INSTANCE` below the root of the unified hierarchy where that has the controllers (cgroup v2), else below the
//! roots of the pids, memory and cpu hierarchies (v1). It is outside the agent's own group on purpose: whatever happens
//! to the agent's service does not happen to the VMs. Where no group can be made (not root, a read-only /sys/fs/cgroup)
//! VMMs run without: they are then found by their command lines, and their limits are those of the VM itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::{VmProcess, VmmError};

/// The group that all groups of VMs are in.
const PARENT: &str = "clarateach";
/// Time slice of the cpu controller, in microseconds.
const PERIOD: u64 = 100_000;
/// How long an emptied group may refuse to go.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a VMM may use, beyond which it is throttled or killed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes, the guest's memory among them.
    pub(super) memory: u64,
    /// Hundredths of a processor.
    pub(super) cpu_percent: u64,
    /// Threads.
    pub(super) pids: u64,
}

/// The hierarchies of this host that are of use here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hierarchies {
    Unified(PathBuf),
    /// Mount points of those controllers that there are, the one that groups are found by first.
    Legacy(Vec<(Controller, PathBuf)>),
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Controller {
    Pids,
    Memory,
    Cpu,
}

const CONTROLLERS: [(Controller, &str); 3] =
    [(Controller::Pids, "pids"), (Controller::Memory, "memory"), (Controller::Cpu, "cpu")];

impl Hierarchies {
    fn of_this_host() -> &'static Self {
        static FOUND: OnceLock<Hierarchies> = OnceLock::new();
        FOUND.get_or_init(|| {
            let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            Self::parse(&mounts, |root| {
                fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
            })
        })
    }

    /// From proc_pid_mountinfo(5), and what `controllers` says of a unified hierarchy.
    fn parse(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Self {
        let mut legacy = Vec::new();
        for line in mountinfo.lines() {
            let Some((mount, filesystem)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut filesystem = filesystem.split(' ');
            match filesystem.next() {
                Some("cgroup2") if controllers(&point).split_whitespace().any(|name| name == "pids") => {
                    return Self::Unified(point);
                }
                Some("cgroup") => {
                    let options: Vec<&str> = filesystem.nth(1).unwrap_or_default().split(',').collect();
                    let found = CONTROLLERS.iter().find(|(_, name)| options.contains(name));
                    legacy.extend(found.map(|(controller, _)| (*controller, point)));
                }
                _ => {}
            }
        }
        if legacy.is_empty() {
            return Self::None;
        }
        legacy.sort_by_key(|(controller, _)| *controller as u8);
        Self::Legacy(legacy)
    }

    fn groups(&self, instance: &str) -> Vec<PathBuf> {
        let of = |root: &PathBuf| root.join(PARENT).join(instance);
        match self {
            Self::Unified(root) => vec![of(root)],
            Self::Legacy(roots) => roots.iter().map(|(_, root)| of(root)).collect(),
            Self::None => Vec::new(),
        }
    }
}

/// Makes the groups of an instance, as far as this host lets us, and opens what a process has to write `0` to in order
/// to enter them.
pub(super) fn enter(instance: &str, limits: Limits) -> Vec<File> {
    let made = match Hierarchies::of_this_host() {
        Hierarchies::Unified(root) => vec![make_unified(root, instance, limits)],
        Hierarchies::Legacy(roots) => {
            roots.iter().map(|(controller, root)| make_legacy(*controller, root, instance, limits)).collect()
        }
        Hierarchies::None => Vec::new(),
    };
    let mut doors = Vec::new();
    for group in made {
        let opened = group.and_then(|group| OpenOptions::new().write(true).open(group.join("cgroup.procs")));
        match opened {
            Ok(door) => doors.push(door),
            Err(error) => tracing::debug!(instance, %error, "no control group"),
        }
    }
    doors
}

fn make_unified(root: &Path, instance: &str, limits: Limits) -> io::Result<PathBuf> {
    let parent = root.join(PARENT);
    fs::create_dir_all(&parent)?;
    for group in [root, &parent] {
        for (_, controller) in CONTROLLERS {
            // One at a time: where one can't be had, the others can.
            let _ = write(group, "cgroup.subtree_control", &format!("+{controller}"));
        }
    }
    let group = parent.join(instance);
    fs::create_dir_all(&group)?;
    let settings = [
        ("pids.max", limits.pids.to_string()),
        ("memory.max", limits.memory.to_string()),
        ("memory.swap.max", "0".to_owned()),
        ("memory.oom.group", "1".to_owned()),
        ("cpu.max", format!("{} {PERIOD}", limits.cpu_percent * PERIOD / 100)),
    ];
    for (file, value) in settings {
        set(&group, file, &value);
    }
    Ok(group)
}

fn make_legacy(controller: Controller, root: &Path, instance: &str, limits: Limits) -> io::Result<PathBuf> {
    let group = root.join(PARENT).join(instance);
    fs::create_dir_all(&group)?;
    match controller {
        Controller::Pids => set(&group, "pids.max", &limits.pids.to_string()),
        Controller::Memory => set(&group, "memory.limit_in_bytes", &limits.memory.to_string()),
        Controller::Cpu => {
            set(&group, "cpu.cfs_period_us", &PERIOD.to_string());
            set(&group, "cpu.cfs_quota_us", &(limits.cpu_percent * PERIOD / 100).to_string());
        }
    }
    Ok(group)
}

/// A limit that can't be set is no reason not to run a VM, but worth a word.
fn set(group: &Path, file: &str, value: &str) {
    if let Err(error) = write(group, file, value) {
        tracing::debug!(group = %group.display(), file, value, %error, "limit not set");
    }
}

fn write(group: &Path, file: &str, value: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(group.join(file))?.write_all(value.as_bytes())
}

/// Everything that runs in the groups of an instance.
pub(super) fn members(instance: &str) -> Vec<VmProcess> {
    let mut found: Vec<VmProcess> = Vec::new();
    for group in Hierarchies::of_this_host().groups(instance) {
        let procs = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let pids = procs.lines().filter_map(|line| line.parse().ok());
        for process in pids.filter_map(VmProcess::observe) {
            if !found.contains(&process) {
                found.push(process);
            }
        }
    }
    found
}

/// Removes the groups of an instance, in which nothing may run any more.
pub(super) async fn remove(instance: &str) -> Result<(), VmmError> {
    for group in Hierarchies::of_this_host().groups(instance) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match fs::remove_dir(&group) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                // A group stays busy for a moment after its last process has been reaped.
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(source) => {
                    return Err(VmmError::Io { operation: "remove the control group", path: group, source });
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEGACY: &str = "\
30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 30 0:31 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";

    #[test]
    fn the_hierarchy_that_has_the_controllers_is_taken() {
        let unified = "25 20 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(unified, |_| "cpuset cpu io memory pids".into());
        assert_eq!(found, Hierarchies::Unified("/sys/fs/cgroup".into()));
        assert_eq!(found.groups("i-1"), [PathBuf::from("/sys/fs/cgroup/clarateach/i-1")]);

        let found = Hierarchies::parse(LEGACY, |_| "hugetlb".into());
        let roots = [
            (Controller::Pids, PathBuf::from("/sys/fs/cgroup/pids")),
            (Controller::Memory, PathBuf::from("/sys/fs/cgroup/memory")),
            (Controller::Cpu, PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")),
        ];
        assert_eq!(found, Hierarchies::Legacy(roots.to_vec()));
        assert_eq!(Hierarchies::parse("", |_| String::new()), Hierarchies::None);
    }
}
