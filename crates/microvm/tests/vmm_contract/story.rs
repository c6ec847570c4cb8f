//! The story of a VM, as any driver has to tell it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clarateach_microvm::vmm::{CONSOLE_LIMIT, Drive, Nic, VmProcess, VmSpec, Vmm, VmmError};
use clarateach_testkit::wait_for;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::host;

/// A driver with what is needed to run a guest in it.
pub(crate) struct Subject {
    pub(crate) vmm: Box<dyn Vmm>,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: Option<PathBuf>,
    pub(crate) kernel_args: String,
    pub(crate) vcpus: u32,
    pub(crate) memory_mb: u32,
    /// What the guest prints when it is up.
    pub(crate) up: &'static str,
    /// Whether the guest speaks on a control channel.
    pub(crate) control: bool,
    /// From start to up.
    pub(crate) patience: Duration,
    /// Where files go; removed with this.
    pub(crate) dir: tempfile::TempDir,
}

/// VMs outlive whoever started them: one whose test has failed is ended here.
impl Drop for Subject {
    fn drop(&mut self) {
        for entry in fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            if let Some(instance) = entry.file_name().to_str().filter(|name| name.starts_with("ct-")) {
                host::end(&self.vmm.find(instance), instance);
            }
        }
    }
}

impl Subject {
    /// A VM with two drives, and a tap if this is root.
    pub(crate) fn spec(&self, name: &str, nic: Option<(&str, &str)>) -> VmSpec {
        let instance = host::instance(name);
        let run_dir = self.dir.path().join(&instance);
        fs::create_dir(&run_dir).unwrap();
        let base = self.dir.path().join("base.img");
        if !base.exists() {
            fs::File::create(&base).unwrap().set_len(8 << 20).unwrap();
        }
        let upper = self.dir.path().join(format!("{instance}.img"));
        fs::File::create(&upper).unwrap().set_len(4 << 20).unwrap();
        let drive = |id: &str, path: &Path, read_only| Drive { id: id.into(), path: path.into(), read_only };
        let ip = nic.map_or_else(String::new, |(_, address)| {
            format!(" ip={address}::10.9.0.1:255.255.255.0::eth0:off")
        });
        VmSpec {
            console: self.dir.path().join(format!("{instance}.console")),
            run_dir,
            vcpus: self.vcpus,
            memory_mb: self.memory_mb,
            kernel: self.kernel.clone(),
            initramfs: self.initramfs.clone(),
            kernel_args: format!("{}{ip}", self.kernel_args),
            drives: vec![drive("base", &base, true), drive("upper", &upper, false)],
            nic: nic.map(|(tap, address)| Nic {
                tap: tap.into(),
                mac: clarateach_ids::MacAddr::of_ipv4(address.parse().unwrap()),
            }),
            control: self.control,
            instance,
        }
    }

    pub(crate) async fn start(&self, spec: &VmSpec) -> VmProcess {
        self.vmm.start(spec, Box::new(|_| Ok(()))).await.unwrap_or_else(|error| panic!("{}", chain(&error)))
    }

