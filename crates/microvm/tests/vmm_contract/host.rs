//! What these tests make of the host they run on, and what they look for on it afterwards.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clarateach_microvm::vmm::{VmProcess, VmSpec};
use socket2::{Domain, Protocol, Socket, Type};

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs a test in a network namespace of its own, on a thread of its own; everything that the test spawns is in it too.
pub(crate) fn in_own_network<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let run = move || {
        if is_root() {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            ip("link set lo up");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    std::thread::spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

pub(crate) fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tap with the host's side of a guest's network on it.
pub(crate) fn tap(name: &str, address: &str) {
    ip(&format!("tuntap add dev {name} mode tap"));
    ip(&format!("addr add {address}/24 dev {name}"));
    ip(&format!("link set {name} up"));
}

/// Whether the address answers one echo request within a second. Needs root.
pub(crate) fn pings(address: &str) -> bool {
    let address: Ipv4Addr = address.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
    let identifier = std::process::id().to_be_bytes();
    let mut request = [8, 0, 0, 0, identifier[2], identifier[3], 0, 1];
    let sum: u32 = request.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let check = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    request[2..4].copy_from_slice(&check.to_be_bytes());
    if socket.send_to(&request, &SocketAddrV4::new(address, 0).into()).is_err() {
        return false;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        socket.set_read_timeout(Some(left)).unwrap();
        let mut packet = [0_u8; 1500];
        let Ok(length) = (&socket).read(&mut packet) else { return false };
        let packet = &packet[..length];
        let reply = packet.get(usize::from(packet[0] & 15) * 4..).unwrap_or_default();
        if packet[12..16] == address.octets()
            && reply.first() == Some(&0)
            && reply.get(4..6) == Some(&request[4..6])
        {
            return true;
        }
    }
    false
}

/// A name that no other test and no other run on this host has.
pub(crate) fn instance(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("ct-{what}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Everything that is left of a VM: processes, control groups, mounts, files in its run directory.
pub(crate) fn left_of(spec: &VmSpec) -> Vec<String> {
    let mut left = clarateach_testkit::leaks::processes(&spec.instance);
    left.extend(groups(&spec.instance).iter().map(|group| format!("group {}", group.display())));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    left.extend(
        mounts.lines().filter(|line| line.contains(&spec.instance)).map(|line| format!("mount {line}")),
    );
    left.extend(clarateach_testkit::leaks::files(&spec.run_dir));
    left
}

/// Control groups with this name, in whatever hierarchy.
pub(crate) fn groups(instance: &str) -> Vec<PathBuf> {
    let roots = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
    let roots = roots.chain([PathBuf::from("/sys/fs/cgroup")]);
    roots.map(|root| root.join("clarateach").join(instance)).filter(|group| group.exists()).collect()
}

/// Bytes that a file takes on disk.
pub(crate) fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).map_or(0, |meta| meta.blocks() * 512)
}

/// The children of this process that have ended and were not reaped.
pub(crate) fn zombies() -> Vec<String> {
    let own = std::process::id().to_string();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let stats = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let mut fields = stat[stat.rfind(')').unwrap() + 2..].split(' ');
            fields.next() == Some("Z") && fields.next() == Some(&own)
        })
        .collect()
}

/// Memory of a process in KiB, what it shares divided by those it shares it with.
pub(crate) fn proportional_kib(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

/// Ends what a failed test has left running, as far as that goes.
pub(crate) fn end(processes: &[VmProcess], instance: &str) {
    for pid in processes.iter().filter_map(|process| rustix::process::Pid::from_raw(process.pid)) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    for group in groups(instance) {
        while fs::remove_dir(&group).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
