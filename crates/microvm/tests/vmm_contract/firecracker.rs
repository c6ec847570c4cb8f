//! Firecracker: the double everywhere, and a real one where it can be had.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clarateach_microvm::vmm::firecracker::{FirecrackerConfig, FirecrackerVmm};
use clarateach_microvm::vmm::{Vmm, VmmError};
use clarateach_testkit::{firecracker_double, wait_for};
use tokio::io::AsyncWriteExt;

use crate::host;
use crate::story::{self, Subject, chain};

/// A driver for the double, which needs no KVM.
fn driver(program: PathBuf) -> FirecrackerVmm {
    FirecrackerVmm::new(FirecrackerConfig {
        program,
        kvm: "/dev/null".into(),
        ..FirecrackerConfig::default()
    })
}

fn subject(program: PathBuf) -> Subject {
    let dir = tempfile::tempdir().unwrap();
    let kernel = dir.path().join("vmlinux");
    std::fs::write(&kernel, b"\x7fELF and nothing else").unwrap();
    Subject {
        vmm: Box::new(driver(program)),
        kernel,
        initramfs: None,
        kernel_args: String::new(),
        vcpus: 2,
        memory_mb: 128,
        up: "guest: up",
        control: true,
        patience: Duration::from_secs(5),
        dir,
    }
}

fn run(name: &'static str, needs_root: bool, test: impl AsyncFnOnce(&Subject) + Send + 'static) {
    if needs_root && !host::is_root() {
        return clarateach_testkit::skip(name, "not root");
    }
    host::in_own_network(move || async move { test(&subject(firecracker_double::path())).await });
}

#[test]
fn double_lives_and_ends() {
    run("double_lives_and_ends", false, async |subject| {
        story::a_life(subject).await;
        story::found_without_a_record(subject).await;
        story::given_up(subject).await;
        story::shuts_down(subject).await;
    });
}

#[test]
fn double_names_what_is_missing() {
    run("double_names_what_is_missing", false, story::missing_files);
}

#[test]
fn double_is_refused_a_busy_tap() {
    run("double_is_refused_a_busy_tap", true, story::busy_tap);
}

#[test]
fn double_answers_ping() {
    run("double_answers_ping", true, story::answers_ping);
}

#[test]
fn double_is_restored_from_a_snapshot() {
    run("double_is_restored_from_a_snapshot", false, story::snapshot_and_restore);
}

#[test]
fn double_console_is_bounded() {
    run("double_console_is_bounded", false, async |subject| {
        story::prints_endlessly(subject, 24 << 20).await;
    });
}

/// Firecrackers that end at once, never listen, never answer, or are none.
#[tokio::test]
async fn faults_are_told_and_leave_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let subject = |faults: &str| subject(firecracker_double::with_faults(dir.path(), faults));

    let exits = subject("exit");
    // Its version can be asked: the fault is in what runs.
    let spec = exits.spec("exits", None);
    let error = exits.vmm.start(&spec, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(matches!(error, VmmError::Exited { .. }), "{error:?}");
    assert!(
        chain(&error).contains("exit status 1") && chain(&error).contains("told to end"),
        "{}",
        chain(&error)
    );
    exits.gone(&spec).await;

    let dies = subject("die=50");
    let spec = dies.spec("dies", None);
    let process = dies.start(&spec).await;
    tokio::time::timeout(Duration::from_secs(5), dies.vmm.wait(&process))
        .await
        .expect("its end is noticed")
        .unwrap();
    assert!(!dies.vmm.is_alive(&spec, &process));
    dies.vmm.kill(&spec, Some(&process)).await.unwrap();
    dies.gone(&spec).await;

    let mute = subject("mute");
    let spec = mute.spec("mute", None);
    let process = mute.start(&spec).await;
    let error = mute.vmm.control(&spec).await.err().expect("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    mute.vmm.kill(&spec, Some(&process)).await.unwrap();
    mute.gone(&spec).await;
    assert_eq!(host::zombies(), Vec::<String>::new());
}

/// One that hangs costs its caller the time that is allowed, and nothing else.
#[tokio::test]
async fn a_firecracker_that_hangs_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let hangs = subject(firecracker_double::with_faults(dir.path(), "hang"));
    let spec = hangs.spec("hangs", None);
    let began = Instant::now();
    let error = hangs.vmm.start(&spec, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(matches!(error, VmmError::Silent { .. }), "{error:?}");
    assert!(began.elapsed() < Duration::from_secs(40));
    hangs.gone(&spec).await;
}

#[tokio::test]
async fn what_is_no_firecracker_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let faulty = |faults: &str| firecracker_double::with_faults(dir.path(), faults);
    for (program, words) in [
        (PathBuf::from("/nowhere/firecracker"), "no such program"),
        (PathBuf::from("/bin/true"), "does not say which version"),
        (PathBuf::from("/bin/false"), "failed"),
        (faulty("version=v0.25.2"), "v1.13 or newer is needed"),
        (faulty("version=v1.12.9"), "v1.13 or newer is needed"),
        (faulty("version=banana"), "does not say which version"),
    ] {
        let error = driver(program).version().await.unwrap_err();
        assert!(matches!(error, VmmError::Program { .. }), "{error:?}");
        assert!(error.to_string().contains(words), "{error}");
    }
    assert_eq!(driver(faulty("version=v1.13.0")).version().await.unwrap(), "Firecracker v1.13.0");
    let config = FirecrackerConfig {
        program: firecracker_double::path(),
        kvm: "/nowhere/kvm".into(),
        ..FirecrackerConfig::default()
    };
    let error = FirecrackerVmm::new(config).version().await.unwrap_err();
    assert!(matches!(error, VmmError::Host { .. }) && error.to_string().contains("nested"), "{error:?}");
}

