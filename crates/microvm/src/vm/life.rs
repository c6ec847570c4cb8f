//! One run of a VM: the steps from disk to death, and the undoing of each.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clarateach_runtime::{Egress, EnvironmentState, Reason};
use tokio::sync::{RwLockReadGuard, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Phase, boot, console};
use crate::config::Readiness;
use crate::disk;
use crate::error::Fault;
use crate::host::Host;
use crate::journal::{Event, Record};
use crate::snapshot::{Kind, Start};
use crate::vmm::{Snapshot, VmProcess, VmmError};

/// The longest a VMM may take to be started; drivers give up earlier.
const LONGEST_START: Duration = Duration::from_secs(240);
/// Between looks at a VMM that can't be watched by pidfd.
const LOOK: Duration = Duration::from_millis(200);

/// What a life begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begin {
    /// Nothing.
    New {
        /// When it was asked for.
        asked: Instant,
    },
    /// The disk that is there.
    Again,
    /// The VMM that runs.
    TakeOver,
}

/// Tells when the wish is on disk; none when it was before the life began.
pub(crate) type Written = Option<oneshot::Receiver<()>>;

/// How a life ended. Nothing runs and no tap is there then; the disk is.
#[derive(Debug)]
pub(crate) enum End {
    /// Its VMM has ended.
    Died(Reason),
    /// It could not be started.
    Failed(Fault),
    /// It was told to end.
    Cancelled,
}

/// Lives. Changes the record as it goes and gives it back.
pub(crate) async fn run(
    host: Arc<Host>,
    mut record: Record,
    begin: Begin,
    written: Written,
    cancel: CancellationToken,
) -> (Record, End) {
    let end = match begin {
        Begin::TakeOver => match record.process.clone() {
            Some(process) => match watch(&host, &mut record, &process, Errand::Serve, &cancel).await {
                Watched::End(end) => end,
                Watched::Parked | Watched::Mute => {
                    End::Failed(Fault::new("GUEST_SILENT", "its guest does not answer"))
                }
            },
            None => End::Failed(Fault::new("VMM_EXITED", "its record names no process")),
        },
        Begin::New { .. } | Begin::Again => match live(&host, &mut record, begin, written, &cancel).await {
            Ok(end) => end,
            Err(mut fault) => {
                fault.message.push_str(&console::excerpt(&record.spec.console));
                End::Failed(fault)
            }
        },
    };
    clear(&host, &record).await;
    record.process = None;
    (record, end)
}

/// Starts the VM, by a detour over a snapshot if it is the first of its kind, and watches it to its end.
async fn live(
    host: &Arc<Host>,
    record: &mut Record,
    begin: Begin,
    written: Written,
    cancel: &CancellationToken,
) -> Result<End, Fault> {
    let Some(mut next) = prepare(host, record, begin, written, cancel).await? else {
        return Ok(End::Cancelled);
    };
    let mut asked = match begin {
        Begin::New { asked } => Some(asked),
        _ => None,
    };
    loop {
        let Some((process, errand)) = start(host, record, next, asked.take(), cancel).await? else {
            return Ok(End::Cancelled);
        };
        let outcome = watch(host, record, &process, errand.clone(), cancel).await;
        next = match (outcome, errand) {
            (Watched::End(end), errand) => {
                errand.abandon(host);
                return Ok(end);
            }
            (Watched::Parked, Errand::Park(kind)) => {
                // From here on its guest is paused, and nothing of a learner's is on its disk.
                let give_up = |_: &Fault| host.snapshots.abandon(&kind);
                restarting(host, record).inspect_err(give_up)?;
                let taken = host.snapshots.take(host, record, &process, &kind).await;
                pass_on(host, record).await.inspect_err(give_up)?;
                match taken {
                    Ok(snapshot) => Start::Restore(kind, Box::new(snapshot)),
                    Err(fault) => {
                        host.snapshots.broken(&kind, &fault);
                        Start::Boot(None)
                    }
                }
            }
            (_, Errand::Prove(kind, _)) => {
                let fault = Fault::new("GUEST_SILENT", "its guest does not answer after it was restored");
                host.snapshots.broken(&kind, &fault);
                restarting(host, record)?;
                pass_on(host, record).await?;
                Start::Boot(None)
            }
            (_, Errand::Park(_) | Errand::Serve) => Start::Boot(None),
        };
    }
}

