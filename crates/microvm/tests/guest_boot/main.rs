//! Guests booted for real: a distribution's kernel, our initramfs, an emulated machine.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic, and prints what it measured")]

mod image;
mod machine;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use clarateach_ext4::{Options, write_empty};
use clarateach_microvm::guest::control::ControlError;
use clarateach_microvm::guest::kernel;
use clarateach_seatproto::guest::{GuestConfig, GuestState, MAX_LINE};
use clarateach_testkit::wait_for_blocking;
use image::Init;
use machine::{Machine, PATIENCE, Parts, Unusual, config, parts};

/// A directory with a base image and an empty upper drive.
fn drives(init: &Init<'_>) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    image::write(&directory.path().join("base.ext4"), init);
    let options =
        Options { journal: Some(clarateach_ext4::EMPTY_JOURNAL), ..Options::new(1 << 30, b"upper") };
    write_empty(&directory.path().join("upper.ext4"), options).unwrap();
    directory
}

fn ours(parts: &Parts) -> Vec<u8> {
    std::fs::read(&parts.workspace).unwrap()
}

fn digest(path: &Path) -> blake3::Hash {
    blake3::hash(&std::fs::read(path).unwrap())
}

fn await_health(machine: &Machine) {
    wait_for_blocking("the workspace's health", PATIENCE, || {
        machine.request("GET", "/health", None, "").filter(|(status, _)| *status == 200)
    });
}

