//! A world in which a VM is a plain process: first a shell that waits for its secret (parked), then a workspace on a Unix
//! socket in the VM's run directory. Processes are real, so deaths, kills and takeovers are too.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use clarateach_microvm::net::{NetError, Network, Slot};
use clarateach_microvm::vmm::{OnSpawn, Snapshot, VmProcess, VmSpec, Vmm, VmmError};
use clarateach_runtime::{BoxedSeatStream, RuntimeKind};
use clarateach_seatproto::guest::{GuestReply, GuestRequest, GuestState};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::sleep;

/// What goes wrong from now on.
#[derive(Debug, Default, Clone)]
pub struct Faults {
    /// Starting takes this long, before the process is there.
    pub slow_start: Duration,
    /// The VMM refuses to start guests.
    pub refuse_start: bool,
    /// The VMM never answers.
    pub hang_start: bool,
    /// The VMM ends right after it has started the guest.
    pub exit_at_once: bool,
    /// The guest never answers on its control channel.
    pub never_parks: bool,
    /// The guest does not switch off when it is told to.
    pub ignores_shutdown: bool,
    /// Snapshots are begun and never done.
    pub hang_snapshot: bool,
    /// Snapshots can't be restored.
    pub refuse_restore: bool,
    /// Taps can't be made.
    pub refuse_taps: bool,
    /// Taps can't be removed.
    pub stuck_taps: bool,
}