/// Cut off from here on, it is started again.
fn restarting(host: &Host, record: &mut Record) -> Result<(), Fault> {
    record.phase = Phase::Restarting;
    phase(host, record)
}

/// Ends the VMM so that another takes its place, with the same disk, tap and directories.
async fn pass_on(host: &Host, record: &mut Record) -> Result<(), Fault> {
    host.vmm.kill(&record.spec, record.process.as_ref()).await?;
    record.process = None;
    directory(&record.spec.run_dir)
}

/// What a VM is started for.
#[derive(Debug, Clone)]
enum Errand {
    /// To serve.
    Serve,
    /// To be snapshotted when it is parked.
    Park(Kind),
    /// To serve, and by that to show that its snapshot works.
    Prove(Kind, Box<Snapshot>),
}

impl Errand {
    fn abandon(self, host: &Host) {
        if let Self::Park(kind) | Self::Prove(kind, _) = self {
            host.snapshots.abandon(&kind);
        }
    }
}

/// Ends the VMM and removes its tap and run directory; what can't be removed is removed with the VM.
pub(crate) async fn clear(host: &Host, record: &Record) {
    if let Err(fault) = stop(host, record).await {
        tracing::warn!(instance = record.instance(), error = %fault, "what a VM leaves could not be removed yet");
    }
}

async fn stop(host: &Host, record: &Record) -> Result<(), Fault> {
    host.vmm.kill(&record.spec, record.process.as_ref()).await?;
    detach(host, record).await?;
    disk::remove(&record.spec.run_dir).map_err(|error| {
        Fault::io("DISK_FAILED", format!("removing {}", record.spec.run_dir.display()), &error)
    })
}

/// Removes the tap, unless the address is another VM's by now: a tap is named after its address, and so is what the firewall
/// says of a guest. This one's was gone then, and only the line that says so was lost.
async fn detach(host: &Host, record: &Record) -> Result<(), Fault> {
    let address = record.slot.address;
    let own = host.board.has_to_itself(record.instance(), address);
    if !own && !host.board.begin_sweep(address) {
        return Ok(());
    }
    let detached = {
        let _turn = quiet_firewall(host, record).await;
        host.network.detach(&record.slot).await
    };
    if !own {
        host.board.end_sweep(address);
    }
    Ok(detached?)
}

/// Removes everything that was ever made of a VM but its record.
pub(crate) async fn undo(host: &Host, record: &Record) -> Result<(), Fault> {
    stop(host, record).await?;
    let directory = host.vm_directory(record.instance());
    disk::remove(&directory)
        .map_err(|error| Fault::io("DISK_FAILED", format!("removing {}", directory.display()), &error))
}

