//! One run of a VM: the steps from disk to death, and the undoing of each.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clarateach_runtime::{Egress, EnvironmentState, Reason};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Phase, boot, console};
use crate::config::Readiness;
use crate::disk;
use crate::error::Fault;
use crate::host::Host;
use crate::journal::{Event, Record};
use crate::snapshot::Start;
use crate::vmm::{VmProcess, VmmError};

/// The longest a VMM may take to be started; drivers give up earlier.
const LONGEST_START: Duration = Duration::from_secs(90);
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
    cancel: CancellationToken,
) -> (Record, End) {
    let end = match begin {
        Begin::TakeOver => match record.process.clone() {
            Some(process) => watch(&host, &mut record, &process, false, &cancel).await,
            None => End::Failed(Fault::new("VMM_EXITED", "its record names no process")),
        },
        Begin::New { .. } | Begin::Again => match start(&host, &mut record, begin, &cancel).await {
            Ok(Some((process, restored))) => watch(&host, &mut record, &process, restored, &cancel).await,
            Ok(None) => End::Cancelled,
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

/// Ends the VMM and removes its tap and run directory; what can't be removed is removed with the VM.
pub(crate) async fn clear(host: &Host, record: &Record) {
    if let Err(fault) = stop(host, record).await {
        tracing::warn!(instance = record.instance(), error = %fault, "what a VM leaves could not be removed yet");
    }
}

async fn stop(host: &Host, record: &Record) -> Result<(), Fault> {
    host.vmm.kill(&record.spec, record.process.as_ref()).await?;
    host.network.detach(&record.slot).await?;
    disk::remove(&record.spec.run_dir).map_err(|error| {
        Fault::io("DISK_FAILED", format!("removing {}", record.spec.run_dir.display()), &error)
    })
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

/// Makes what the VM needs and starts its guest. None when it was told to end. On a fault, what was made is there still.
async fn start(
    host: &Arc<Host>,
    record: &mut Record,
    begin: Begin,
    cancel: &CancellationToken,
) -> Result<Option<(VmProcess, bool)>, Fault> {
    let prepared = tokio::select! {
        () = cancel.cancelled() => return Ok(None),
        prepared = prepare(host, record, begin) => prepared?,
    };
    let began = Instant::now();
    let restored = matches!(prepared, Start::Restore(_));
    let (process, restored) = match launch(host, record, prepared, cancel).await {
        Ok(process) => (process, restored),
        Err(fault) if restored => {
            // A cold boot gives the same VM, later.
            host.snapshots.failed(record, &fault);
            host.vmm.kill(&record.spec, record.process.as_ref()).await?;
            record.process = None;
            directory(&record.spec.run_dir)?;
            (launch(host, record, Start::Boot, cancel).await?, false)
        }
        Err(fault) => return Err(fault),
    };
    let Some(process) = process else { return Ok(None) };
    let vmm = began.elapsed();
    host.times.vmm.note(vmm);
    if let Begin::New { asked } = begin {
        host.times.own.note(asked.elapsed().saturating_sub(vmm));
    }
    record.process = Some(process.clone());
    record.phase = Phase::Booting;
    let pid = process.pid;
    phase(host, record)?;
    host.board.publish(&record.key(), |vm, shown| {
        *shown = Phase::Booting;
        vm.state = EnvironmentState::Starting;
        vm.pid = Some(pid);
        vm.started = true;
        vm.restored = restored;
    });
    Ok(Some((process, restored)))
}

/// Everything that must be there before the VMM is.
async fn prepare(host: &Arc<Host>, record: &Record, begin: Begin) -> Result<Start, Fault> {
    host.check_kernel()?;
    if record.spec.initramfs.is_some() {
        host.initramfs().await?;
    }
    let began = Instant::now();
    {
        let (home, spec) = (host.vm_directory(record.instance()), record.spec.clone());
        let (upper, disk_mb) = (record.upper.clone(), record.disk_mb);
        let furnish = move || {
            directory(&home)?;
            directory(&spec.run_dir)?;
            if matches!(begin, Begin::New { .. }) {
                disk::make(&upper, disk_mb, &spec.instance)
            } else {
                Ok(())
            }
        };
        tokio::task::spawn_blocking(furnish)
            .await
            .map_err(|error| Fault::new("DISK_FAILED", error.to_string()))??;
    }
    host.times.disk.note(began.elapsed());
    let began = Instant::now();
    {
        let _turn = match record.slot.egress {
            Egress::Internet => None,
            Egress::None => Some(host.closed_egress.read().await),
        };
        host.network.attach(&record.slot).await?;
    }
    if record.readiness == Readiness::Ping {
        // Such a guest configures itself while it boots.
        host.network.open(&record.slot).await?;
    }
    host.times.network.note(began.elapsed());
    Ok(host.snapshots.start_of(host, record))
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
            Start::Boot => host.vmm.start(&spec, note).await,
            Start::Restore(snapshot) => host.vmm.restore(&snapshot, &spec, note).await,
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

/// Tells the guest who it is, asks whether it is well, and waits for its end.
async fn watch(
    host: &Arc<Host>,
    record: &mut Record,
    process: &VmProcess,
    restored: bool,
    cancel: &CancellationToken,
) -> End {
    let spec = record.spec.clone();
    let death = async {
        if host.vmm.wait(process).await.is_err() {
            while host.vmm.is_alive(&spec, process) {
                sleep(LOOK).await;
            }
        }
    };
    tokio::select! {
        biased;
        () = cancel.cancelled() => End::Cancelled,
        () = death => {
            let message = format!("Its virtual machine has ended{}", console::excerpt(&spec.console));
            End::Died(Reason::new("VMM_EXITED", message))
        }
        fault = boot::run(host, record, restored) => End::Failed(fault),
    }
}
