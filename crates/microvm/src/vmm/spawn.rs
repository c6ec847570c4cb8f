//! Starting a VMM so that nothing of this process holds on to it.
//!
//! It gets a session and control groups of its own, no descriptor but its standard ones, an empty environment (this
//! process's may hold tokens), the console file as its output, and, when asked for, a mount namespace of its own.

#![allow(unsafe_code)]

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Signal, WaitIdStatus, pidfd_send_signal};
use tokio::sync::watch;

use super::cgroup::{self, Limits};
use super::{OnSpawn, VmProcess, VmSpec, VmmError, console, process};

/// How much of what a VMM printed goes into an error.
const LAST_WORDS: u64 = 1500;

/// A VMM to be started.
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) limits: Limits,
    /// Its working directory.
    pub(super) directory: PathBuf,
    /// Paths that the VMM shall see as others: bind mounts in a mount namespace of its own. Both must exist.
    pub(super) binds: Vec<Bind>,
    /// Largest file it may write, in bytes.
    pub(super) file_size: u64,
}

/// One path that stands for another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bind {
    /// What is meant.
    pub(super) source: PathBuf,
    /// What it is called by.
    pub(super) target: PathBuf,
}

/// A VMM that has been started. It is killed when this is dropped before [`Spawned::keep`].
pub(super) struct Spawned {
    pub(super) process: VmProcess,
    instance: String,
    console: PathBuf,
    console_from: u64,
    exit: watch::Receiver<Option<String>>,
    pidfd: OwnedFd,
    kept: bool,
}

impl Launch {
    /// Starts it, reports its pid to `spawned`, and watches it from now on, so that it never stays as a zombie.
    pub(super) fn start(self, spec: &VmSpec, spawned: OnSpawn<'_>) -> Result<Spawned, VmmError> {
        let failed =
            |operation, path: &Path, source| VmmError::Io { operation, path: path.to_owned(), source };
        let output =
            console::open(&spec.console).map_err(|e| failed("open the console", &spec.console, e))?;
        let errors = output.try_clone().map_err(|e| failed("open the console", &spec.console, e))?;
        let console_from = output.metadata().map_or(0, |meta| meta.len());

        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear().current_dir(&self.directory);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let groups = cgroup::enter(&spec.instance, self.limits);
        let binds = self.binds.iter().map(Bind::prepare).collect::<io::Result<_>>();
        let binds = binds.map_err(|e| failed("prepare mounts for", &spec.run_dir, e))?;
        let child = Child { groups, binds, file_size: self.file_size };
        // SAFETY: `Child::prepare` only makes system calls: it does not allocate, lock or unwind.
        unsafe { command.pre_exec(move || child.prepare()) };
        let started = command.spawn().map_err(|error| VmmError::Program {
            program: self.program.display().to_string(),
            message: format!("it could not be started: {error}"),
        })?;

        let pid = started.id().cast_signed();
        let (process, pidfd) = identify(pid)?;
        let spawned_process = Spawned {
            exit: watch_exit(&process)?,
            process,
            instance: spec.instance.clone(),
            console: spec.console.clone(),
            console_from,
            pidfd,
            kept: false,
        };
        spawned(&spawned_process.process).map_err(|e| failed("journal the start of", &spec.run_dir, e))?;
        Ok(spawned_process)
    }
}

/// A child that has not been reaped keeps its pid, so this can't be another process. It may have ended already.
fn identify(pid: i32) -> Result<(VmProcess, OwnedFd), VmmError> {
    let gone = |source| VmmError::Io {
        operation: "watch the process",
        path: Path::new("/proc").join(pid.to_string()),
        source,
    };
    let process = VmProcess::of_child(pid).ok_or_else(|| gone(io::ErrorKind::NotFound.into()))?;
    let pidfd = process::open(&process).map_err(gone)?.ok_or_else(|| gone(io::ErrorKind::NotFound.into()))?;
    Ok((process, pidfd))
}