/// Another process takes over what this one has started: nothing but the specification and the record is needed.
#[test]
fn double_is_taken_over() {
    run("double_is_taken_over", false, async |subject| {
        let spec = subject.spec("adopt", None);
        let process = subject.boot(&spec).await;
        let written = serde_json::to_string(&(&spec, &process)).unwrap();
        let (spec, process) = serde_json::from_str(&written).unwrap();
        let other = driver(firecracker_double::path());
        assert!(other.is_alive(&spec, &process));
        let mut stream = other.control(&spec).await.unwrap();
        stream.write_all(b"{\"op\":\"shutdown\"}\n").await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), other.wait(&process)).await.expect("it ends").unwrap();
        other.kill(&spec, Some(&process)).await.unwrap();
        subject.gone(&spec).await;
    });
}

/// A real Firecracker with a kernel that has no user space: it can be pinged, and that is all.
struct Real {
    program: PathBuf,
    kernel: PathBuf,
}

impl Real {
    fn find() -> Result<Self, String> {
        let kernel = std::env::var_os("CLARATEACH_TEST_FC_KERNEL").filter(|path| !path.is_empty());
        let kernel = kernel.map(PathBuf::from).ok_or("CLARATEACH_TEST_FC_KERNEL names no kernel")?;
        let program = std::env::var_os("FIRECRACKER_BIN").map_or_else(|| "firecracker".into(), PathBuf::from);
        Ok(Self { program, kernel })
    }

    async fn subject(self, jailer: Option<&Path>) -> Result<Subject, String> {
        let dir = tempfile::tempdir().unwrap();
        let jailer = jailer.map(|program| clarateach_microvm::vmm::firecracker::JailerConfig {
            program: program.into(),
            chroot_base: dir.path().join("jails"),
            uid_base: 812_000,
            gid: 812_000,
        });
        let vmm = FirecrackerVmm::new(FirecrackerConfig {
            program: self.program,
            jailer,
            ..FirecrackerConfig::default()
        });
        vmm.version().await.map_err(|error| error.to_string())?;
        Ok(Subject {
            vmm: Box::new(vmm),
            kernel: self.kernel,
            initramfs: None,
            kernel_args: "root=/dev/vda ro rootwait".into(),
            vcpus: 1,
            memory_mb: 128,
            up: "",
            control: false,
            patience: Duration::from_secs(400),
            dir,
        })
    }
}

