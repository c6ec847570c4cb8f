//! Reaping, and ending everything that runs in the seat.

use std::{collections::HashMap, fs, time::Duration};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

/// Collects every child that has ended: shells and adopted orphans alike. Returns pid and exit code, 128 + n for a
/// death by signal n.
///
/// All children of this process are ours to reap: nothing here waits for a child by itself, so no status is stolen.
pub(crate) fn reap() -> Vec<(u32, i32)> {
    let mut ended = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended.push((pid.as_raw().unsigned_abs(), code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                ended.push((pid.as_raw().unsigned_abs(), 128 + signal as i32));
            }
            Ok(WaitStatus::StillAlive) => return ended,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return ended,
        }
    }
}

struct Process {
    pid: u32,
    parent: u32,
    session: u32,
}

/// Fields 1, 4 and 6 of /proc/PID/stat, see proc(5); the command in field 2 may hold anything but ends at the last `)`.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read(entry.path().join("stat")).ok()?;
            let end = memchr::memrchr(b')', &stat)?;
            let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
            let mut fields = rest.split_ascii_whitespace();
            let state = fields.next()?;
            let parent = fields.next()?.parse().ok()?;
            let session = fields.nth(1)?.parse().ok()?;
            (state != "Z").then_some(Process { pid, parent, session })
        })
        .collect()
}

/// All living processes below us.
pub(crate) fn descendants() -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for process in processes() {
        children.entry(process.parent).or_default().push(process.pid);
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(pid) = next.pop() {
        if let Some(below) = children.remove(&pid) {
            found.extend(&below);
            next.extend(below);
        }
    }
    found
}

/// All living processes of a machine but this one, process 1, and the kernel's threads, which are children of process 2.
pub(super) fn others() -> Vec<u32> {
    let own = std::process::id();
    let is_other = |p: &Process| p.pid > 2 && p.pid != own && p.parent != 2;
    processes().into_iter().filter(is_other).map(|p| p.pid).collect()
}

/// The living processes of a terminal's session.
pub(crate) fn session_members(leader: u32) -> Vec<u32> {
    processes().into_iter().filter(|p| p.session == leader).map(|p| p.pid).collect()
}

/// Hangs up everything below us, then kills what is left; returns when nothing is.
pub(crate) async fn end_all() {
    let signal = |signal| {
        for pid in descendants() {
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    };
    signal(Signal::SIGHUP);
    signal(Signal::SIGCONT);
    signal(Signal::SIGTERM);
    for attempt in 0..200 {
        reap();
        if descendants().is_empty() {
            return;
        }
        // Shells ignore SIGTERM and exit on SIGHUP; whoever ignores both has had its 150 ms.
        if attempt >= 15 {
            signal(Signal::SIGKILL);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
