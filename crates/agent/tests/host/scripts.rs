//! The scripts that install what VMs need and that try it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use clarateach_testkit::seat_binary::repository;
use clarateach_testkit::{leaks, skip};
use tempfile::TempDir;

use crate::worker::{Worker, in_own_network, possible};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What the documentation promises, with QEMU's name in it.
const EXPECTED: &str = "\
========================================
  QEMU VM Test
========================================

[+] Checking prerequisites...
[+] Prerequisites OK
[+] Building agent...
[+] Agent built
[+] Starting agent on port 9090...
[+] Agent ready (PID: N)
[+] Creating 3 VMs...
[+]   VM 1 created: 192.168.100.11
[+]   VM 2 created: 192.168.100.12
[+]   VM 3 created: 192.168.100.13
[+] Testing VMs...
[+]   QEMU processes: 3 OK
[+]   Ping 192.168.100.11: OK
[+]   Ping 192.168.100.12: OK
[+]   Ping 192.168.100.13: OK
[+]   API listing: 3 VMs OK
[+] Destroying VMs...
[+]   VM 1 destroyed
[+]   VM 2 destroyed
[+]   VM 3 destroyed

========================================
[+] All tests passed!
========================================
";

#[test]
fn the_test_script_prints_what_is_documented_and_leaves_nothing() {
    let name = "agent: the_test_script_prints_what_is_documented_and_leaves_nothing";
    if !possible(name) {
        return;
    }
    if ["ping", "curl"].iter().any(|tool| Command::new(tool).arg("-V").output().is_err()) {
        return skip(name, "ping or curl is not installed");
    }
    in_own_network(|| async {
        let host = Worker::new();
        let own = tempfile::tempdir().unwrap();
        let output = Command::new(repository().join("scripts/test-firecracker.sh"))
            .args(["--vmm", "qemu"])
            .env("AGENT_BIN", env!("CARGO_BIN_EXE_agent"))
            .env("WORKSPACE_BIN", host.workspace())
            .env("IMAGES_DIR", host.images())
            .env("QEMU_ACCEL", "tcg")
            .env("TMPDIR", own.path())
            .env_remove("PORT")
            .output()
            .unwrap();
        let shown = text(&output.stdout);
        assert!(output.status.success(), "{shown}{}", text(&output.stderr));
        let pid = shown.split("(PID: ").nth(1).and_then(|rest| rest.split(')').next()).unwrap().to_owned();
        assert_eq!(shown.replace(&format!("(PID: {pid})"), "(PID: N)"), EXPECTED);
        let links = leaks::run("ip", &["-br", "link"]);
        assert_eq!(links.lines().count(), 1, "{links}");
        assert_eq!(leaks::run("nft", &["list", "tables"]), "");
        assert_eq!(leaks::files(own.path()), Vec::<String>::new());
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    });
}

/// A directory as somebody carries it to a worker without a network.
fn carried() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in [
        ("firecracker", &b"#!/bin/sh\necho Firecracker v1.17.0\n"[..]),
        ("jailer", b"#!/bin/sh\n"),
        ("vmlinux", b"\x7fELF and more"),
    ] {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn setup(from: &Path, into: &Path, more: &[&str]) -> Output {
    Command::new(repository().join("scripts/setup-firecracker.sh"))
        .args(["--from", &from.display().to_string()])
        .args(more)
        .env("BIN_DIR", into.join("bin"))
        .env("IMAGES_DIR", into.join("images"))
        .output()
        .unwrap()
}

#[test]
fn only_files_with_a_known_checksum_are_installed() {
    let (from, into) = (carried(), tempfile::tempdir().unwrap());
    let refused = setup(from.path(), into.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains("firecracker has the checksum"), "{}", text(&refused.stderr));
    let installed = leaks::files(into.path()).into_iter().filter(|left| !left.ends_with("/bin"));
    assert_eq!(installed.collect::<Vec<_>>(), Vec::<String>::new());

    let names = ["firecracker", "jailer", "vmlinux"];
    let sums = Command::new("sha256sum").args(names).current_dir(from.path()).output().unwrap();
    fs::write(from.path().join("SHA256SUMS"), sums.stdout).unwrap();
    for _ in 0..2 {
        let done = setup(from.path(), into.path(), &[]);
        assert!(done.status.success(), "{}{}", text(&done.stdout), text(&done.stderr));
        for (file, mode) in [("bin/firecracker", 0o755), ("bin/jailer", 0o755), ("images/vmlinux", 0o644)] {
            let metadata = fs::metadata(into.path().join(file)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
        }
        assert_eq!(leaks::files(into.path()).len(), 5, "{:?}", leaks::files(into.path()));
    }

    // A file that was changed on the way.
    fs::write(from.path().join("vmlinux"), b"\x7fELF and less").unwrap();
    let before = fs::read(into.path().join("images/vmlinux")).unwrap();
    let refused = setup(from.path(), into.path(), &[]);
    assert!(text(&refused.stderr).contains("vmlinux has the checksum"), "{}", text(&refused.stderr));
    assert_eq!(fs::read(into.path().join("images/vmlinux")).unwrap(), before);
    let taken = setup(from.path(), into.path(), &["--unverified"]);
    assert!(taken.status.success() && text(&taken.stdout).contains("Taking vmlinux unverified"), "{taken:?}");
}

#[test]
fn what_the_setup_script_does_not_understand_is_said() {
    let into = tempfile::tempdir().unwrap();
    for (more, said) in [
        (&["--vmm", "xen"][..], "--vmm takes firecracker or qemu"),
        (&["--nonsense"], "unknown option --nonsense"),
        (&["--from"], "--from takes a directory"),
        (&["--from", "/nowhere"], "is no directory"),
    ] {
        let refused = setup(into.path(), into.path(), more);
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains(said), "{more:?}: {}", text(&refused.stderr));
    }
    let empty = setup(into.path(), &into.path().join("x"), &[]);
    assert!(text(&empty.stderr).contains("has neither"), "{}", text(&empty.stderr));
}
