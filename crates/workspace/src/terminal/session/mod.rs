//! One terminal: a PTY with a shell, the ring of its output, its viewers.
//!
//! A task per terminal (the pump) moves bytes between the PTY and the ring. Viewers are positions in the ring; the
//! pump pauses while the writer's lies too far back, and for nobody else.

mod pump;

use std::{
    cell::RefCell, collections::VecDeque, io, os::fd::OwnedFd, pin::Pin, rc::Rc, task::Waker, time::Instant,
};

use clarateach_seatproto::terminal::{MAX_PENDING_INPUT_BYTES, REPLAY_BYTES, Terminal as Description};
use rustix::io::Errno;
use tokio::{io::unix::AsyncFd, time::Sleep};

use super::{
    frames::Complaint,
    pty::Pty,
    readiness::{watch_descriptor, watch_pty},
    ring::Ring,
    screen::{Screen, complete_prefix},
};

/// Output that the writer has not been sent before the program has to wait.
const WRITER_LAG: u64 = 32 << 10;
/// Output that another viewer has not been sent before it gets a redraw instead.
const VIEWER_LAG: u64 = 256 << 10;
/// Clients whose last input number is remembered.
const CLIENTS: usize = 32;

/// Names a viewer within its terminal.
pub(super) type ViewerKey = u64;

/// A terminal of the seat.
pub(crate) struct Terminal {
    pub(super) id: u32,
    state: RefCell<State>,
}

struct State {
    pty: Option<AsyncFd<Pty>>,
    pid: u32,
    cols: u16,
    rows: u16,
    ring: Ring,
    screen: Screen,
    /// Position at which the present shell began.
    began: u64,
    /// Status of the dead shell, and what has been read since.
    died: Option<(i32, usize)>,
    /// Status, once all of its output is in the ring.
    finished: Option<i32>,
    /// Input that the kernel has not taken.
    input: VecDeque<u8>,
    /// Tells when it takes more; there only while it is wanted.
    writable: Option<AsyncFd<OwnedFd>>,
    /// When there was output last, and how much since it was last quiet.
    spoke: Instant,
    burst: usize,
    /// While output is held back so that more can be sent at once, until when.
    hold: Option<Pin<Box<Sleep>>>,
    viewers: Vec<Viewer>,
    writer: Option<ViewerKey>,
    next_viewer: ViewerKey,
    clients: VecDeque<(String, u64)>,
    pump: Option<Waker>,
}

struct Viewer {
    key: ViewerKey,
    position: u64,
    /// Sends input and sets the size.
    takes_part: bool,
    size: Option<(u16, u16)>,
    waker: Option<Waker>,
    redraw: bool,
    resized: bool,
}

/// How much output a viewer may be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowance {
    /// At most so many bytes.
    pub(super) most: usize,
    /// And none at all if that is not everything there is.
    pub(super) all_or_nothing: bool,
    /// Ending between characters.
    pub(super) whole_characters: bool,
}

/// What a viewer is to be sent next.
pub(super) enum Next<'a> {
    /// Output that ends at the position.
    Output(&'a [u8], &'a [u8], u64),
    /// A redraw at the position.
    Redraw(String, u64),
    /// The size and who is the writer.
    Size { cols: u16, rows: u16, writer: bool },
    /// Everything has been sent and the shell is gone.
    Exit(i32),
    /// Nothing now.
    Nothing,
}

/// Where a viewer begins.
pub(super) struct Attached {
    pub(super) key: ViewerKey,
    pub(super) position: u64,
    pub(super) cols: u16,
    pub(super) rows: u16,
    pub(super) writer: bool,
}

impl Terminal {
    /// A terminal around a fresh shell; its pump must be spawned with [`Terminal::pump`].
    pub(super) fn new(id: u32, pty: Pty, cols: u16, rows: u16) -> io::Result<Terminal> {
        let pid = pty.pid();
        let state = State {
            pty: Some(watch_pty(pty)?),
            pid,
            cols,
            rows,
            ring: Ring::new(REPLAY_BYTES),
            screen: Screen::new(cols, rows, 0),
            began: 0,
            died: None,
            finished: None,
            input: VecDeque::new(),
            writable: None,
            spoke: Instant::now(),
            burst: 0,
            hold: None,
            viewers: Vec::new(),
            writer: None,
            next_viewer: 1,
            clients: VecDeque::new(),
            pump: None,
        };
        Ok(Terminal { id, state: RefCell::new(state) })
    }

    /// Puts a fresh shell on a terminal whose shell has exited: the screen is cleared, positions go on.
    pub(super) fn restart(&self, pty: Pty) -> io::Result<()> {
        let mut state = self.state.borrow_mut();
        state.pid = pty.pid();
        state.pty = Some(watch_pty(pty)?);
        state.died = None;
        state.finished = None;
        state.input.clear();
        state.began = state.ring.head();
        state.append(b"\x1bc");
        Ok(())
    }

