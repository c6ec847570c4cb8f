//! The process that serves VMs is killed at any moment: those that run go on, and afterwards nothing is left over.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

#[path = "support/doubles.rs"]
mod doubles;
#[allow(dead_code)]
#[path = "guest_boot/image.rs"]
mod image;
#[path = "support/machines.rs"]
mod machines;
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use clarateach_ids::{Generation, SeatKey, SeatNumber};
use clarateach_microvm::net::Network;
use clarateach_microvm::{CreateRequest, MicroVmRuntime, Readiness, Until};
use clarateach_runtime::{DesiredSeat, Egress, EnvironmentState, ImageRef, Runtime};
use clarateach_testkit::wait_for;
use jiff::Timestamp;
use machines::Machines;

/// Tells a copy of this test that it is to serve, in which directory.
const ROOT: &str = "CLARATEACH_KILLS_ROOT";
/// Tells it that its VMs are QEMU's.
const QEMU: &str = "CLARATEACH_KILLS_QEMU";
/// How many VMs there are over the double, and over QEMU.
const DOUBLES: u32 = 8;
const MACHINES: u32 = 4;
/// A VM that may still change its process: it is snapshotted or restored.
const UNSETTLED: &str = "0";
const PATIENCE: Duration = Duration::from_secs(60);

fn key(seat: u32) -> SeatKey {
    SeatKey { workshop: "kills".parse().unwrap(), seat: SeatNumber::new(seat).unwrap() }
}

/// Odd seats are told who they are over the control channel, even ones by their kernel's arguments; one in four may not
/// go out, so that the firewall has something to say of it.
fn wish(seat: u32, generation: u64) -> CreateRequest {
    let desired = DesiredSeat {
        key: key(seat),
        generation: Generation(generation),
        image: ImageRef("default".to_owned()),
        vcpus: 1,
        memory_mb: 128,
        disk_mb: 1024,
        env: BTreeMap::new(),
        secret: "kills".to_owned().into(),
        egress: if seat.is_multiple_of(4) { Egress::None } else { Egress::Internet },
        not_after: None,
    };
    let readiness = if seat.is_multiple_of(2) { Readiness::Ping } else { Readiness::Health };
    CreateRequest { desired, readiness: Some(readiness) }
}

/// Virtual machines can do all that seats can.
fn machine_wish(seat: u32, generation: u64) -> CreateRequest {
    CreateRequest { readiness: Some(Readiness::Health), ..wish(seat, generation) }
}

fn random(below: u64) -> u64 {
    getrandom::u64().unwrap() % below
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// Not a test: what is killed. Makes and removes VMs until then, and says what it does.
#[test]
fn serve() {
    let Some(root) = std::env::var_os(ROOT).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let on_qemu = std::env::var_os(QEMU).is_some();
    runtime.block_on(async {
        let workspace = clarateach_testkit::seat_binary::workspace().unwrap();
        let mut config = machines::config(&root, workspace);
        config.capacity = if on_qemu { MACHINES } else { DOUBLES };
        config.snapshots = on_qemu;
        let vmm = if on_qemu { machines::emulated() } else { doubles::double(&root) };
        let vms = MicroVmRuntime::open(config, vmm, machines::network()).await.unwrap();
        for vm in vms.vms() {
            let state = vm.state;
            say(&format!("found {} {} {} {state:?}", vm.key.seat, vm.generation, vm.pid.unwrap_or_default()));
        }
        say("open");
        let vms = Arc::new(vms);
        if on_qemu {
            (1..=MACHINES).for_each(|seat| drop(tokio::spawn(toil_on_machines(vms.clone(), seat))));
        } else {
            (1..=DOUBLES).for_each(|seat| drop(tokio::spawn(toil(vms.clone(), seat))));
        }
        std::future::pending::<()>().await;
    });
}

fn new_generation() -> u64 {
    u64::try_from(Timestamp::now().as_microsecond()).unwrap()
}

async fn toil(vms: Arc<MicroVmRuntime>, seat: u32) {
    loop {
        tokio::time::sleep(Duration::from_millis(random(30))).await;
        let generation = match vms.vm(&key(seat)) {
            Some(vm) => vm.generation.0,
            None => {
                let generation = new_generation();
                let made = vms.create(wish(seat, generation), Until::Started).await.unwrap();
                say(&format!("made {seat} {generation} {}", made.vm.pid.unwrap_or_default()));
                tokio::time::sleep(Duration::from_millis(random(200))).await;
                generation
            }
        };
        if random(3) == 0 {
            remove(&vms, seat, generation).await;
        }
    }
}

async fn toil_on_machines(vms: Arc<MicroVmRuntime>, seat: u32) {
    loop {
        tokio::time::sleep(Duration::from_millis(random(200))).await;
        let generation = match vms.vm(&key(seat)) {
            Some(vm) => vm.generation.0,
            None => {
                let generation = new_generation();
                vms.create(machine_wish(seat, generation), Until::Started).await.unwrap();
                say(&format!("made {seat} {generation} {UNSETTLED}"));
                generation
            }
        };
        let ready = vms.create(machine_wish(seat, generation), Until::Ready);
        if let Ok(Ok(ready)) = tokio::time::timeout(Duration::from_millis(random(6000)), ready).await
            && ready.vm.state == EnvironmentState::Ready
        {
            say(&format!("made {seat} {generation} {}", ready.vm.pid.unwrap_or_default()));
        }
        if random(3) == 0 {
            remove(&vms, seat, generation).await;
        }
    }
}

async fn remove(vms: &MicroVmRuntime, seat: u32, generation: u64) {
    say(&format!("removing {seat}"));
    vms.remove(&key(seat), Generation(generation)).await.unwrap();
    say(&format!("removed {seat}"));
}

/// A VM that has been made and not been asked to be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Made {
    generation: u64,
    pid: String,
}

