//! The seat's terminals.
//!
//! ```text
//!   shell ⇄ PTY ⇄ pump ──▶ ring (1 MiB) ──▶ viewer, viewer, …   each a position in the ring and a WebSocket
//!                           └──▶ screen model, fed lazily        for redraws
//! ```
//!
//! - A terminal belongs to the seat: it lives on without viewers, whose output is then simply drained into the ring.
//! - Of several viewers one is the **writer**: the first that came, and from then on whoever typed last. Only the
//!   writer's size counts, and only the writer can make the program wait. When it leaves, the last to have come
//!   follows. Connections with `mode=view` never become it.
//! - Other viewers that fall behind get a redraw of the screen instead of what they missed.
//! - What is under way to a viewer is kept to a few milliseconds of its reading speed ([`window`]), so that Ctrl-C
//!   is not stuck behind megabytes in socket buffers.

mod frames;
mod http;
mod modes;
mod pty;
mod readiness;
mod ring;
mod screen;
mod session;
mod viewer;
mod window;

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    io,
    path::PathBuf,
    rc::Rc,
    time::Duration,
};

use clarateach_seatproto::terminal::Terminal as Description;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use thiserror::Error;

pub(crate) use self::{http::route, readiness::watch_descriptor};
use self::{pty::Pty, session::Terminal};
use crate::learner::Learner;

/// Most terminals with a living shell.
const MOST: usize = 64;
/// Terminals whose shell has exited that are kept to be read.
const MOST_EXITED: usize = 8;
/// Between hanging up a deleted terminal's processes and killing those that stay.
const HANG_UP: Duration = Duration::from_millis(300);

/// Why a terminal can't be had.
#[derive(Debug, Error)]
pub(crate) enum TerminalError {
    #[error("this image has no shell: install bash or sh; the files can still be used")]
    NoShell,
    #[error("there are {MOST} terminals already; close one first")]
    TooMany,
    #[error("terminal {0} does not exist")]
    NotFound(u32),
    #[error("starting the shell")]
    Spawn(#[source] io::Error),
}

impl TerminalError {
    pub(crate) fn code(&self) -> &'static str {
        match self {
            TerminalError::NoShell => "NO_SHELL",
            TerminalError::TooMany => "TOO_MANY_TERMINALS",
            TerminalError::NotFound(_) => "NOT_FOUND",
            TerminalError::Spawn(_) => "SHELL_FAILED",
        }
    }
}

/// All terminals of the seat.
#[derive(Debug)]
pub(crate) struct Terminals {
    learner: Rc<Learner>,
    root: PathBuf,
    epoch: String,
    by_id: RefCell<BTreeMap<u32, Rc<Terminal>>>,
    by_pid: RefCell<HashMap<u32, Rc<Terminal>>>,
}

impl Terminals {
    pub(crate) fn new(learner: Rc<Learner>, root: PathBuf) -> Result<Terminals, getrandom::Error> {
        let epoch = format!("{:016x}", getrandom::u64()?);
        Ok(Terminals { learner, root, epoch, by_id: RefCell::default(), by_pid: RefCell::default() })
    }

    /// All of them, by number.
    pub(crate) fn list(&self) -> Vec<Description> {
        self.by_id.borrow().values().map(|t| t.describe()).collect()
    }

    fn get(&self, id: u32) -> Option<Rc<Terminal>> {
        self.by_id.borrow().get(&id).cloned()
    }

    /// Opens a terminal with the lowest free number.
    fn open(&self, size: (u16, u16), directory: Option<PathBuf>) -> Result<Rc<Terminal>, TerminalError> {
        let running = self.by_id.borrow().values().filter(|t| !t.has_exited()).count();
        if running >= MOST {
            return Err(TerminalError::TooMany);
        }
        self.forget_exited();
        let id = (1..).find(|id| !self.by_id.borrow().contains_key(id)).unwrap_or(1);
        let pty = self.spawn(size, directory)?;
        let terminal = Rc::new(Terminal::new(id, pty, size.0, size.1).map_err(TerminalError::Spawn)?);
        self.by_id.borrow_mut().insert(id, terminal.clone());
        self.adopt(&terminal);
        Ok(terminal)
    }

    /// The terminal to attach to: the default one is opened when it isn't there, one whose shell has exited gets a
    /// fresh shell unless the caller is still to be told of the exit.
    fn attachable(&self, id: Option<u32>, tell_exit: bool) -> Result<Rc<Terminal>, TerminalError> {
        let number = id.unwrap_or(1);
        let Some(terminal) = self.get(number) else {
            return if number == 1 {
                self.open((80, 24), None)
            } else {
                Err(TerminalError::NotFound(number))
            };
        };
        if terminal.has_exited() && !tell_exit {
            let pty = self.spawn(terminal.size(), None)?;
            terminal.restart(pty).map_err(TerminalError::Spawn)?;
            self.adopt(&terminal);
        }
        Ok(terminal)
    }

    fn spawn(&self, (cols, rows): (u16, u16), directory: Option<PathBuf>) -> Result<Pty, TerminalError> {
        let shell = self.learner.shell.as_ref().ok_or(TerminalError::NoShell)?;
        let directory = directory.unwrap_or_else(|| self.root.clone());
        Pty::spawn(&self.learner, shell, &directory, cols, rows).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound if !shell.exists() => TerminalError::NoShell,
            _ => TerminalError::Spawn(e),
        })
    }

    fn adopt(&self, terminal: &Rc<Terminal>) {
        self.by_pid.borrow_mut().insert(terminal.pid(), terminal.clone());
        tokio::task::spawn_local(terminal.clone().pump());
    }

    /// A child of ours has been reaped.
    pub(crate) fn child_ended(&self, pid: u32, status: i32) {
        if let Some(terminal) = self.by_pid.borrow_mut().remove(&pid) {
            terminal.shell_died(status);
        }
    }

    /// Closes a terminal and ends everything in its session. Its viewers are told of the exit.
    fn close(&self, id: u32) -> Result<(), TerminalError> {
        let terminal = self.by_id.borrow_mut().remove(&id).ok_or(TerminalError::NotFound(id))?;
        if terminal.has_exited() {
            return Ok(());
        }
        let session = terminal.pid();
        let signal = move |signal| {
            for pid in crate::pid1::session_members(session) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
            }
        };
        signal(Signal::SIGHUP);
        signal(Signal::SIGCONT);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(HANG_UP).await;
            signal(Signal::SIGKILL);
        });
        Ok(())
    }

    fn forget_exited(&self) {
        let mut by_id = self.by_id.borrow_mut();
        let exited: Vec<u32> =
            by_id.iter().filter(|(_, t)| t.has_exited() && !t.has_viewers()).map(|(id, _)| *id).collect();
        for id in exited.iter().take(exited.len().saturating_sub(MOST_EXITED)) {
            by_id.remove(id);
        }
    }
}
