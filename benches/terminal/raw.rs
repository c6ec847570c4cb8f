//! The same on bare PTYs: what the kernel alone takes.

use std::{
    io,
    os::fd::OwnedFd,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    pty::OpenptFlags,
};

use crate::measure::{Flood, Latencies};

struct Terminal {
    master: OwnedFd,
    child: Child,
}

impl Terminal {
    fn run(command: &str) -> io::Result<Terminal> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::io::ioctl_fionbio(&master, true)?;
        let child = Command::new("setsid")
            .args(["--ctty", "sh", "-c", command])
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave))
            .spawn()?;
        Ok(Terminal { master, child })
    }

    fn wait_readable(&self) -> io::Result<()> {
        poll(&mut [PollFd::new(&self.master, PollFlags::IN)], None)?;
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Keys typed into `cat`, each timed until it comes back.
pub(crate) fn echo(sessions: usize, time: Duration, every: Option<Duration>) -> io::Result<Latencies> {
    let terminals: Vec<Terminal> = (0..sessions)
        .map(|_| Terminal::run("stty raw -echo; printf R; exec cat"))
        .collect::<io::Result<_>>()?;
    let mut buffer = [0u8; 4096];
    for terminal in &terminals {
        terminal.wait_readable()?;
        rustix::io::read(&terminal.master, &mut buffer)?;
    }
    // Staggered, as people are.
    let start = Instant::now();
    let mut due: Vec<Option<Instant>> = (0..sessions)
        .map(|n| Some(start + every.unwrap_or_default() * u32::try_from(n).unwrap_or(0) / sessions as u32))
        .collect();
    let mut typed: Vec<Instant> = vec![start; sessions];
    let mut latencies = Latencies::default();
    while start.elapsed() < time {
        let now = Instant::now();
        for n in 0..sessions {
            if due[n].is_some_and(|at| at <= now) {
                due[n] = None;
                typed[n] = Instant::now();
                rustix::io::write(&terminals[n].master, b"k")?;
            }
        }
        let next = due.iter().flatten().min().map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = next.unwrap_or(Duration::from_secs(1));
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: i64::from(timeout.subsec_nanos()) };
        let mut ready: Vec<PollFd<'_>> =
            terminals.iter().map(|t| PollFd::new(&t.master, PollFlags::IN)).collect();
        poll(&mut ready, Some(&timeout))?;
        let readable: Vec<bool> = ready.iter().map(|r| r.revents().contains(PollFlags::IN)).collect();
        for n in (0..sessions).filter(|n| readable[*n]) {
            rustix::io::read(&terminals[n].master, &mut buffer)?;
            latencies.add(typed[n].elapsed());
            due[n] = Some(every.map_or_else(Instant::now, |every| typed[n] + every));
        }
    }
    Ok(latencies)
}

/// So many terminals at once each print their share of the file, and every byte is compared; MB/s of all together.
pub(crate) fn flood(flood: &Flood, sessions: usize) -> io::Result<f64> {
    let share = flood.content.len() / sessions;
    let command = format!("stty raw -echo; printf R; read go; exec head -c {share} {}", quoted(&flood.path));
    let terminals: Vec<Terminal> =
        (0..sessions).map(|_| Terminal::run(&command)).collect::<io::Result<_>>()?;
    let mut buffer = vec![0u8; 64 << 10];
    for terminal in &terminals {
        terminal.wait_readable()?;
        rustix::io::read(&terminal.master, &mut buffer)?;
    }
    let start = Instant::now();
    for terminal in &terminals {
        rustix::io::write(&terminal.master, b"\n")?;
    }
    let mut at = vec![0; sessions];
    while at.iter().any(|at| *at < share) {
        let open: Vec<usize> = (0..sessions).filter(|n| at[*n] < share).collect();
        let mut ready: Vec<PollFd<'_>> =
            open.iter().map(|n| PollFd::new(&terminals[*n].master, PollFlags::IN)).collect();
        poll(&mut ready, None)?;
        let readable: Vec<bool> = ready.iter().map(|r| !r.revents().is_empty()).collect();
        for (n, _) in open.into_iter().zip(readable).filter(|(_, readable)| *readable) {
            match rustix::io::read(&terminals[n].master, &mut buffer) {
                Ok(read) => {
                    if flood.content.get(at[n]..at[n] + read) != Some(&buffer[..read]) {
                        return Err(io::Error::other(format!("the raw PTY differs near byte {}", at[n])));
                    }
                    at[n] += read;
                }
                Err(Errno::AGAIN) => {}
                Err(other) => return Err(other.into()),
            }
        }
    }
    Ok((share * sessions) as f64 / 1e6 / start.elapsed().as_secs_f64())
}

/// For a shell.
pub(crate) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