/// Boot, ping, adoption, snapshot, two clones, and nothing left.
async fn real_story(subject: &Subject, root: &Path) {
    for (n, tap) in ["ct-park", "ct-clone"].iter().enumerate() {
        host::tap(tap, &format!("10.9.{n}.1"));
    }
    let spec = |name, tap| {
        let mut spec = subject.spec(name, Some((tap, "10.9.0.2")));
        spec.drives[0].path = root.to_owned();
        spec.control = true;
        spec
    };
    let parked = spec("fcreal", "ct-park");
    let began = Instant::now();
    let process = subject.start(&parked).await;
    let pinged = async || host::pings("10.9.0.2").then_some(());
    wait_for("the guest to answer", subject.patience, pinged).await;
    let booted = began.elapsed();
    assert_eq!(subject.vmm.find(&parked.instance), std::slice::from_ref(&process));
    assert!(subject.vmm.is_alive(&parked, &process));

    let began = Instant::now();
    let dir = subject.dir.path().join("snapshot");
    let snapshot =
        subject.vmm.snapshot(&parked, &process, &dir).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let saved = began.elapsed();
    subject.vmm.kill(&parked, Some(&process)).await.unwrap();
    subject.gone(&parked).await;
    host::ip("link del ct-park");
    host::ip("addr flush dev ct-clone");
    host::ip("addr add 10.9.0.1/24 dev ct-clone");

    let clone = spec("fcclone", "ct-clone");
    let began = Instant::now();
    let restored = subject.vmm.restore(&snapshot, &clone, Box::new(|_| Ok(()))).await;
    let process = restored.unwrap_or_else(|error| panic!("{}\n{}", chain(&error), story::console(&clone)));
    let loaded = began.elapsed();
    wait_for("the clone to answer", Duration::from_secs(30), pinged).await;
    story::report(&format!(
        "{}: start to ping {booted:?}, snapshot {saved:?}, restore {loaded:?}, to ping {:?}",
        snapshot.vmm_version,
        began.elapsed()
    ));
    subject.vmm.kill(&clone, Some(&process)).await.unwrap();
    subject.gone(&clone).await;
    assert!(clarateach_testkit::leaks::files(&subject.dir.path().join("jails")).len() <= 1, "a jail is left");
}

fn run_real(name: &'static str, jailed: bool) {
    if !host::is_root() {
        return clarateach_testkit::skip(name, "not root");
    }
    host::in_own_network(move || async move {
        let jailer = std::env::var_os("JAILER_BIN").map_or_else(|| "jailer".into(), PathBuf::from);
        let found = match Real::find() {
            Ok(real) => real.subject(jailed.then_some(jailer.as_path())).await,
            Err(reason) => Err(reason),
        };
        let subject = match found {
            Ok(subject) => subject,
            Err(reason) => return clarateach_testkit::skip(name, &reason),
        };
        let root = subject.dir.path().join("root.img");
        std::fs::File::create(&root).unwrap().set_len(32 << 20).unwrap();
        let made = std::process::Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&root).status();
        if !made.is_ok_and(|status| status.success()) {
            return clarateach_testkit::skip(name, "no mke2fs");
        }
        real_story(&subject, &root).await;
    });
}

#[test]
fn firecracker_boots_and_is_restored() {
    run_real("firecracker_boots_and_is_restored", false);
}

#[test]
fn firecracker_in_a_jail_boots_and_is_restored() {
    run_real("firecracker_in_a_jail_boots_and_is_restored", true);
}

/// A class is started at once, found by another driver, and ended at once.
#[test]
fn a_class_of_doubles_at_once() {
    const SEATS: usize = 50;
    run("a_class_of_doubles_at_once", false, async |subject| {
        let specs: Vec<_> = (0..SEATS).map(|_| subject.spec("class", None)).collect();
        let began = Instant::now();
        let processes = futures_util::future::join_all(specs.iter().map(|spec| subject.start(spec))).await;
        let started = began.elapsed();
        let began = Instant::now();
        let other = driver(firecracker_double::path());
        for (spec, process) in specs.iter().zip(&processes) {
            assert!(other.is_alive(spec, process));
            assert_eq!(other.find(&spec.instance), std::slice::from_ref(process));
        }
        let found = began.elapsed();
        let memory: u64 = processes.iter().map(|process| host::proportional_kib(process.pid)).sum();
        let began = Instant::now();
        let kills = specs.iter().zip(&processes).map(|(spec, process)| subject.vmm.kill(spec, Some(process)));
        for killed in futures_util::future::join_all(kills).await {
            killed.unwrap();
        }
        story::report(&format!(
            "{SEATS} doubles: started in {started:?}, found in {found:?}, ended in {:?}, {} KiB each",
            began.elapsed(),
            memory / SEATS as u64
        ));
        for spec in &specs {
            subject.gone(spec).await;
        }
        assert_eq!(host::zombies(), Vec::<String>::new());
    });
}