fn directory(path: &Path) -> Result<(), Fault> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Fault::io("DISK_FAILED", format!("making {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

/// Starts the guest. None when it was told to end. On a fault, what was made is there still.
async fn start(
    host: &Arc<Host>,
    record: &mut Record,
    how: Start,
    asked: Option<Instant>,
    cancel: &CancellationToken,
) -> Result<Option<(VmProcess, Errand)>, Fault> {
    let began = Instant::now();
    let errand = match &how {
        Start::Boot(None) => Errand::Serve,
        Start::Boot(Some(kind)) => Errand::Park(kind.clone()),
        Start::Restore(kind, snapshot) => Errand::Prove(kind.clone(), snapshot.clone()),
    };
    let (process, errand) = match (launch(host, record, how, cancel).await, errand) {
        (Ok(process), errand) => (process, errand),
        (Err(fault), Errand::Prove(kind, _)) => {
            // A cold boot gives the same VM, later.
            host.snapshots.broken(&kind, &fault);
            host.vmm.kill(&record.spec, record.process.as_ref()).await?;
            record.process = None;
            directory(&record.spec.run_dir)?;
            (launch(host, record, Start::Boot(None), cancel).await?, Errand::Serve)
        }
        (Err(fault), errand) => {
            errand.abandon(host);
            return Err(fault);
        }
    };
    let Some(process) = process else {
        errand.abandon(host);
        return Ok(None);
    };
    let vmm = began.elapsed();
    host.times.vmm.note(vmm);
    if let Some(asked) = asked {
        host.times.own.note(asked.elapsed().saturating_sub(vmm));
    }
    record.process = Some(process.clone());
    record.phase = Phase::Booting;
    let (pid, restored) = (process.pid, matches!(errand, Errand::Prove(..)));
    phase(host, record)?;
    host.board.publish(&record.key(), |vm, shown| {
        *shown = Phase::Booting;
        vm.state = EnvironmentState::Starting;
        vm.pid = Some(pid);
        vm.started = true;
        vm.restored = restored;
    });
    Ok(Some((process, errand)))
}

/// Everything that must be there before the VMM is. None when it was told to end.
async fn prepare(
    host: &Arc<Host>,
    record: &mut Record,
    begin: Begin,
    written: Written,
    cancel: &CancellationToken,
) -> Result<Option<Start>, Fault> {
    // What is made anew has just been looked at.
    if begin == Begin::Again {
        host.check_kernel()?;
    }
    let turn = async {
        if record.spec.initramfs.is_some() {
            record.spec.initramfs = Some(host.initramfs().await?);
        }
        let closing = |_| Fault::new("DISK_FAILED", "this host's agent is shutting down");
        host.furnishing.acquire().await.map_err(closing)
    };
    // Waiting is cut short, making is not: a thread would go on with it, behind the back of whoever removes it.
    let turn = tokio::select! {
        () = cancel.cancelled() => return Ok(None),
        turn = turn => turn?,
    };
    // Each waits for another part of the kernel.
    let (disk, tap) = tokio::join!(disk(host, record, begin), tap(host, record));
    drop(turn);
    disk?;
    tap?;
    // Disk and tap go with the host, or are found by their names; a guest runs for a wish that stays.
    if !on_disk(written, cancel).await {
        return Ok(None);
    }
    // A disk that was written to is never met by a guest that remembers another.
    match begin {
        Begin::New { .. } => tokio::select! {
            () = cancel.cancelled() => Ok(None),
            start = host.snapshots.start_of(host, record) => Ok(Some(start)),
        },
        Begin::Again | Begin::TakeOver => Ok(Some(Start::Boot(None))),
    }
}

/// Waits until the wish is on disk; false when it was told to end.
async fn on_disk(written: Written, cancel: &CancellationToken) -> bool {
    let Some(written) = written else { return true };
    tokio::select! {
        () = cancel.cancelled() => false,
        // Who could not write it down ends this life.
        Ok(()) = written => true,
    }
}

/// The VM's directories, and its drive if it is new.
async fn disk(host: &Host, record: &Record, begin: Begin) -> Result<(), Fault> {
    let began = Instant::now();
    let (home, run_dir) = (host.vm_directory(record.instance()), record.spec.run_dir.clone());
    let (upper, disk_mb, seed) = (record.upper.clone(), record.disk_mb, record.instance().to_owned());
    let make = move || {
        directory(&home)?;
        directory(&run_dir)?;
        if matches!(begin, Begin::New { .. }) { disk::make(&upper, disk_mb, &seed) } else { Ok(()) }
    };
    let made = tokio::task::spawn_blocking(make).await;
    made.map_err(|error| Fault::new("DISK_FAILED", error.to_string()))??;
    host.times.disk.note(began.elapsed());
    Ok(())
}

/// What the firewall says of a VM without egress is not changed while left-overs in it are removed.
async fn quiet_firewall<'a>(host: &'a Host, record: &Record) -> Option<RwLockReadGuard<'a, ()>> {
    match record.slot.egress {
        Egress::Internet => None,
        Egress::None => Some(host.closed_egress.read().await),
    }
}

/// The VM's tap, closed until the guest knows who it is.
async fn tap(host: &Host, record: &Record) -> Result<(), Fault> {
    let began = Instant::now();
    {
        let _turn = quiet_firewall(host, record).await;
        host.network.attach(&record.slot).await?;
    }
    if record.readiness == Readiness::Ping {
        // Such a guest configures itself while it boots.
        host.network.open(&record.slot).await?;
    }
    host.times.network.note(began.elapsed());
    Ok(())
}

/// Starts the VMM; whatever comes of it, the record has its process if it was spawned.
async fn launch(
    host: &Arc<Host>,
    record: &mut Record,
    how: Start,
    cancel: &CancellationToken,
) -> Result<Option<VmProcess>, Fault> {
    let spawned = Spawned::default();
    let starting = spawn(host, record, how, &spawned, cancel);
    let outcome = finish(host, record, starting, &spawned, cancel).await;
    record.process = spawned.lock().unwrap_or_else(PoisonError::into_inner).take();
    outcome
}

