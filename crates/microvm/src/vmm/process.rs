//! Processes told apart for good, watched and ended by pidfd: whether they are children of this process or not.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid,
};

use super::{VmProcess, VmmError, console, pidfd as pidfds};

/// How long a process may take to be gone after SIGKILL: it may have to give back gigabytes.
const KILL_PATIENCE: Duration = Duration::from_secs(20);

impl VmProcess {
    /// The process that has this pid now; none if there is none, or only a zombie.
    #[must_use]
    pub fn observe(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        if stat.dead {
            return None;
        }
        Some(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
    }

    /// As [`VmProcess::observe`] for a child that has not been reaped, and so is there even if it has ended.
    pub(super) fn of_child(pid: i32) -> Option<Self> {
        let stat = Stat::read(pid)?;
        Some(Self { pid, start_ticks: stat.start_ticks, boot_id: boot_id()? })
    }

    /// Whether this very process, and not a later one with its pid, runs. A zombie does not.
    #[must_use]
    pub fn runs(&self) -> bool {
        Self::observe(self.pid).as_ref() == Some(self)
    }

    /// Whether it runs and has the argument `flag` followed by `instance` on its command line.
    pub(super) fn is_instance(&self, flag: &str, instance: &str) -> bool {
        self.runs() && names_instance(self.pid, flag, instance)
    }
}

struct Stat {
    dead: bool,
    start_ticks: u64,
}

impl Stat {
    /// See proc_pid_stat(5). The second field may contain anything but ends with the last parenthesis.
    fn read(pid: i32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        Some(Self { dead: matches!(state, "Z" | "X" | "x"), start_ticks })
    }
}

fn boot_id() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned())
}

fn names_instance(pid: i32, flag: &str, instance: &str) -> bool {
    let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
    let mut arguments = line.split(|byte| *byte == 0);
    while let Some(argument) = arguments.next() {
        if argument == flag.as_bytes() {
            return arguments.next() == Some(instance.as_bytes());
        }
    }
    false
}

/// All processes with `flag` followed by `instance` among their arguments.
pub(super) fn scan(flag: &str, instance: &str) -> Vec<VmProcess> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| names_instance(*pid, flag, instance))
        .filter_map(VmProcess::observe)
        .collect()
}

/// Opens a pidfd of exactly this process; none if it has ended and been reaped.
pub(super) fn open(process: &VmProcess) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(process.pid) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    // Read after the pidfd was opened: if it matches, the pidfd is that of the process that was meant.
    match Stat::read(process.pid) {
        Some(stat)
            if stat.start_ticks == process.start_ticks && boot_id().as_ref() == Some(&process.boot_id) =>
        {
            Ok(Some(pidfd))
        }
        _ => Ok(None),
    }
}

/// Waits until the process has ended, keeps its console within its bound meanwhile, and reaps it if it is a child: what
/// it ended with is known only then, and only to the first who asks.
pub(super) async fn watch(pidfd: OwnedFd, process: &VmProcess) -> io::Result<Option<WaitIdStatus>> {
    let pidfd = pidfds::register(pidfd)?;
    let mut trimmer = console::Trimmer::new(process.pid);
    loop {
        tokio::select! {
            ready = pidfd.readable() => {
                drop(ready?);
                return Ok(reap(pidfd.get_ref()));
            }
            () = tokio::time::sleep(trimmer.pause()) => trimmer.trim(),
        }
    }
}

/// Takes the exit status of an ended child; none if it is no child, or somebody else has taken it.
fn reap(pidfd: &OwnedFd) -> Option<WaitIdStatus> {
    waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok().flatten()
}

/// [`super::Vmm::wait`].
pub(super) async fn wait(process: &VmProcess) -> io::Result<()> {
    if let Some(pidfd) = open(process)? {
        watch(pidfd, process).await?;
    }
    Ok(())
}

/// Kills the process and waits until it is gone and reaped.
pub(super) async fn kill(instance: &str, process: &VmProcess) -> Result<(), VmmError> {
    let failed = |operation, source| VmmError::Io {
        operation,
        path: Path::new("/proc").join(process.pid.to_string()),
        source,
    };
    let Some(pidfd) = open(process).map_err(|source| failed("open the pidfd of", source))? else {
        return Ok(());
    };
    match pidfd_send_signal(&pidfd, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => {}
        Err(errno) => return Err(failed("kill", errno.into())),
    }
    match tokio::time::timeout(KILL_PATIENCE, watch(pidfd, process)).await {
        Ok(ended) => {
            ended.map_err(|source| failed("wait for", source))?;
            Ok(())
        }
        Err(_) => Err(VmmError::Silent {
            instance: instance.to_owned(),
            call: "SIGKILL".to_owned(),
            seconds: KILL_PATIENCE.as_secs(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_itself_and_no_other() {
        let own = VmProcess::observe(std::process::id().cast_signed()).unwrap();
        assert!(own.runs());
        assert!(!VmProcess { start_ticks: own.start_ticks + 1, ..own.clone() }.runs());
        assert!(!VmProcess { boot_id: "another".into(), ..own.clone() }.runs());
        assert!(!VmProcess { pid: i32::MAX, ..own.clone() }.runs());
        assert!(open(&own).unwrap().is_some());
        assert!(open(&VmProcess { start_ticks: 1, ..own }).unwrap().is_none());
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes)] // What is tested here reaps it.
    async fn a_child_that_ended_is_reaped_and_does_not_run() {
        let child =
            std::process::Command::new("sh").args(["-c", "exit 3", "--id", "ct-proc-1"]).spawn().unwrap();
        let pid = child.id().cast_signed();
        let stat = Stat::read(pid).unwrap();
        let process = VmProcess { pid, start_ticks: stat.start_ticks, boot_id: boot_id().unwrap() };
        wait(&process).await.unwrap();
        assert!(Stat::read(pid).is_none(), "still a zombie");
        assert!(!process.runs());
        wait(&process).await.unwrap();
        kill("ct-proc-1", &process).await.unwrap();
    }

    #[tokio::test]
    #[allow(clippy::zombie_processes)] // What is tested here reaps it.
    async fn processes_are_found_by_the_argument_after_the_flag() {
        let mut command = std::process::Command::new("sh");
        let script = "read line; exit";
        let mut child = command
            .args(["-c", script, "--id", "ct-proc-scan"])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // With posix_spawn, spawn may return before the new command line is there.
        let found = clarateach_testkit::wait_for("the process", Duration::from_secs(5), async || {
            Some(scan("--id", "ct-proc-scan")).filter(|found| !found.is_empty())
        });
        let found = found.await;
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].pid, child.id().cast_signed());
        assert!(scan("-name", "ct-proc-scan").is_empty());
        assert!(scan("--id", "ct-proc-sca").is_empty());
        kill("ct-proc-scan", &found[0]).await.unwrap();
        assert!(scan("--id", "ct-proc-scan").is_empty());
        drop(child.stdin.take());
    }
}