    pub(super) fn describe(&self) -> Description {
        let state = self.state.borrow();
        Description {
            id: self.id,
            status: if state.finished.is_some() { "exited" } else { "running" }.to_owned(),
            code: state.finished,
            pid: state.finished.is_none().then_some(state.pid),
            cols: state.cols,
            rows: state.rows,
            viewers: state.viewers.len(),
            seq: state.ring.head(),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.state.borrow().pid
    }

    pub(super) fn size(&self) -> (u16, u16) {
        let state = self.state.borrow();
        (state.cols, state.rows)
    }

    pub(super) fn has_exited(&self) -> bool {
        self.state.borrow().finished.is_some()
    }

    pub(super) fn has_viewers(&self) -> bool {
        !self.state.borrow().viewers.is_empty()
    }

    /// The shell has ended with this status; what it wrote is still to be read.
    pub(super) fn shell_died(&self, status: i32) {
        let mut state = self.state.borrow_mut();
        state.died = Some((status, 0));
        state.wake_pump();
    }

    /// Moves bytes between PTY and ring until the shell is gone and all it wrote has been read.
    pub(super) async fn pump(self: Rc<Terminal>) {
        std::future::poll_fn(|context| self.state.borrow_mut().poll_pump(context)).await;
    }

    /// Adds a viewer. With a position to go on from it misses nothing; else it begins with a redraw, or with the
    /// shell's first byte if that was just now.
    pub(super) fn attach(&self, since: Option<u64>, takes_part: bool) -> Attached {
        let mut state = self.state.borrow_mut();
        let head = state.ring.head();
        let held = state.ring.tail()..=head;
        let (position, redraw) = match since {
            Some(position) if held.contains(&position) => (position, false),
            None if held.contains(&state.began) && head - state.began <= 4096 => (state.began, false),
            _ => (head, true),
        };
        let key = state.next_viewer;
        state.next_viewer += 1;
        state.viewers.push(Viewer {
            key,
            position,
            takes_part,
            size: None,
            waker: None,
            redraw,
            resized: false,
        });
        if takes_part && state.writer.is_none() {
            state.writer = Some(key);
        }
        Attached { key, position, cols: state.cols, rows: state.rows, writer: state.writer == Some(key) }
    }

    /// Removes a viewer; the one that came last among those that take part follows as writer.
    pub(super) fn detach(&self, key: ViewerKey) {
        let mut state = self.state.borrow_mut();
        state.viewers.retain(|v| v.key != key);
        if state.writer == Some(key) {
            let heir = state.viewers.iter().rev().find(|v| v.takes_part).map(|v| v.key);
            state.set_writer(heir);
        }
        state.wake_pump();
    }

    /// Input from a viewer, which thereby becomes the writer.
    pub(super) fn input(&self, key: ViewerKey, data: &[u8]) -> Result<(), Complaint> {
        let mut state = self.state.borrow_mut();
        state.check_takes_part(key)?;
        if state.writer != Some(key) {
            state.set_writer(Some(key));
        }
        state.type_in(data)
    }

    /// A viewer's size: taken at once from the writer, from others when they become it.
    pub(super) fn resize(&self, key: ViewerKey, cols: u16, rows: u16) -> Result<(), Complaint> {
        let mut state = self.state.borrow_mut();
        state.check_takes_part(key)?;
        if let Some(viewer) = state.viewer(key) {
            viewer.size = Some((cols, rows));
        }
        if state.writer == Some(key) {
            state.set_size(cols, rows);
        }
        Ok(())
    }

    /// The number of the last input taken from this client.
    pub(super) fn last_input_of(&self, client: &str) -> Option<u64> {
        self.state.borrow().clients.iter().find(|(name, _)| name == client).map(|(_, n)| *n)
    }

    /// Remembers the number of the last input taken from this client.
    pub(super) fn note_input_of(&self, client: &str, n: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(known) = state.clients.iter_mut().find(|(name, _)| name == client) {
            known.1 = n;
            return;
        }
        if state.clients.len() == CLIENTS {
            state.clients.pop_front();
        }
        state.clients.push_back((client.to_owned(), n));
    }

    /// Calls `send` with what the viewer is to get next, and advances it. Returns false when there is nothing, after
    /// noting whom to wake.
    pub(super) fn next(
        &self,
        key: ViewerKey,
        allowance: Allowance,
        waker: &Waker,
        send: impl FnOnce(Next<'_>),
    ) -> bool {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        let (cols, rows, head) = (state.cols, state.rows, state.ring.head());
        let is_writer = state.writer == Some(key);
        let Some(viewer) = state.viewers.iter_mut().find(|v| v.key == key) else {
            send(Next::Nothing);
            return false;
        };
        if std::mem::take(&mut viewer.resized) {
            send(Next::Size { cols, rows, writer: is_writer });
            return true;
        }
        let lost = viewer.position < state.ring.tail() || (!is_writer && head - viewer.position > VIEWER_LAG);
        let Allowance { most, all_or_nothing, whole_characters } = allowance;
        if (viewer.redraw || lost) && most > 0 {
            viewer.redraw = false;
            state.screen.catch_up(&state.ring, usize::MAX);
            viewer.position = state.screen.fed();
            send(Next::Redraw(state.screen.redraw(), viewer.position));
            return true;
        }
        let too_little = state.hold.is_some() || all_or_nothing && head - viewer.position > most as u64;
        if viewer.position < head && most > 0 && !too_little && !viewer.redraw {
            let (mut first, mut second) = state.ring.read(viewer.position, most);
            if whole_characters && !(state.finished.is_some() && viewer.position + 4 > head) {
                if second.is_empty() {
                    first = &first[..complete_prefix(first)];
                } else if second.len() >= 4 {
                    second = &second[..complete_prefix(second)];
                } else {
                    let joined = [first, second].concat();
                    let whole = complete_prefix(&joined);
                    second = &second[..whole.saturating_sub(first.len())];
                    first = &first[..whole.min(first.len())];
                }
            }
            if !(first.is_empty() && second.is_empty()) {
                viewer.position += (first.len() + second.len()) as u64;
                let position = viewer.position;
                send(Next::Output(first, second, position));
                if is_writer && head - position < WRITER_LAG {
                    state.wake_pump();
                }
                return true;
            }
        }
        if viewer.position == head
            && !viewer.redraw
            && let Some(code) = state.finished
        {
            send(Next::Exit(code));
            return true;
        }
        if !viewer.waker.as_ref().is_some_and(|w| w.will_wake(waker)) {
            viewer.waker = Some(waker.clone());
        }
        send(Next::Nothing);
        false
    }
}

impl State {
    fn viewer(&mut self, key: ViewerKey) -> Option<&mut Viewer> {
        self.viewers.iter_mut().find(|v| v.key == key)
    }

    fn check_takes_part(&mut self, key: ViewerKey) -> Result<(), Complaint> {
        match self.viewer(key) {
            Some(viewer) if viewer.takes_part => Ok(()),
            _ => Err(Complaint::new("READ_ONLY", "this connection only watches (mode=view)")),
        }
    }

    fn set_writer(&mut self, key: Option<ViewerKey>) {
        let before = std::mem::replace(&mut self.writer, key);
        for viewer in &mut self.viewers {
            if Some(viewer.key) == before || Some(viewer.key) == key {
                viewer.resized = true;
                viewer.wake();
            }
        }
        if let Some((cols, rows)) = key.and_then(|k| self.viewer(k)).and_then(|v| v.size) {
            self.set_size(cols, rows);
        }
        self.wake_pump();
    }

    fn set_size(&mut self, cols: u16, rows: u16) {
        if (cols, rows) == (self.cols, self.rows) {
            return;
        }
        // What has been written so far was written for the old size.
        self.screen.catch_up(&self.ring, usize::MAX);
        self.screen.resize(cols, rows);
        (self.cols, self.rows) = (cols, rows);
        if let Some(pty) = &self.pty {
            let _ = pty.get_ref().resize(cols, rows);
        }
        for viewer in &mut self.viewers {
            viewer.resized = true;
            viewer.wake();
        }
    }

    fn type_in(&mut self, data: &[u8]) -> Result<(), Complaint> {
        let Some(pty) = &self.pty else { return Ok(()) };
        let pty = pty.get_ref();
        let mut data = data;
        // Only a short input is a key; a pasted control character may wait its turn.
        if data.len() <= 16
            && let Some((at, signal)) = data
                .iter()
                .enumerate()
                .find_map(|(at, b)| Some((at, (*b < 0x20).then(|| pty.signal_of(*b))??)))
            && (!self.input.is_empty() || pty.is_clogged())
        {
            self.input.clear();
            pty.interrupt(signal);
            data = &data[at + 1..];
        }
        if self.input.is_empty() {
            while !data.is_empty() {
                match pty.write(data) {
                    Ok(written) => data = &data[written..],
                    Err(Errno::INTR) => {}
                    Err(_) => break,
                }
            }
        }
        if self.input.len() + data.len() > MAX_PENDING_INPUT_BYTES {
            return Err(Complaint::new(
                "INPUT_OVERFLOW",
                "the program does not read its input; what did not fit was dropped",
            ));
        }
        if !data.is_empty() {
            self.input.extend(data);
            self.wake_pump();
        }
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.ring.tail_after(bytes.len()) > self.screen.fed() {
            self.screen.catch_up(&self.ring, usize::MAX);
        }
        self.ring.push(bytes);
    }

    fn wake_pump(&mut self) {
        if let Some(waker) = &self.pump {
            waker.wake_by_ref();
        }
    }
}

impl Viewer {
    fn wake(&mut self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Terminal").field("id", &self.id).finish_non_exhaustive()
    }
}