struct Guest {
    process: VmProcess,
    child: Child,
    stdin: Option<ChildStdin>,
    state: GuestState,
    spec: VmSpec,
    /// It was snapshotted.
    paused: bool,
    reaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tap {
    address: Ipv4Addr,
    open: bool,
}

/// VMM and network of one host.
pub struct World {
    this: Weak<World>,
    workspace: PathBuf,
    guests: Mutex<HashMap<String, Guest>>,
    taps: Mutex<HashMap<String, Tap>>,
    pub faults: Mutex<Faults>,
    /// Who may connect to nowhere: as it was told, and as it was when the network was last made sure of.
    confined: Mutex<(Vec<Ipv4Addr>, Vec<Ipv4Addr>)>,
    /// What happened, for tests of order.
    pub history: Mutex<Vec<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

const FOREIGN: &str = "ctother0a000001";

impl World {
    pub fn new(workspace: PathBuf) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            workspace,
            guests: Mutex::default(),
            taps: Mutex::default(),
            faults: Mutex::default(),
            confined: Mutex::default(),
            history: Mutex::default(),
        })
    }

    pub fn set(&self, faults: Faults) {
        *lock(&self.faults) = faults;
    }

    fn faults(&self) -> Faults {
        lock(&self.faults).clone()
    }

    fn note(&self, what: String) {
        lock(&self.history).push(what);
    }

    pub fn kill_from_outside(&self, instance: &str) {
        lock(&self.guests).get_mut(instance).expect("it runs").child.kill().expect("killed");
    }

    pub fn plant_foreign(&self) {
        lock(&self.taps).insert(FOREIGN.to_owned(), Tap { address: Ipv4Addr::LOCALHOST, open: true });
    }

    pub fn plant_tap(&self, name: &str, address: Ipv4Addr) {
        lock(&self.taps).insert(name.to_owned(), Tap { address, open: true });
    }

    /// Who may connect to nowhere from the moment on in which the network was made sure of.
    pub fn confined(&self) -> Vec<Ipv4Addr> {
        lock(&self.confined).1.clone()
    }

    pub fn foreign_is_untouched(&self) -> bool {
        lock(&self.taps).remove(FOREIGN).is_some()
    }

    pub fn leftovers(&self) -> Vec<String> {
        let guests = lock(&self.guests);
        let running = guests.iter().filter(|(_, guest)| !ended(&guest.process));
        let mut left: Vec<String> = running.map(|(name, _)| format!("VMM {name}")).collect();
        left.extend(
            lock(&self.taps).keys().filter(|name| *name != FOREIGN).map(|name| format!("tap {name}")),
        );
        left
    }

    fn spawn(&self, spec: &VmSpec) -> io::Result<VmProcess> {
        let disk = spec.drives[1].path.with_extension("files");
        fs::create_dir_all(&disk)?;
        let console = File::options().append(true).create(true).open(&spec.console)?;
        let script = r#"echo "booting"; read -r secret && export CLARATEACH_SECRET="$secret" && rm -f "$SOCKET" && exec -a "$0" "$WORKSPACE" serve"#;
        let socket = spec.run_dir.join("workspace");
        let mut child = Command::new("bash")
            .arg("-c")
            .arg(script)
            .arg(format!("vmm:{}", spec.instance))
            .env("WORKSPACE", &self.workspace)
            .env("SOCKET", &socket)
            .env("CLARATEACH_LISTEN", format!("unix:{}", socket.display()))
            .env("CLARATEACH_ROOT", &disk)
            .env("CLARATEACH_UID", "self")
            .env("CLARATEACH_PORTS", "tree")
            .stdin(Stdio::piped())
            .stdout(console.try_clone()?)
            .stderr(console)
            .process_group(0)
            .spawn()?;
        let process = identity(i32::try_from(child.id()).expect("a pid")).ok_or(io::ErrorKind::NotFound)?;
        let guest = Guest {
            process: process.clone(),
            stdin: child.stdin.take(),
            child,
            state: GuestState::Parked,
            spec: spec.clone(),
            paused: false,
            reaped: false,
        };
        lock(&self.guests).insert(spec.instance.clone(), guest);
        Ok(process)
    }

    async fn start_somehow(
        &self,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
        how: &str,
    ) -> Result<VmProcess, VmmError> {
        let faults = self.faults();
        let instance = spec.instance.clone();
        if faults.slow_start > Duration::ZERO {
            sleep(faults.slow_start).await;
        }
        for drive in &spec.drives {
            assert!(drive.path.is_file(), "{} is not there", drive.path.display());
        }
        let nic = spec.nic.as_ref().expect("a NIC");
        let closed = lock(&self.taps).get(&nic.tap).copied().expect("its tap is there");
        assert!(!closed.open || !spec.control, "its tap was open before it knew who it is");
        if faults.refuse_start {
            let (call, message) = ("boot".to_owned(), "told to refuse".to_owned());
            return Err(VmmError::Refused { instance, call, message });
        }
        let io = |operation| {
            let path = spec.run_dir.clone();
            move |source| VmmError::Io { operation, path, source }
        };
        if !self.find(&instance).is_empty() {
            // What is undone of a start that failed is told by the VM's name.
            self.end(&instance);
            let (call, message) = ("open its tap".to_owned(), "another VMM has it".to_owned());
            return Err(VmmError::Refused { instance, call, message });
        }
        let process = self.spawn(spec).map_err(io("spawn"))?;
        self.note(format!("{how} {instance}"));
        if let Err(error) = spawned(&process) {
            self.end(&instance);
            return Err(io("note")(error));
        }
        if faults.hang_start {
            while !ended(&process) {
                sleep(Duration::from_millis(5)).await;
            }
            let message = "it was killed".to_owned();
            return Err(VmmError::Exited { instance, during: "starting", message });
        }
        if faults.exit_at_once {
            self.end(&instance);
        }
        Ok(process)
    }

    /// Kills and reaps.
    fn end(&self, instance: &str) {
        if let Some(guest) = lock(&self.guests).get_mut(instance)
            && !guest.reaped
        {
            let _ = guest.child.kill();
            let _ = guest.child.wait();
            guest.reaped = true;
        }
    }

    fn answer(&self, instance: &str, request: GuestRequest) -> GuestReply {
        if matches!(request, GuestRequest::Shutdown) && !self.faults().ignores_shutdown {
            self.end(instance);
            return GuestReply::Ok { state: GuestState::Ending };
        }
        let mut guests = lock(&self.guests);
        let Some(guest) = guests.get_mut(instance) else {
            return GuestReply::Error { message: "it is gone".to_owned() };
        };
        if let GuestRequest::Configure(config) = request {
            if guest.state != GuestState::Parked {
                return GuestReply::Error { message: "already configured".to_owned() };
            }
            let nic = guest.spec.nic.as_ref().expect("a NIC");
            let tap = lock(&self.taps).get(&nic.tap).copied().expect("its tap is there");
            assert!(!tap.open, "its tap was opened before it knew who it is");
            assert_eq!(config.network.expect("a network").address, tap.address);
            let mut stdin = guest.stdin.take().expect("not yet told");
            stdin.write_all(format!("{}\n", config.secret).as_bytes()).expect("told");
            guest.state = GuestState::Running;
        }
        GuestReply::Ok { state: guest.state }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let names: Vec<String> = lock(&self.guests).keys().cloned().collect();
        for name in names {
            self.end(&name);
        }
    }
}

