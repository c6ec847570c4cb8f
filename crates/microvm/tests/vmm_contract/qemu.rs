//! QEMU, with a guest that has a user space.

use std::path::PathBuf;
use std::time::Duration;

use clarateach_microvm::vmm::qemu::{Accel, QemuConfig, QemuVmm};
use clarateach_microvm::vmm::{Vmm, VmmError};

use crate::guest::Guest;
use crate::host;
use crate::story::{self, Subject};

async fn subject() -> Result<Subject, String> {
    let vmm = QemuVmm::new(QemuConfig::default());
    vmm.version().await.map_err(|error| error.to_string())?;
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::build(dir.path())?;
    Ok(Subject {
        vmm: Box::new(vmm),
        kernel: guest.kernel,
        initramfs: Some(guest.initramfs),
        kernel_args: String::new(),
        vcpus: 2,
        memory_mb: 128,
        up: "guest: up",
        control: true,
        patience: Duration::from_secs(25),
        dir,
    })
}

fn run(name: &'static str, needs_root: bool, test: impl AsyncFnOnce(&Subject) + Send + 'static) {
    if needs_root && !host::is_root() {
        return clarateach_testkit::skip(name, "not root");
    }
    host::in_own_network(move || async move {
        match subject().await {
            Ok(subject) => test(&subject).await,
            Err(reason) => clarateach_testkit::skip(name, &reason),
        }
    });
}

#[test]
fn qemu_lives_and_ends() {
    run("qemu_lives_and_ends", false, async |subject| {
        story::a_life(subject).await;
        story::found_without_a_record(subject).await;
        story::given_up(subject).await;
    });
}

#[test]
fn qemu_names_what_is_missing() {
    run("qemu_names_what_is_missing", false, story::missing_files);
}

#[test]
fn qemu_is_refused_a_busy_tap() {
    run("qemu_is_refused_a_busy_tap", true, story::busy_tap);
}

#[test]
fn qemu_guest_answers_ping() {
    run("qemu_guest_answers_ping", true, story::answers_ping);
}

#[test]
fn qemu_guest_shuts_down() {
    run("qemu_guest_shuts_down", false, story::shuts_down);
}

#[test]
fn qemu_console_is_bounded() {
    run("qemu_console_is_bounded", false, async |subject| story::prints_endlessly(subject, 4 << 20).await);
}

#[test]
fn qemu_is_restored_from_a_snapshot() {
    run("qemu_is_restored_from_a_snapshot", false, story::snapshot_and_restore);
}

/// Drives are in the order of the spec, whatever the machine makes of it.
#[test]
fn qemu_drives_are_in_order() {
    run("qemu_drives_are_in_order", false, async |subject| {
        let spec = subject.spec("order", None);
        let process = subject.boot(&spec).await;
        let sectors = "vda 16384 vdb 8192";
        assert!(story::console(&spec).contains(sectors), "{}", story::console(&spec));
        subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    });
}

#[tokio::test]
async fn what_is_no_qemu_is_told() {
    let vmm = |program: &str| QemuVmm::new(QemuConfig { program: PathBuf::from(program), accel: Accel::Tcg });
    for (program, words) in [
        ("/nowhere/qemu", "no such program"),
        ("qemu-system-that-nobody-has", "no such program"),
        ("/bin/true", "does not say which version"),
        ("/bin/false", "failed"),
    ] {
        let error = vmm(program).version().await.unwrap_err();
        assert!(matches!(error, VmmError::Program { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

/// One that ends at once is told with its last words, and one whose sandbox is missing is run without.
#[tokio::test]
async fn a_qemu_that_ends_is_told() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("qemu");
    let script = "#!/bin/sh\n\
        case \"$*\" in\n\
        --version) echo 'QEMU emulator version 7.2.0' ;;\n\
        -sandbox*) exit 1 ;;\n\
        *-sandbox*) echo 'a sandbox was asked for' >&2; exit 1 ;;\n\
        *) echo 'no memory today' >&2; exit 3 ;;\n\
        esac\n";
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    let kernel = dir.path().join("vmlinux");
    std::fs::write(&kernel, b"\x7fELF").unwrap();
    let subject = Subject {
        vmm: Box::new(QemuVmm::new(QemuConfig { program, accel: Accel::Tcg })),
        kernel,
        initramfs: None,
        kernel_args: String::new(),
        vcpus: 1,
        memory_mb: 64,
        up: "",
        control: true,
        patience: Duration::from_secs(5),
        dir,
    };
    let spec = subject.spec("ends", None);
    let error = subject.vmm.start(&spec, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(matches!(error, VmmError::Exited { .. }), "{error:?}");
    let words = story::chain(&error);
    assert!(words.contains("exit status 3") && words.contains("no memory today"), "{words}");
    subject.gone(&spec).await;
}