impl Made {
    /// Whether `found` is this VM, undisturbed.
    fn is(&self, found: &Made) -> bool {
        self.generation == found.generation && (self.pid == UNSETTLED || self.pid == found.pid)
    }
}

struct Server {
    process: Child,
    lines: Receiver<String>,
}

impl Server {
    fn start(root: &Path, on_qemu: bool) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        if on_qemu {
            command.env(QEMU, "1");
        }
        let mut process = command
            .args(["serve", "--exact", "--nocapture"])
            .env(ROOT, root)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { process, lines }
    }

    /// Listens for a while, then kills. The VMs that must be there afterwards are in `made`, unless a removal of them was on its way.
    fn live_and_die(mut self, made: &mut BTreeMap<String, Made>, life: Duration) -> bool {
        let mut deadline = Instant::now() + life;
        let mut found = BTreeMap::new();
        let mut opened = false;
        let mut killed = false;
        loop {
            let line = match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) if !killed => {
                    self.process.kill().unwrap();
                    killed = true;
                    deadline += PATIENCE;
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => panic!("it does not die"),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["found", seat, generation, pid, state] => {
                    let vm = Made { generation: generation.parse().unwrap(), pid: pid.to_owned() };
                    found.insert(seat.to_owned(), (vm, state.to_owned()));
                }
                ["open"] => {
                    opened = true;
                    for (seat, vm) in made.iter() {
                        let there = found.get(seat).map(|(vm, _)| vm);
                        let same = there.is_some_and(|there| vm.is(there));
                        assert!(same, "seat {seat} was made, {vm:?}, and is {:?}", found.get(seat));
                    }
                }
                ["made", seat, generation, pid] => {
                    let vm = Made { generation: generation.parse().unwrap(), pid: pid.to_owned() };
                    made.insert(seat.to_owned(), vm);
                }
                ["removing", seat] => {
                    made.remove(seat);
                }
                _ => {}
            }
        }
        let status = self.process.wait().unwrap();
        assert!(killed, "it ended by itself: {status}");
        for (seat, vm) in made.iter().filter(|(_, vm)| vm.pid != UNSETTLED) {
            assert!(Path::new("/proc").join(&vm.pid).exists(), "seat {seat} did not outlive its server");
        }
        opened
    }
}

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |number| number.parse().unwrap())
}

#[test]
fn nothing_is_lost_and_nothing_is_left_however_often_the_server_is_killed() {
    let kills = number("CLARATEACH_KILLS", 20);
    machines::in_own_network(move || async move {
        let Some(mut machines) = doubles::doubles("kills of the server").await else { return };
        machines.config.capacity = DOUBLES;
        let life = || Duration::from_millis(40 + random(700));
        kill_and_count(&machines, kills, false, life).await;
    });
}

