//! Pseudo-terminals and the shells on them.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    path::Path,
    process::{Command, Stdio},
};

use nix::{
    sys::signal::{SigHandler, Signal, kill, signal},
    unistd::Pid,
};
use rustix::{
    process::{Gid, Uid},
    pty::OpenptFlags,
    termios::{LocalModes, SpecialCodeIndex, Winsize},
};

use crate::{learner::Learner, pid1};

/// Signals that keys and terminals send. Whoever started us may ignore them (`nohup`, a shell's `&`), and what is ignored
/// stays so over exec: Ctrl-C would do nothing.
const BY_KEY_OR_TERMINAL: [Signal; 6] =
    [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];

/// Size of the kernel's input queue of a terminal, in bytes.
const KERNEL_INPUT: u64 = 4096;

/// The controlling side of a terminal with a shell on its other side.
#[derive(Debug)]
pub(crate) struct Pty {
    master: OwnedFd,
    pid: u32,
}

impl Pty {
    /// Opens a terminal and starts the learner's shell on it, as the learner, in a session of its own.
    ///
    /// The child is not waited for here: [`crate::pid1::reap`] collects it by its pid.
    pub(crate) fn spawn(
        learner: &Learner,
        shell: &Path,
        directory: &Path,
        cols: u16,
        rows: u16,
    ) -> io::Result<Pty> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&master)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::termios::tcsetwinsize(&master, winsize(cols, rows))?;
        set_utf8(&slave)?;
        if learner.drops {
            rustix::fs::fchown(&slave, Some(Uid::from_raw(learner.uid)), None)?;
        }
        rustix::io::ioctl_fionbio(&master, true)?;

        let mut command = Command::new(shell);
        command
            .env_clear()
            .envs(learner.env.iter().map(|(n, v)| (n, v)))
            .env("PWD", directory)
            .stdin(Stdio::from(slave.try_clone()?))
            .stdout(Stdio::from(slave.try_clone()?))
            .stderr(Stdio::from(slave));
        let directory = CString::new(directory.as_os_str().as_bytes())?;
        let ids = learner.drops.then(|| {
            let groups: Vec<Gid> = learner.groups.iter().map(|g| Gid::from_raw(*g)).collect();
            (groups, Gid::from_raw(learner.gid), Uid::from_raw(learner.uid))
        });
        let spared = pid1::is_spared_by_oom();
        let become_learner = move || -> io::Result<()> {
            if spared {
                pid1::give_up_oom_protection()?;
            }
            for ended_by in BY_KEY_OR_TERMINAL {
                // SAFETY: the default action runs no code of ours.
                unsafe { signal(ended_by, SigHandler::SigDfl) }?;
            }
            rustix::process::setsid()?;
            // Standard input is the terminal's other side by now.
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
            if let Some((groups, gid, uid)) = &ids {
                rustix::thread::set_thread_groups(groups)?;
                rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
                rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
            }
            // As the learner: root without its capabilities may not enter a directory that is closed to others.
            Ok(rustix::process::chdir(&*directory)?)
        };
        // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed: it makes plain
        // system calls on data allocated before the fork, and neither allocates nor locks.
        let child = unsafe { command.pre_exec(become_learner) }.spawn()?;
        Ok(Pty { master, pid: child.id() })
    }

    /// Process id of the shell, which is also its session.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(&self.master, winsize(cols, rows))?)
    }

    /// A second descriptor of the same terminal.
    pub(crate) fn duplicate(&self) -> io::Result<OwnedFd> {
        self.master.try_clone()
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        rustix::io::read(&self.master, buffer)
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> rustix::io::Result<usize> {
        rustix::io::write(&self.master, bytes)
    }

    /// The signal that this input byte raises in the terminal's present mode: that of `intr`, `quit` or `susp`.
    pub(crate) fn signal_of(&self, byte: u8) -> Option<Signal> {
        let modes = rustix::termios::tcgetattr(&self.master).ok()?;
        if byte == 0 || !modes.local_modes.contains(LocalModes::ISIG) {
            return None;
        }
        [
            (SpecialCodeIndex::VINTR, Signal::SIGINT),
            (SpecialCodeIndex::VQUIT, Signal::SIGQUIT),
            (SpecialCodeIndex::VSUSP, Signal::SIGTSTP),
        ]
        .into_iter()
        .find_map(|(code, signal)| (modes.special_codes[code] == byte).then_some(signal))
    }

    /// Whether the program has left so much input unread that the kernel may no longer look at new characters.
    pub(crate) fn is_clogged(&self) -> bool {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        rustix::pty::ioctl_tiocgptpeer(&self.master, flags)
            .and_then(rustix::io::ioctl_fionread)
            .is_ok_and(|unread| unread > KERNEL_INPUT / 2)
    }

    /// Drops input that the program has not read, and signals the foreground processes: what the terminal would do
    /// itself if the signal's character could get past the full input queue.
    pub(crate) fn interrupt(&self, signal: Signal) {
        let _ = rustix::termios::tcflush(&self.master, rustix::termios::QueueSelector::OFlush);
        if let Ok(group) = rustix::termios::tcgetpgrp(&self.master) {
            let _ = kill(Pid::from_raw(-group.as_raw_pid()), signal);
        }
    }
}

impl AsFd for Pty {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl std::os::fd::AsRawFd for Pty {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.master)
    }
}

fn winsize(cols: u16, rows: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Lets the kernel's line editing erase whole characters.
fn set_utf8(slave: &OwnedFd) -> io::Result<()> {
    let mut modes = rustix::termios::tcgetattr(slave)?;
    modes.input_modes |= rustix::termios::InputModes::IUTF8;
    Ok(rustix::termios::tcsetattr(slave, rustix::termios::OptionalActions::Now, &modes)?)
}