type Spawned = Arc<Mutex<Option<VmProcess>>>;

/// Starts the VMM in a task of its own: it is not dropped half-way, but ended.
fn spawn(
    host: &Arc<Host>,
    record: &Record,
    how: Start,
    spawned: &Spawned,
    cancel: &CancellationToken,
) -> JoinHandle<Result<VmProcess, VmmError>> {
    let (host, spec) = (host.clone(), record.spec.clone());
    let (spawned, cancel) = (spawned.clone(), cancel.clone());
    tokio::spawn(async move {
        let journal = host.journal.clone();
        let instance = spec.instance.clone();
        let note = Box::new(move |process: &VmProcess| {
            *spawned.lock().unwrap_or_else(PoisonError::into_inner) = Some(process.clone());
            journal.write(Event::Spawned { instance, process: process.clone() })?;
            if cancel.is_cancelled() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "it is to be removed"));
            }
            Ok(())
        });
        match how {
            Start::Boot(_) => host.vmm.start(&spec, note).await,
            Start::Restore(_, snapshot) => host.vmm.restore(&snapshot, &spec, note).await,
        }
    })
}

/// Waits for the VMM to have started, or ends it. None when it was told to end.
async fn finish(
    host: &Host,
    record: &Record,
    mut starting: JoinHandle<Result<VmProcess, VmmError>>,
    spawned: &Spawned,
    cancel: &CancellationToken,
) -> Result<Option<VmProcess>, Fault> {
    let late = tokio::select! {
        outcome = &mut starting => {
            return match outcome {
                Ok(outcome) => outcome.map(Some).map_err(Fault::from),
                Err(error) => Err(Fault::new("VMM_FAILED", format!("starting the VMM: {error}"))),
            };
        }
        () = cancel.cancelled() => false,
        () = sleep(LONGEST_START) => true,
    };
    let told = Instant::now();
    // Killed, it makes whoever talks to it give up; not spawned yet, it will not be.
    while !starting.is_finished() {
        let known = spawned.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if known.is_some() {
            host.vmm.kill(&record.spec, known.as_ref()).await?;
        }
        if timeout(LOOK, &mut starting).await.is_ok() {
            break;
        }
        if known.is_some() || told.elapsed() > LONGEST_START {
            starting.abort();
        }
    }
    if late {
        let seconds = LONGEST_START.as_secs();
        return Err(Fault::new(
            "VMM_SILENT",
            format!("the VMM has not started the guest within {seconds} s"),
        ));
    }
    Ok(None)
}

/// Writes the record's phase down; it outlives this process at once.
fn phase(host: &Host, record: &Record) -> Result<(), Fault> {
    let event = Event::Phase { instance: record.instance().to_owned(), phase: record.phase, reason: None };
    match host.journal.write(event) {
        Ok(_) => Ok(()),
        Err(error) => Err(Fault::io("DISK_FAILED", "writing the journal", &error)),
    }
}

/// Why a VM is not watched any longer.
enum Watched {
    /// Its life is over.
    End(End),
    /// It is parked, as it was to be.
    Parked,
    /// It was restored and does not answer.
    Mute,
}

/// Tells the guest who it is, asks whether it is well, and waits for its end.
async fn watch(
    host: &Arc<Host>,
    record: &mut Record,
    process: &VmProcess,
    errand: Errand,
    cancel: &CancellationToken,
) -> Watched {
    let spec = record.spec.clone();
    let death = async {
        if host.vmm.wait(process).await.is_err() {
            while host.vmm.is_alive(&spec, process) {
                sleep(LOOK).await;
            }
        }
    };
    let restored = matches!(errand, Errand::Prove(..));
    let began = Instant::now();
    let guest = async {
        match errand {
            Errand::Park(_) if boot::parked(host, record).await => return Watched::Parked,
            Errand::Park(_) | Errand::Serve => {}
            Errand::Prove(kind, snapshot) => {
                if !boot::answers(host, record).await {
                    return Watched::Mute;
                }
                host.snapshots.works(kind, *snapshot);
            }
        }
        Watched::End(End::Failed(boot::run(host, record, restored, began).await))
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => Watched::End(End::Cancelled),
        () = death => {
            let message = format!("Its virtual machine has ended{}", console::excerpt(&spec.console));
            Watched::End(End::Died(Reason::new("VMM_EXITED", message)))
        }
        watched = guest => watched,
    }
}
