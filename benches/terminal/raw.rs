//! A bare PTY: what the kernel alone takes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{io::Errno, pty::OpenptFlags};

use crate::measure::{Failure, Line, readable_of};

pub(crate) struct Terminal {
    master: OwnedFd,
    child: Child,
    buffer: Vec<u8>,
}

impl Terminal {
    /// Opens a PTY and runs a command on it, which must print something first.
    pub(crate) fn run(command: &str) -> io::Result<Terminal> {
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
        let mut terminal = Terminal { master, child, buffer: vec![0; 64 << 10] };
        readable_of([&terminal].into_iter(), None)?;
        rustix::io::read(&terminal.master, &mut terminal.buffer)?;
        Ok(terminal)
    }

    /// `cat` on a raw terminal.
    pub(crate) fn cat() -> io::Result<Terminal> {
        Terminal::run("stty raw -echo; printf R; exec cat")
    }

    /// What prints the beginning of a file once a line is typed.
    pub(crate) fn flooder(path: &Path, share: usize) -> io::Result<Terminal> {
        let path = path.display();
        Terminal::run(&format!("stty raw -echo; printf R; read go; exec head -c {share} '{path}'"))
    }
}

impl Line for Terminal {
    fn type_in(&mut self, text: &str) -> Result<(), Failure> {
        rustix::io::write(&self.master, text.as_bytes())?;
        Ok(())
    }

    fn read(&mut self, take: &mut dyn FnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
        match rustix::io::read(&self.master, &mut self.buffer) {
            Ok(read) => take(&self.buffer[..read]),
            Err(Errno::AGAIN) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