fn stat(pid: i32) -> Option<(String, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some((fields.first()?.to_string(), fields.get(19)?.parse().ok()?))
}

fn identity(pid: i32) -> Option<VmProcess> {
    let (_, start_ticks) = stat(pid)?;
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    Some(VmProcess { pid, start_ticks, boot_id })
}

fn ended(process: &VmProcess) -> bool {
    stat(process.pid).is_none_or(|(state, started)| state == "Z" || started != process.start_ticks)
}

#[async_trait]
impl Vmm for World {
    fn kind(&self) -> RuntimeKind {
        RuntimeKind::Qemu
    }

    async fn version(&self) -> Result<String, VmmError> {
        Ok("a plain process".to_owned())
    }

    async fn start(&self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<VmProcess, VmmError> {
        self.start_somehow(spec, spawned, "boot").await
    }

    async fn restore(
        &self,
        snapshot: &Snapshot,
        spec: &VmSpec,
        spawned: OnSpawn<'_>,
    ) -> Result<VmProcess, VmmError> {
        assert!(snapshot.dir.join("memory").is_file(), "the snapshot is there");
        if self.faults().refuse_restore {
            let (call, message) = ("restore".to_owned(), "told to refuse".to_owned());
            return Err(VmmError::Refused { instance: spec.instance.clone(), call, message });
        }
        self.start_somehow(spec, spawned, "restore").await
    }

    async fn snapshot(&self, spec: &VmSpec, _process: &VmProcess, dir: &Path) -> Result<Snapshot, VmmError> {
        let io = |source| VmmError::Io { operation: "write", path: dir.to_owned(), source };
        let state = lock(&self.guests).get_mut(&spec.instance).map(|guest| {
            guest.paused = true;
            guest.state
        });
        assert_eq!(state, Some(GuestState::Parked), "only a parked guest has no secrets");
        if self.faults().hang_snapshot {
            self.note(format!("pause {}", spec.instance));
            std::future::pending::<()>().await;
        }
        fs::create_dir(dir).map_err(io)?;
        fs::write(dir.join("memory"), b"parked").map_err(io)?;
        self.note(format!("snapshot {}", spec.instance));
        Ok(Snapshot { dir: dir.to_owned(), spec: spec.clone(), vmm_version: "a plain process".to_owned() })
    }

    fn is_alive(&self, _spec: &VmSpec, process: &VmProcess) -> bool {
        !ended(process)
    }

    fn find(&self, instance: &str) -> Vec<VmProcess> {
        let guests = lock(&self.guests);
        let found = guests.get(instance).map(|guest| guest.process.clone());
        found.into_iter().filter(|process| !ended(process)).collect()
    }

    async fn wait(&self, process: &VmProcess) -> io::Result<()> {
        while !ended(process) {
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn kill(&self, spec: &VmSpec, _process: Option<&VmProcess>) -> Result<(), VmmError> {
        self.end(&spec.instance);
        lock(&self.guests).remove(&spec.instance);
        Ok(())
    }

    async fn control(&self, spec: &VmSpec) -> io::Result<BoxedSeatStream> {
        let paused = lock(&self.guests).get(&spec.instance).is_some_and(|guest| guest.paused);
        if paused || self.faults().never_parks {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        // What a guest's first process would do, done by the test's.
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(serve(self.this.clone(), spec.instance.clone(), far));
        Ok(Box::new(near))
    }
}

async fn serve(world: Weak<World>, instance: String, stream: tokio::io::DuplexStream) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let request = serde_json::from_str(&line).expect("a request");
        let Some(world) = world.upgrade() else { return };
        let mut answer = serde_json::to_vec(&world.answer(&instance, request)).expect("JSON");
        answer.push(b'\n');
        if lines.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[async_trait]
impl Network for World {
    fn gateway(&self) -> (Ipv4Addr, u8) {
        (Ipv4Addr::new(192, 168, 100, 1), 24)
    }

    fn confine(&self, guests: &[Slot]) {
        lock(&self.confined).0 = guests.iter().map(|slot| slot.address).collect();
    }

    async fn ensure(&self) -> Result<(), NetError> {
        let mut confined = lock(&self.confined);
        confined.1 = confined.0.clone();
        Ok(())
    }

    async fn attach(&self, slot: &Slot) -> Result<(), NetError> {
        if self.faults().refuse_taps {
            let (operation, object) = ("make tap", slot.tap.clone());
            return Err(NetError::Refused { operation, object, message: "told to refuse".to_owned() });
        }
        let mut taps = lock(&self.taps);
        let twice = taps.iter().any(|(name, tap)| *name != slot.tap && tap.address == slot.address);
        assert!(!twice, "two taps have {}", slot.address);
        taps.insert(slot.tap.clone(), Tap { address: slot.address, open: false });
        Ok(())
    }

    async fn open(&self, slot: &Slot) -> Result<(), NetError> {
        lock(&self.taps).get_mut(&slot.tap).expect("its tap is there").open = true;
        Ok(())
    }

    async fn detach(&self, slot: &Slot) -> Result<(), NetError> {
        if self.faults().stuck_taps {
            let (operation, object) = ("remove tap", slot.tap.clone());
            return Err(NetError::Refused { operation, object, message: "told to refuse".to_owned() });
        }
        lock(&self.taps).remove(&slot.tap);
        Ok(())
    }

    async fn taps(&self) -> Result<Vec<String>, NetError> {
        Ok(lock(&self.taps).keys().filter(|name| *name != FOREIGN).cloned().collect())
    }

    async fn sweep(&self, wanted: &[Slot]) -> Result<usize, NetError> {
        let mut taps = lock(&self.taps);
        let before = taps.len();
        taps.retain(|name, _| name == FOREIGN || wanted.iter().any(|slot| slot.tap == *name));
        Ok(before - taps.len())
    }

    async fn remove(&self) -> Result<(), NetError> {
        Ok(())
    }

    async fn dial(&self, address: Ipv4Addr, _port: u16) -> io::Result<BoxedSeatStream> {
        let tap = {
            let taps = lock(&self.taps);
            let mut open = taps.iter().filter(|(_, tap)| tap.open && tap.address == address);
            open.next().map(|(name, _)| name.clone())
        };
        let socket = tap.and_then(|tap| {
            let guests = lock(&self.guests);
            let mut wired =
                guests.values().filter(|guest| guest.spec.nic.as_ref().is_some_and(|nic| nic.tap == tap));
            wired.next().map(|guest| guest.spec.run_dir.join("workspace"))
        });
        let socket = socket.ok_or(io::ErrorKind::HostUnreachable)?;
        Ok(Box::new(UnixStream::connect(socket).await?))
    }

    async fn ping(&self, address: Ipv4Addr) -> io::Result<bool> {
        let guests = lock(&self.guests);
        let taps = lock(&self.taps);
        let wired = |guest: &Guest| {
            let tap = guest.spec.nic.as_ref().and_then(|nic| taps.get(&nic.tap));
            tap.is_some_and(|tap| tap.open && tap.address == address)
        };
        Ok(guests.values().any(|guest| wired(guest) && !ended(&guest.process)))
    }
}