fn line<'a>(output: &'a str, name: &str) -> &'a str {
    output
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
        .unwrap_or_else(|| panic!("no {name} in:\n{output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_parks_becomes_a_seat_keeps_its_disk_and_switches_off() {
    let Some(parts) = parts("guest_boot") else { return };
    let drives = drives(&Init::Ours(&ours(&parts)));
    let base = digest(&drives.path().join("base.ext4"));
    let kernel = kernel::inspect(&parts.kernel.vmlinux).unwrap();
    assert!(kernel.version.starts_with(|c: char| c.is_ascii_digit()), "{kernel:?}");

    let mut machine = Machine::boot(&parts, drives.path(), &Unusual::default());
    let mut control = machine.control().await;
    assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    let parked = machine.started.elapsed();
    assert!(machine.request("GET", "/health", None, "").is_none(), "nothing serves before it is configured");
    refuses_what_is_no_seat(&mut control).await;
    let begun = Instant::now();
    control.configure(&config()).await.unwrap();
    let configured = begun.elapsed();
    await_health(&machine);
    eprintln!(
        "boot to parked {parked:?}, configure {configured:?}, configure to health {:?}",
        begun.elapsed()
    );
    assert_eq!(control.hello().await.unwrap(), GuestState::Running);
    assert!(matches!(control.configure(&config()).await, Err(ControlError::Refused { .. })));

    let (status, _) = machine.request("GET", "/terminals", None, "").unwrap();
    assert_eq!(status, 401);
    is_the_seat_it_was_told_to_be(&machine);
    drop(control);
    survives_a_rude_host(&machine).await;

    let mut control = machine.control().await;
    control.clock(2_000_000_000_000).await.unwrap();
    let now: u64 = machine.run("date +%s").trim().parse().unwrap();
    assert!((2_000_000_000..2_000_000_600).contains(&now), "{now}");
    let kept =
        machine.run("echo precious >kept; cat kept; head -c 16 /dev/urandom | od -An -tx1 2>/dev/null; true");
    assert!(kept.starts_with("precious"));

    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
    assert!(machine.console().contains("shutting down"), "{}", machine.console());
    assert_eq!(digest(&drives.path().join("base.ext4")), base, "the base was written to");
    let checked = Command::new("e2fsck").arg("-fn").arg(drives.path().join("upper.ext4")).output();
    if let Ok(checked) = checked {
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    }

    let mut machine = Machine::boot(&parts, drives.path(), &Unusual::default());
    let mut control = machine.control().await;
    assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    control.configure(&GuestConfig { hostname: "seat-8".into(), ..config() }).await.unwrap();
    await_health(&machine);
    assert_eq!(machine.run("cat kept; hostname; grep -c seat /etc/hosts"), "precious\nseat-8\n2\n");
    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
}

async fn refuses_what_is_no_seat(control: &mut clarateach_microvm::guest::control::Control) {
    let nobody = GuestConfig { hostname: "two words".into(), ..config() };
    let mut nowhere = config();
    if let Some(network) = &mut nowhere.network {
        network.mac = "everyone".into();
    }
    let stray = GuestConfig { env: [("CLARATEACH_UID".to_owned(), "0".to_owned())].into(), ..config() };
    for wrong in [nobody, nowhere, stray] {
        let refused = control.configure(&wrong).await;
        assert!(matches!(refused, Err(ControlError::Refused { .. })), "{refused:?}");
        assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    }
}

fn is_the_seat_it_was_told_to_be(machine: &Machine) {
    let output = machine.run(
        r#"echo "hostname: $(hostname) $(cat /etc/hostname) $(grep -c '10.0.2.15.*seat-7' /etc/hosts)"
        echo "clock: $(date +%s)"
        echo "id: $(id -u)"
        echo "course: $COURSE"
        echo "ours: $(env 2>/dev/null | grep -c CLARATEACH_ || true)"
        echo "secret: $(cat /proc/1/environ /proc/1/cmdline 2>/dev/null | grep -c correct-horse)"
        echo "anywhere: $(grep -rls correct-horse /etc /run /tmp /workspace 2>/dev/null | grep -cv prob)"
        echo "dns: $(echo $(cat /etc/resolv.conf))"
        echo "mac: $(cat /sys/class/net/eth0/address) $(cat /sys/class/net/eth0/mtu)"
        echo "address: $(echo $(ip -4 addr show eth0 | grep inet))"
        echo "route: $(echo $(ip route | grep default))"
        echo "ipv6: $(cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6)"
        echo "lo: $(ip addr show lo | grep -c 127.0.0.1)"
        echo "root: $(mount | grep -c '^overlay on / type overlay (rw')"
        echo "mounts: $(mount | grep -cE ' on (/proc|/sys|/dev|/dev/pts|/dev/shm|/run|/sys/fs/cgroup) type')"
        echo "workspace: $(stat -c '%u %a' /workspace)"
        echo "sudoers: $(stat -c '%u %a' /etc/sudoers.d/clarateach)"
        echo "tmp: $(stat -c %a /tmp)"
        echo "fd: $(ls -l /dev/fd | grep -c /proc/self/fd)"
        echo "rss: $(grep VmRSS /proc/1/status)"
        echo "init: $(cat /proc/1/comm) $(ls / | grep -c clarateach)"
        (sleep 0.2 & )
        sleep 0.5
        echo "zombies: $(cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z ')""#,
    );
    assert_eq!(line(&output, "hostname"), "seat-7 seat-7 1");
    let clock: u64 = line(&output, "clock").parse().unwrap();
    assert!((1_900_000_000..1_900_000_600).contains(&clock), "{clock}");
    assert_eq!(line(&output, "id"), "1000");
    assert_eq!(line(&output, "course"), "rust 101");
    assert_eq!(line(&output, "ours"), "0");
    assert_eq!(line(&output, "secret"), "0");
    assert_eq!(line(&output, "anywhere"), "0");
    assert_eq!(line(&output, "dns"), "nameserver 10.0.2.3 nameserver 9.9.9.9");
    assert_eq!(line(&output, "mac"), "02:00:c0:a8:64:11 1400");
    assert!(line(&output, "address").starts_with("inet 10.0.2.15/24"), "{output}");
    assert!(line(&output, "route").starts_with("default via 10.0.2.2"), "{output}");
    assert_eq!(line(&output, "ipv6"), "1");
    assert_eq!(line(&output, "lo"), "1");
    assert_eq!(line(&output, "root"), "1");
    assert_eq!(line(&output, "mounts"), "7");
    assert_eq!(line(&output, "workspace"), "1000 755");
    assert_eq!(line(&output, "sudoers"), "0 440");
    assert_eq!(line(&output, "tmp"), "1777");
    assert_eq!(line(&output, "fd"), "1");
    assert_eq!(line(&output, "init"), "workspace 0");
    assert_eq!(line(&output, "zombies"), "0");
    let rss: u64 = line(&output, "rss").split_whitespace().nth(1).unwrap().parse().unwrap();
    eprintln!("resident memory of process 1: {rss} KiB");
    assert!(rss <= 4096, "{rss} KiB");
}

/// Garbage, a line without end, half a line and then somebody else: the channel goes on.
async fn survives_a_rude_host(machine: &Machine) {
    for noise in [&b"garbage\n"[..], b"\xff\xfe\x00\n", &[&vec![b'x'; MAX_LINE + 9][..], b"\n"].concat()] {
        let mut raw = machine.raw_control();
        raw.set_read_timeout(Some(PATIENCE)).unwrap();
        raw.write_all(noise).unwrap();
        let mut answer = String::new();
        BufReader::new(raw).read_line(&mut answer).unwrap();
        assert!(answer.starts_with(r#"{"status":"error","message":"malformed"#), "{answer}");
    }
    machine.raw_control().write_all(b"{\"op\":\"shut").unwrap();
    let mut control = machine.control().await;
    assert_eq!(control.hello().await.unwrap(), GuestState::Running);
    // Nobody listens: process 1 must sleep, not wait by asking.
    drop(control);
    let spent =
        || machine.run("awk '{print $14+$15}' /proc/1/stat; sleep 2; awk '{print $14+$15}' /proc/1/stat");
    let spent = spent();
    let ticks: Vec<u64> = spent.lines().map(|ticks| ticks.parse().unwrap()).collect();
    assert!(ticks[1] - ticks[0] < 60, "process 1 was busy: {ticks:?} ticks of 10 ms in 2 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_an_init_of_its_own_runs_it_as_process_1() {
    let Some(parts) = parts("guest_boot_own_init") else { return };
    let init =
        "#!/bin/sh\necho \"own init is $$\" >/dev/console\necho $$ >/run/own\nwhile :; do sleep 1; done\n";
    let drives = drives(&Init::Script(init));
    let mut machine = Machine::boot(&parts, drives.path(), &Unusual::default());
    let mut control = machine.control().await;
    control.configure(&config()).await.unwrap();
    await_health(&machine);
    let output = machine.run(
        "cat /run/own; cat /proc/1/cmdline | tr '\\0' ' ' 2>/dev/null; echo; ls -l /proc/1/fd 2>/dev/null | grep -c vport; hostname",
    );
    assert!(output.starts_with("1\n"), "{output}");
    assert!(output.ends_with("seat-7\n"), "{output}");
    assert!(machine.console().contains("own init is 1"), "{}", machine.console());
    // A learner who takes all memory loses what took it, and not the server, which is no longer process 1.
    let script = r#"cat /proc/self/oom_score_adj
        dd if=/dev/zero of=/dev/null bs=150000000 count=1
        echo "dd: $?""#;
    assert_eq!(
        machine.run(script).lines().filter(|line| *line != "Killed").collect::<Vec<_>>(),
        ["0", "dd: 137"]
    );
    assert_eq!(control.hello().await.unwrap(), GuestState::Running);
    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_init_that_ends_takes_the_machine_with_it_and_says_so() {
    let Some(parts) = parts("guest_boot_panic") else { return };
    let drives = drives(&Init::Script("#!/bin/sh\nsleep 1\nexit 3\n"));
    let mut machine = Machine::boot(&parts, drives.path(), &Unusual::default());
    let mut control = machine.control().await;
    // Whether the answer or the end comes first is a matter of luck.
    let _ = control.configure(&config()).await;
    machine.ended();
    let console = machine.console();
    assert!(console.contains("Kernel panic - not syncing: Attempted to kill init"), "{console}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kernel_that_mounted_the_base_itself_starts_the_same_seat() {
    let Some(parts) = parts("guest_boot_without_initramfs") else { return };
    let drives = drives(&Init::Ours(&ours(&parts)));
    // Debian's kernel has its drivers as modules, so what a kernel with built-in ones does is done by a script.
    let script = "#!/bin/sh\nmount -t devtmpfs none /dev\nfor m in /modules/*; do insmod $m; done\n\
        while ! [ -b /dev/vda ]; do :; done\nmount -t ext4 -o ro /dev/vda /base\numount /dev\nexec switch_root /base /sbin/init\n";
    let initramfs = scripted_initramfs(&parts, drives.path(), script);
    let unusual = Unusual { initramfs: Some(initramfs), ..Unusual::default() };
    let mut machine = Machine::boot(&parts, drives.path(), &unusual);
    let mut control = machine.control().await;
    control.configure(&config()).await.unwrap();
    await_health(&machine);
    assert!(machine.console().contains("base image is the kernel's root"), "{}", machine.console());
    let output = machine.run("hostname; mount | grep -c '^overlay on / '; ls /run; cat /proc/1/comm");
    assert_eq!(output, "seat-7\n1\nworkspace\n");
    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_serial_port_the_guest_listens_on_vsock() {
    const TEST: &str = "firecracker_control_channel";
    let Some(parts) = parts(TEST) else { return };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let program = std::env::split_paths(&path).map(|d| d.join("vhost-device-vsock")).find(|p| p.is_file());
    let Some(program) = program else {
        clarateach_testkit::skip(
            TEST,
            "vhost-device-vsock is not installed (cargo install vhost-device-vsock)",
        );
        return;
    };
    let drives = drives(&Init::Ours(&ours(&parts)));
    let unusual = Unusual { vsock: Some(program), ..Unusual::default() };
    let mut machine = Machine::boot(&parts, drives.path(), &unusual);
    let mut first = machine.control().await;
    assert_eq!(first.hello().await.unwrap(), GuestState::Parked);
    // Whoever comes later takes its place, though it never said goodbye.
    let mut control = machine.control().await;
    control.configure(&config()).await.unwrap();
    await_health(&machine);
    drop(control);
    let mut control = machine.control().await;
    assert_eq!(control.hello().await.unwrap(), GuestState::Running);
    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
}

/// Our initramfs, with busybox and a script in place of its init.
fn scripted_initramfs(parts: &Parts, directory: &Path, script: &str) -> std::path::PathBuf {
    let ours =
        clarateach_microvm::guest::initramfs::build(&parts.workspace, Some(&parts.kernel.modules), directory);
    let tree = directory.join("tree");
    for name in ["bin", "dev", "base"] {
        std::fs::create_dir_all(tree.join(name)).unwrap();
    }
    let cpio = |arguments: &[&str], input: std::process::Stdio, output: std::process::Stdio| {
        let status = Command::new("/bin/busybox")
            .arg("cpio")
            .args(arguments)
            .current_dir(&tree)
            .stdin(input)
            .stdout(output)
            .stderr(std::process::Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    let archive = std::fs::File::open(ours.unwrap()).unwrap();
    cpio(&["-i", "-d", "modules/*"], archive.into(), std::process::Stdio::null());
    std::fs::copy("/bin/busybox", tree.join("bin/busybox")).unwrap();
    for tool in ["sh", "mount", "umount", "insmod", "switch_root"] {
        std::os::unix::fs::symlink("busybox", tree.join("bin").join(tool)).unwrap();
    }
    std::fs::write(tree.join("init"), script).unwrap();
    std::fs::set_permissions(tree.join("init"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let made = directory.join("scripted.cpio");
    let names = Command::new("find").arg(".").current_dir(&tree).output().unwrap().stdout;
    std::fs::write(directory.join("names"), names).unwrap();
    let names = std::fs::File::open(directory.join("names")).unwrap();
    cpio(&["-o", "-H", "newc"], names.into(), std::fs::File::create(&made).unwrap().into());
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_become_a_seat_says_why() {
    let Some(parts) = parts("guest_boot_faults") else { return };
    let drives = drives(&Init::Ours(&ours(&parts)));
    let mut machine = Machine::boot(&parts, drives.path(), &Unusual { no_upper: true, ..Unusual::default() });
    let mut control = machine.control().await;
    assert_eq!(control.hello().await.unwrap(), GuestState::Parked);
    for _ in 0..2 {
        let refused = control.configure(&config()).await.unwrap_err().to_string();
        assert!(refused.contains("no upper drive"), "{refused}");
        assert!(matches!(control.hello().await, Err(ControlError::Refused { .. })));
    }
    control.shutdown().await.unwrap();
    assert!(machine.ended().success());
    drop(machine);

    std::fs::write(drives.path().join("base.ext4"), vec![7; 1 << 20]).unwrap();
    let mut machine = Machine::boot(&parts, drives.path(), &Unusual::default());
    assert!(machine.ended().success());
    let console = machine.console();
    assert!(console.contains("this machine can't start: mounting /dev/vda (ext4, read-only)"), "{console}");
}