    /// Starts it and waits until it is up; once more if it stalls, as emulated machines do at times.
    pub(crate) async fn boot(&self, spec: &VmSpec) -> VmProcess {
        for attempt in 0..3 {
            let process = self.start(spec).await;
            let deadline = Instant::now() + self.patience;
            while Instant::now() < deadline {
                if console(spec).contains(self.up) {
                    return process;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let words = console(spec);
            self.vmm.kill(spec, Some(&process)).await.unwrap();
            assert!(
                attempt < 2 && self.patience > Duration::from_secs(5),
                "the guest never came up: {words}"
            );
        }
        unreachable!()
    }

    /// Says one line on the control channel and gives the answer.
    pub(crate) async fn say(&self, spec: &VmSpec, line: &str) -> Value {
        let work = async {
            let mut stream = BufReader::new(self.vmm.control(spec).await.unwrap());
            stream.write_all(format!("{line}\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_line(&mut answer).await.unwrap();
            serde_json::from_str(&answer).unwrap()
        };
        tokio::time::timeout(Duration::from_secs(10), work).await.expect("the guest answers in time")
    }

    pub(crate) async fn gone(&self, spec: &VmSpec) {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let left = host::left_of(spec);
            if left.is_empty() {
                break;
            }
            assert!(Instant::now() < deadline, "left of {}: {left:?}", spec.instance);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(self.vmm.find(&spec.instance).is_empty());
    }
}

pub(crate) fn console(spec: &VmSpec) -> String {
    fs::read(&spec.console).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Start, console, control, find, is_alive, wait, kill; and nothing is left.
pub(crate) async fn a_life(subject: &Subject) {
    let spec = subject.spec("life", None);
    let mut journaled = None;
    let started = subject.vmm.start(
        &spec,
        Box::new(|process| {
            assert!(process.runs(), "it runs when it is reported");
            journaled = Some(process.clone());
            Ok(())
        }),
    );
    let process = started.await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(journaled.as_ref(), Some(&process));
    subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    subject.gone(&spec).await;

    let process = subject.boot(&spec).await;
    assert!(subject.vmm.is_alive(&spec, &process));
    assert_eq!(subject.vmm.find(&spec.instance), std::slice::from_ref(&process));
    assert!(subject.vmm.find("ct-nobody").is_empty());
    let other = VmSpec { instance: format!("{}x", spec.instance), ..spec.clone() };
    assert!(!subject.vmm.is_alive(&other, &process));
    assert!(!subject.vmm.is_alive(&spec, &VmProcess { start_ticks: 1, ..process.clone() }));
    detached(&spec, &process);
    if subject.control {
        assert_eq!(subject.say(&spec, r#"{"op":"hello"}"#).await, json!({"status":"ok","state":"parked"}));
        // Each connection is a new one.
        assert_eq!(subject.say(&spec, r#"{"op":"hello"}"#).await, json!({"status":"ok","state":"parked"}));
    }
    let waiting = tokio::time::timeout(Duration::from_millis(50), subject.vmm.wait(&process)).await;
    assert!(waiting.is_err(), "wait returned while it runs");
    let (waited, killed) = tokio::join!(subject.vmm.wait(&process), subject.vmm.kill(&spec, Some(&process)));
    waited.unwrap();
    killed.unwrap();
    assert!(!subject.vmm.is_alive(&spec, &process));
    subject.gone(&spec).await;
    assert_eq!(host::zombies(), Vec::<String>::new());
    // Both are fine when there is nothing.
    subject.vmm.wait(&process).await.unwrap();
    subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    subject.vmm.kill(&spec, None).await.unwrap();
}

/// Its own session and groups; no descriptor of this process's; its environment empty; its standard input nothing.
fn detached(spec: &VmSpec, process: &VmProcess) {
    let proc = PathBuf::from(format!("/proc/{}", process.pid));
    let session = rustix::process::getsid(rustix::process::Pid::from_raw(process.pid)).unwrap();
    assert_eq!(session.as_raw_nonzero().get(), process.pid);
    assert_eq!(fs::read_link(proc.join("fd/0")).unwrap(), Path::new("/dev/null"));
    assert_eq!(fs::read(proc.join("environ")).unwrap().len(), 0);
    if host::is_root() {
        let members = fs::read_to_string(proc.join("cgroup")).unwrap();
        let expected = format!("/clarateach/{}", spec.instance);
        assert_eq!(
            members.lines().any(|line| line.ends_with(&expected)),
            !host::groups(&spec.instance).is_empty()
        );
    }
}

/// A process that did not start it finds it by name, and kills it.
pub(crate) async fn found_without_a_record(subject: &Subject) {
    let spec = subject.spec("found", None);
    let process = subject.start(&spec).await;
    assert_eq!(subject.vmm.find(&spec.instance), [process]);
    subject.vmm.kill(&spec, None).await.unwrap();
    subject.gone(&spec).await;
    assert_eq!(host::zombies(), Vec::<String>::new());
}

/// A caller that can't write down that it has started a VM, and one that gives up, leave none.
pub(crate) async fn given_up(subject: &Subject) {
    let spec = subject.spec("unsaid", None);
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let error = subject.vmm.start(&spec, Box::new(move |_| Err(full()))).await.unwrap_err();
    assert!(chain(&error).contains("journal"), "{}", chain(&error));
    subject.vmm.kill(&spec, None).await.unwrap();
    subject.gone(&spec).await;

    let spec = subject.spec("dropped", None);
    {
        let mut seen = false;
        let mut start = subject.vmm.start(
            &spec,
            Box::new(|_| {
                seen = true;
                Ok(())
            }),
        );
        // Polled until it waits for the VMM, then dropped.
        std::future::poll_fn(|context| {
            let _ = start.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
        drop(start);
    }
    subject.vmm.kill(&spec, None).await.unwrap();
    subject.gone(&spec).await;
}

/// What is missing is named, and nothing is left of the attempt.
pub(crate) async fn missing_files(subject: &Subject) {
    let nowhere = PathBuf::from("/nowhere/at-all");
    let spec = |change: fn(&mut VmSpec, PathBuf)| {
        let mut spec = subject.spec("missing", None);
        change(&mut spec, nowhere.clone());
        spec
    };
    let mut corrupt = subject.spec("corrupt", None);
    corrupt.kernel = corrupt.drives[0].path.clone();
    let mut unnamed = subject.spec("unnamed", None);
    unnamed.instance = "a/../b".into();
    let mut untapped = subject.spec("untapped", None);
    untapped.nic = Some(Nic {
        tap: "ct-no-tap".into(),
        mac: clarateach_ids::MacAddr::of_ipv4("10.9.0.9".parse().unwrap()),
    });
    let cases = [
        (spec(|spec, path| spec.kernel = path), "/nowhere/at-all"),
        (spec(|spec, path| spec.initramfs = Some(path)), "/nowhere/at-all"),
        (spec(|spec, path| spec.drives[1].path = path), "/nowhere/at-all"),
        (corrupt, "not an uncompressed kernel"),
        (unnamed, "a/../b"),
        (untapped, "ct-no-tap"),
    ];
    for (spec, words) in cases {
        let error = subject.vmm.start(&spec, Box::new(|_| Ok(()))).await.unwrap_err();
        assert!(matches!(error, VmmError::Io { .. }), "{error:?}");
        assert!(chain(&error).contains(words), "{}", chain(&error));
        subject.gone(&spec).await;
    }
}

/// Two VMs on one tap: the second is refused in the VMM's own words.
pub(crate) async fn busy_tap(subject: &Subject) {
    host::tap("ct-busy", "10.9.0.1");
    let first = subject.spec("tap1", Some(("ct-busy", "10.9.0.2")));
    let process = subject.start(&first).await;
    let second = subject.spec("tap2", Some(("ct-busy", "10.9.0.2")));
    let error = subject.vmm.start(&second, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(chain(&error).to_lowercase().contains("busy"), "{}", chain(&error));
    subject.gone(&second).await;
    assert!(subject.vmm.is_alive(&first, &process));
    subject.vmm.kill(&first, Some(&process)).await.unwrap();
    subject.gone(&first).await;
}

/// The guest is on the network that its tap is on.
pub(crate) async fn answers_ping(subject: &Subject) {
    host::tap("ct-ping", "10.9.0.1");
    let spec = subject.spec("ping", Some(("ct-ping", "10.9.0.2")));
    let process = subject.boot(&spec).await;
    wait_for("the guest to answer", subject.patience, async || host::pings("10.9.0.2").then_some(())).await;
    subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    subject.gone(&spec).await;
}

/// A guest that shuts down ends its VMM, which is noticed at once and leaves no zombie.
pub(crate) async fn shuts_down(subject: &Subject) {
    let spec = subject.spec("down", None);
    let process = subject.boot(&spec).await;
    assert_eq!(subject.say(&spec, r#"{"op":"shutdown"}"#).await["state"], "ending");
    tokio::time::timeout(Duration::from_secs(20), subject.vmm.wait(&process))
        .await
        .expect("it ends")
        .unwrap();
    assert!(!subject.vmm.is_alive(&spec, &process));
    subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    subject.gone(&spec).await;
    assert_eq!(host::zombies(), Vec::<String>::new());
}

/// A guest that prints endlessly keeps its newest words and fills nothing.
pub(crate) async fn prints_endlessly(subject: &Subject, bound: u64) {
    let spec = subject.spec("print", None);
    let process = subject.boot(&spec).await;
    let mut stream = subject.vmm.control(&spec).await.unwrap();
    stream.write_all(b"{\"op\":\"print\"}\n").await.unwrap();
    let mut highest = 0;
    let mut printed = 0;
    let mut last = 0;
    let mut trimmed = false;
    let deadline = Instant::now() + Duration::from_secs(120);
    // A fast guest prints all of this before its console is looked at for the first time.
    while printed <= 4 * CONSOLE_LIMIT || !trimmed {
        assert!(Instant::now() < deadline, "only {printed} bytes were printed in time");
        let length = fs::metadata(&spec.console).map_or(0, |meta| meta.len());
        highest = highest.max(length);
        printed += length.saturating_sub(last);
        trimmed |= length < last;
        last = length;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(highest < bound, "the console grew to {highest} bytes");
    assert!(console(&spec).contains("guest: endlessly"));
    assert!(!console(&spec).contains(subject.up), "the oldest should have gone");
    subject.vmm.kill(&spec, Some(&process)).await.unwrap();
    subject.gone(&spec).await;
}

/// Two clones of a parked VM, with drives, taps and sockets of their own, go on where it was.
pub(crate) async fn snapshot_and_restore(subject: &Subject) {
    if host::is_root() {
        for (n, tap) in ["ct-park", "ct-clone1", "ct-clone2"].iter().enumerate() {
            host::tap(tap, &format!("10.9.{n}.1"));
        }
    }
    let nic = |tap| host::is_root().then_some((tap, "10.9.0.2"));
    let parked = subject.spec("park", nic("ct-park"));
    let process = subject.boot(&parked).await;
    if subject.control {
        assert_eq!(subject.say(&parked, r#"{"op":"asked"}"#).await, json!({"asked":1}));
    }
    let dir = subject.dir.path().join("snapshot");
    let began = Instant::now();
    let snapshot =
        subject.vmm.snapshot(&parked, &process, &dir).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let took = began.elapsed();
    assert_eq!((&snapshot.dir, &snapshot.spec), (&dir, &parked));
    assert_eq!(snapshot.vmm_version, subject.vmm.version().await.unwrap());
    let size: u64 = fs::read_dir(&dir).unwrap().map(|entry| host::allocated(&entry.unwrap().path())).sum();
    assert!(subject.vmm.is_alive(&parked, &process));
    // A snapshot is complete or not there, and doesn't overwrite another.
    let again = subject.vmm.snapshot(&parked, &process, &dir).await.unwrap_err();
    assert!(chain(&again).contains("exists"), "{}", chain(&again));
    subject.vmm.kill(&parked, Some(&process)).await.unwrap();
    subject.gone(&parked).await;
    for drive in &parked.drives {
        if !drive.read_only {
            fs::remove_file(&drive.path).unwrap();
        }
    }

    let mut clones = Vec::new();
    for (name, tap) in [("clone1", "ct-clone1"), ("clone2", "ct-clone2")] {
        let spec = subject.spec(name, nic(tap));
        let began = Instant::now();
        let restored = subject.vmm.restore(&snapshot, &spec, Box::new(|_| Ok(()))).await;
        let process = restored.unwrap_or_else(|error| panic!("{}", chain(&error)));
        report(&format!(
            "{}: snapshot {took:?}, {size} bytes; restore {:?}",
            snapshot.vmm_version,
            began.elapsed()
        ));
        clones.push((spec, process));
    }
    for (spec, process) in &clones {
        assert!(subject.vmm.is_alive(spec, process));
        if subject.control {
            // One state, two lives: each clone has been asked once before and does not see the other's questions.
            assert_eq!(subject.say(spec, r#"{"op":"asked"}"#).await, json!({"asked":2}));
            assert_eq!(subject.say(spec, r#"{"op":"asked"}"#).await, json!({"asked":3}));
        }
    }
    if subject.control {
        let written = subject.say(&clones[0].0, r#"{"op":"write"}"#).await;
        assert_eq!(
            written,
            json!({"upper":true,"base":false}),
            "the upper drive is its own and the base is nobody's"
        );
        assert_eq!(fs::read(&clones[0].0.drives[1].path).unwrap()[..4], *b"UUUU");
        assert_eq!(fs::read(&clones[1].0.drives[1].path).unwrap()[..4], [0; 4]);
        assert_eq!(fs::read(&clones[0].0.drives[0].path).unwrap()[..4], [0; 4]);
    }
    for (spec, process) in &clones {
        subject.vmm.kill(spec, Some(process)).await.unwrap();
        subject.gone(spec).await;
    }

    let larger = VmSpec { memory_mb: subject.memory_mb * 2, ..subject.spec("larger", None) };
    let error = subject.vmm.restore(&snapshot, &larger, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(matches!(error, VmmError::Refused { .. }), "{error:?}");
    subject.gone(&larger).await;
    fs::write(dir.join("state"), b"garbage").unwrap();
    let spec = subject.spec("garbage", nic("ct-clone1"));
    let error = subject.vmm.restore(&snapshot, &spec, Box::new(|_| Ok(()))).await.unwrap_err();
    assert!(!matches!(error, VmmError::Silent { .. }), "{error:?}");
    subject.gone(&spec).await;
}

#[allow(clippy::print_stderr)]
pub(crate) fn report(line: &str) {
    eprintln!("{line}");
}
