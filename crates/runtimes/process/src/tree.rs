//! A seat's processes: finding them, watching them, ending all of them.
//!
//! A seat's workspace is known by its first argument, which names the seat's directory: nothing has to be written down
//! that a crash could keep from being written, and a process id that was used again is never mistaken for a seat.
//! While the workspace lives it adopts every orphan of its seat (it is their subreaper), so its descendants are all
//! there is. Should it have died first, its processes are known by a variable in their environment.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// In the environment of everything that a learner starts; the value is the seat's directory.
pub(crate) const MARKER: &str = "CLARATEACH_SEAT_DIR";
const PATIENCE: Duration = Duration::from_secs(20);

/// What a seat's workspace is called in a process list.
pub(crate) fn title(directory: &Path) -> String {
    format!("workspace:{}", directory.display())
}

#[derive(Debug, Clone, Copy)]
struct Process {
    pid: i32,
    parent: i32,
    /// In clock ticks since boot: with the pid it names a process for good.
    started: u64,
    zombie: bool,
}

/// Fields 1, 3, 4 and 22 of /proc/PID/stat, see proc_pid_stat(5); the name in field 2 may hold anything.
fn read(pid: i32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let text = String::from_utf8_lossy(&stat[end + 1..]).into_owned();
    let fields: Vec<&str> = text.split_ascii_whitespace().collect();
    let zombie = matches!(*fields.first()?, "Z" | "X");
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        zombie,
    })
}

fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The process whose first argument is the seat's title.
pub(crate) fn find(directory: &Path) -> Option<i32> {
    let title = title(directory);
    let named = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).next() == Some(title.as_bytes())
    };
    pids().into_iter().filter(named).find(|pid| {
        // A fork of it that has not yet become a shell has its title too.
        read(*pid).is_some_and(|process| !process.zombie && !named(&process.parent))
    })
}

/// A handle to the process, which stays with it whatever becomes of its id.
pub(crate) fn handle(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::NONBLOCK)?)
}

/// Whether the process behind the handle has ended: then it is readable, see pidfd_open(2).
pub(crate) fn has_ended(handle: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(handle, PollFlags::IN)];
    poll(&mut asked, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

fn descendants(root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in pids().into_iter().filter_map(read) {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = vec![root];
    while let Some(pid) = next.pop() {
        for child in children.remove(&pid).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// Processes that carry the seat's marker, or work in its directory.
fn marked(directory: &Path) -> Vec<Process> {
    let marker = format!("{MARKER}={}", directory.display());
    let belongs = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
            || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
    };
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    pids().into_iter().filter(|pid| *pid != own).filter(belongs).filter_map(read).collect()
}

/// Kills exactly this process.
fn kill(process: Process) {
    if let Ok(handle) = handle(process.pid)
        && read(process.pid).is_some_and(|now| now.started == process.started)
    {
        // It may have ended by itself.
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

/// Ends everything of the seat, and returns when nothing of it runs. Blocks.
pub(crate) fn end(directory: &Path) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let root = find(directory);
    if let Some(root) = root
        && let Ok(handle) = handle(root)
    {
        // Stopped, it starts nothing new and still adopts the orphans of what is killed.
        let _ = pidfd_send_signal(&handle, Signal::STOP);
        loop {
            let living: Vec<Process> = descendants(root).into_iter().filter(|p| !p.zombie).collect();
            if living.is_empty() {
                break;
            }
            living.into_iter().for_each(kill);
            pause(deadline)?;
        }
        let _ = pidfd_send_signal(&handle, Signal::KILL);
        while read(root).is_some_and(|process| !process.zombie) {
            pause(deadline)?;
        }
    }
    loop {
        let living: Vec<Process> = marked(directory).into_iter().filter(|p| !p.zombie).collect();
        if living.is_empty() {
            return Ok(());
        }
        living.into_iter().for_each(kill);
        pause(deadline)?;
    }
}

fn pause(deadline: Instant) -> io::Result<()> {
    if Instant::now() >= deadline {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the seat's processes don't end"));
    }
    std::thread::sleep(Duration::from_millis(5));
    Ok(())
}