/// Says what the process ended with, as soon as it has.
fn watch_exit(process: &VmProcess) -> Result<watch::Receiver<Option<String>>, VmmError> {
    let (sender, receiver) = watch::channel(None);
    let (_, pidfd) = identify(process.pid)?;
    let process = process.clone();
    tokio::spawn(async move {
        let ended = process::watch(pidfd, &process).await;
        let _ = sender.send(Some(ended.ok().flatten().map_or_else(|| "ended".to_owned(), describe)));
    });
    Ok(receiver)
}

fn describe(status: WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => "ended".to_owned(),
    }
}

impl Spawned {
    /// It is as it should be: let it run on without this process.
    pub(super) fn keep(mut self) -> VmProcess {
        self.kept = true;
        self.process.clone()
    }

    /// Does something with it; gives up when it ends meanwhile, or when `call` has taken `patience`.
    pub(super) async fn attempt<T>(
        &mut self,
        during: &'static str,
        call: &str,
        patience: Duration,
        work: impl Future<Output = Result<T, VmmError>>,
    ) -> Result<T, VmmError> {
        tokio::select! {
            biased;
            result = work => match result {
                // It may have refused because it was about to end: why it ended says more.
                Err(error) => match tokio::time::timeout(Duration::from_millis(200), self.exited(during)).await {
                    Ok(exited) => Err(exited),
                    Err(_) => Err(error),
                },
                done => done,
            },
            exited = self.exited(during) => Err(exited),
            () = tokio::time::sleep(patience) => Err(VmmError::Silent {
                instance: self.instance.clone(),
                call: call.to_owned(),
                seconds: patience.as_secs(),
            }),
        }
    }

    /// Waits until it has ended and says why.
    async fn exited(&mut self, during: &'static str) -> VmmError {
        let status = match self.exit.wait_for(Option::is_some).await {
            Ok(status) => status.clone().unwrap_or_default(),
            Err(_) => "ended".to_owned(),
        };
        let words = console::tail(&self.console, self.console_from, LAST_WORDS);
        let message = if words.is_empty() { status } else { format!("{status}; it printed: {words}") };
        VmmError::Exited { instance: self.instance.clone(), during, message }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !self.kept {
            // It is reaped by the task that watches it, or by whoever calls kill.
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
    }
}

/// What happens between fork and exec.
struct Child {
    groups: Vec<File>,
    binds: Vec<PreparedBind>,
    file_size: u64,
}

struct PreparedBind {
    source: CString,
    target: CString,
}

impl Bind {
    fn prepare(&self) -> io::Result<PreparedBind> {
        let text = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from);
        Ok(PreparedBind { source: text(&self.source)?, target: text(&self.target)? })
    }
}

impl Child {
    /// Runs in the new process, of which only this thread exists: system calls only.
    fn prepare(&self) -> io::Result<()> {
        rustix::process::setsid()?;
        for group in &self.groups {
            // Without the group the VMM would have no limits: better no VMM.
            rustix::io::write(group, b"0")?;
        }
        let limit = libc::rlimit { rlim_cur: self.file_size, rlim_max: self.file_size };
        // SAFETY: plain system calls on values of ours; the descriptors from 3 on are marked, not closed, because the
        // one through which the parent learns of a failed exec is among them.
        unsafe {
            check(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit))?;
            if libc::signal(libc::SIGXFSZ, libc::SIG_IGN) == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
            check(libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()))?;
        }
        if !self.binds.is_empty() {
            self.enter_namespace()?;
        }
        Ok(())
    }

    fn enter_namespace(&self) -> io::Result<()> {
        // SAFETY: system calls on C strings that live as long as this call. Unsharing the mount namespace affects this
        // process alone, as it is single-threaded after fork.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            // Mounts made here must not show outside; those made outside may show here.
            check(libc::mount(
                std::ptr::null(),
                c"/".as_ptr(),
                std::ptr::null(),
                libc::MS_REC | libc::MS_SLAVE,
                std::ptr::null(),
            ))?;
            for bind in &self.binds {
                check(libc::mount(
                    bind.source.as_ptr(),
                    bind.target.as_ptr(),
                    std::ptr::null(),
                    libc::MS_BIND,
                    std::ptr::null(),
                ))?;
            }
        }
        Ok(())
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
