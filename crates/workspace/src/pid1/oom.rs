//! Whom the kernel ends when a machine's memory is full: the learner's processes, never the server.
//!
//! As process 1 the server is never chosen. Beside an image's own init it must ask for that, and its shells must not
//! inherit it. See proc_pid_oom_score_adj(5).

use std::{fs, io};

use rustix::fs::{Mode, OFlags};

const SCORE: &str = "/proc/self/oom_score_adj";

/// Asks never to be chosen.
pub(super) fn protect_from_oom() -> io::Result<()> {
    fs::write(SCORE, "-1000")
}

/// Whether this process is never chosen.
pub(crate) fn is_spared_by_oom() -> bool {
    fs::read_to_string(SCORE).is_ok_and(|score| score.trim() == "-1000")
}

/// For a child between fork and exec: plain system calls, no allocation.
pub(crate) fn give_up_oom_protection() -> io::Result<()> {
    let score =
        rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&score, b"0")?;
    Ok(())
}