#[test]
fn virtual_machines_outlive_their_killed_server_too() {
    let kills = number("CLARATEACH_KILLS_ON_QEMU", 4);
    machines::in_network_of_guests(move || async move {
        let Some(mut machines) = machines::qemu("kills of the server of virtual machines").await else {
            return;
        };
        machines.config.capacity = MACHINES;
        machines.config.snapshots = true;
        let life = || Duration::from_millis(200 + random(5000));
        kill_and_count(&machines, kills, true, life).await;
    });
}

/// Kills `kills` servers, then looks whether all VMs that should be there are, removes them, and counts what is left.
async fn kill_and_count(machines: &Machines, kills: u32, on_qemu: bool, life: impl Fn() -> Duration) {
    let mut made = BTreeMap::new();
    let (mut opened, mut carried, mut killed) = (0, 0, 0);
    // Where a start takes longer than these lives, longer ones follow.
    while killed < kills || (carried == 0 && killed < 10 * kills) {
        let server = Server::start(machines.root.path(), on_qemu);
        opened += u32::from(server.live_and_die(&mut made, life() * (1 + killed / kills)));
        carried += made.len();
        killed += 1;
    }
    eprintln!("{killed} kills, {opened} after the start was over, {carried} VMs carried over");
    assert!(carried > 0, "no VM was ever there");

    let runtime = machines.open().await;
    for (seat, vm) in &made {
        let key = key(seat.parse().unwrap());
        let found = runtime.vm(&key).unwrap_or_else(|| panic!("seat {seat} is lost"));
        let there = Made { generation: found.generation.0, pid: found.pid.unwrap_or_default().to_string() };
        assert!(vm.is(&there), "seat {seat}: {vm:?} is {there:?}");
        let answers = || async { machines.network.ping(found.address).await.unwrap_or(false).then_some(()) };
        wait_for(&format!("seat {seat} at {} to answer", found.address), PATIENCE, answers).await;
        if on_qemu {
            clarateach_runtime::conformance::until_ready(&runtime, &key, vm.generation).await;
        }
    }
    for vm in runtime.vms() {
        let state = vm.state;
        assert!(state != EnvironmentState::Failed && state != EnvironmentState::Stopped, "{vm:?}");
        runtime.remove(&vm.key, vm.generation).await.unwrap();
    }
    // What the last kill has left half-made is removed in the background.
    let deadline = Instant::now() + PATIENCE;
    let mut left = machines.leftovers().await;
    while !left.is_empty() {
        assert!(Instant::now() < deadline, "left behind: {left:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        left = machines.leftovers().await;
    }
}

#[test]
fn two_hundred_vms_are_taken_over_at_once() {
    const VMS: u32 = 200;
    machines::in_own_network(|| async {
        let Some(mut machines) = doubles::doubles("taking over of 200").await else { return };
        machines.config.capacity = VMS;
        let runtime = Arc::new(machines.open().await);
        let began = Instant::now();
        let creates: Vec<_> = (1..=VMS)
            .map(|seat| {
                let (runtime, mut request) = (runtime.clone(), wish(seat, 1));
                request.readiness = None;
                tokio::spawn(async move { runtime.create(request, Until::Ready).await.unwrap().vm })
            })
            .collect();
        let mut before = BTreeMap::new();
        for create in creates {
            let vm = create.await.unwrap();
            assert_eq!(vm.state, EnvironmentState::Ready, "{vm:?}");
            before.insert(vm.key.clone(), (vm.pid, vm.address));
        }
        eprintln!("{VMS} VMs were ready after {:?}", began.elapsed());
        drop(runtime);

        let began = Instant::now();
        let runtime = machines.open().await;
        let opened = began.elapsed();
        let after: BTreeMap<_, _> =
            runtime.vms().into_iter().map(|vm| (vm.key.clone(), (vm.pid, vm.address))).collect();
        assert!(before == after, "not all were taken over as they were");
        let ready =
            || async { runtime.vms().iter().all(|vm| vm.state == EnvironmentState::Ready).then_some(()) };
        wait_for("all to be ready", PATIENCE, ready).await;
        eprintln!(
            "{VMS} VMs were taken over in {opened:?}, and had all answered after {:?}",
            began.elapsed()
        );
        assert!(opened < Duration::from_secs(5), "{opened:?}");

        let removals: Vec<_> = before.keys().map(|key| runtime.remove(key, Generation(1))).collect();
        for removal in futures_util::future::join_all(removals).await {
            removal.unwrap();
        }
        assert_eq!(machines.leftovers().await, Vec::<String>::new());
    });
}
