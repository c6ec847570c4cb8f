//! One reading of a layer for two: what the merge reads is handed to the check of the digest, which would else read it again.
//! What is hashed is then the very bytes that went into the image.
//!
//! Neither needs the other. The check reads for itself what it is not handed and never waits for the merge. The merge waits
//! for the check only while that is close behind, since it could not end before the check anyhow.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::blob::Bytes;
use crate::tar::ReadAt;

/// Bytes that are read at a time. Pieces are numbered from 0: piece `n` begins at byte `n * PIECE`.
pub const PIECE: usize = 256 * 1024;
/// The most pieces that wait for the check.
const MOST_WAITING: usize = 64;

/// The bytes of a layer, and the pieces on their way from the merge to the check.
#[derive(Debug)]
pub struct Relay {
    bytes: Bytes,
    state: Mutex<State>,
    taken: Condvar,
}

#[derive(Debug)]
struct State {
    check: Check,
    /// What the merge has read and the check has not come to, ascending.
    waiting: VecDeque<Piece>,
    /// Buffers to be used again.
    spare: Vec<Vec<u8>>,
}

#[derive(Debug, Clone, Copy)]
enum Check {
    /// There is none, or it has ended.
    None,
    /// It has not begun.
    Planned,
    /// It is busy with this piece.
    At(u64),
}

#[derive(Debug, Clone)]
struct Piece {
    index: u64,
    content: Arc<Vec<u8>>,
}

impl Relay {
    /// Bytes that nobody is going to check.
    pub fn unchecked(bytes: Bytes) -> Self {
        Self::new(bytes, Check::None)
    }

    /// Bytes that somebody is going to [`Relay::check`].
    pub fn checked(bytes: Bytes) -> Self {
        Self::new(bytes, Check::Planned)
    }

    fn new(bytes: Bytes, check: Check) -> Self {
        let state = State { check, waiting: VecDeque::new(), spare: Vec::new() };
        Self { bytes, state: Mutex::new(state), taken: Condvar::new() }
    }

    /// The bytes behind it.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Reads for the merge: forwards, but for a few looks back.
    pub fn reader(&self) -> RelayReader<'_> {
        RelayReader { relay: self, current: RefCell::new(None) }
    }

    /// Goes through all bytes, from the first to the last.
    pub fn check(&self) -> Checking<'_> {
        Checking { relay: self, index: 0, own: Vec::new(), handed: None }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete in itself: whoever panicked has not left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the check has yet to come to a piece.
    fn is_wanted(&self, index: u64) -> bool {
        match self.lock().check {
            Check::None => false,
            Check::Planned => true,
            Check::At(at) => index > at,
        }
    }

    /// Leaves a piece for the check, if that is still to come to it.
    fn hand_over(&self, piece: Piece) {
        let mut state = self.lock();
        loop {
            let oldest = state.waiting.front().map(|piece| piece.index);
            match (state.check, oldest) {
                (Check::None, _) => return,
                (Check::At(at), _) if piece.index <= at => return,
                _ if state.waiting.len() < MOST_WAITING => break state.waiting.push_back(piece),
                (Check::At(at), Some(oldest)) if oldest.saturating_sub(at) <= MOST_WAITING as u64 => {
                    state = self.taken.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                // It is far behind, or has not begun: what it is not handed it reads itself.
                _ => state.drop_oldest(),
            }
        }
    }
}

impl State {
    fn drop_oldest(&mut self) {
        if let Some(piece) = self.waiting.pop_front() {
            self.reuse(piece.content);
        }
    }

    /// Keeps a buffer that nobody else uses any more.
    fn reuse(&mut self, content: Arc<Vec<u8>>) {
        if let Ok(buffer) = Arc::try_unwrap(content)
            && self.spare.len() < MOST_WAITING
        {
            self.spare.push(buffer);
        }
    }
}

/// Reads a piece from the source; it is shorter, or empty, only at the end.
fn read_piece(bytes: &Bytes, index: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    buffer.resize(PIECE, 0);
    let start = index.checked_mul(PIECE as u64).ok_or(io::ErrorKind::InvalidInput)?;
    let mut filled = 0;
    while filled < PIECE {
        match bytes.read_at(&mut buffer[filled..], start + filled as u64)? {
            0 => break,
            len => filled += len,
        }
    }
    buffer.truncate(filled);
    Ok(())
}

/// What the merge reads from.
#[derive(Debug)]
pub struct RelayReader<'a> {
    relay: &'a Relay,
    /// The piece that was read last.
    current: RefCell<Option<Piece>>,
}

impl RelayReader<'_> {
    fn load(&self, index: u64) -> io::Result<Piece> {
        let mut buffer = self.relay.lock().spare.pop().unwrap_or_default();
        read_piece(&self.relay.bytes, index, &mut buffer)?;
        let piece = Piece { index, content: Arc::new(buffer) };
        self.relay.hand_over(piece.clone());
        Ok(piece)
    }
}

impl ReadAt for RelayReader<'_> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let index = offset / PIECE as u64;
        let mut current = self.current.borrow_mut();
        let newest = current.as_ref().map(|piece| piece.index);
        if newest != Some(index) {
            if newest > Some(index) || !self.relay.is_wanted(index) {
                return self.relay.bytes.read_at(buffer, offset);
            }
            let piece = self.load(index)?;
            if let Some(before) = current.replace(piece) {
                self.relay.lock().reuse(before.content);
            }
        }
        let content = current.as_ref().map_or(&[][..], |piece| &piece.content[..]);
        content.read_at(buffer, offset % PIECE as u64)
    }
}

impl Drop for RelayReader<'_> {
    fn drop(&mut self) {
        let mut state = self.relay.lock();
        if !matches!(state.check, Check::At(_)) {
            (state.waiting, state.spare) = (VecDeque::new(), Vec::new());
        }
    }
}

/// A check on its way through the bytes.
#[derive(Debug)]
pub struct Checking<'a> {
    relay: &'a Relay,
    index: u64,
    own: Vec<u8>,
    handed: Option<Arc<Vec<u8>>>,
}

impl Checking<'_> {
    /// The next piece; empty at the end.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being there.
    pub fn next_piece(&mut self) -> io::Result<&[u8]> {
        let index = self.index;
        self.index += 1;
        {
            let mut state = self.relay.lock();
            if let Some(done) = self.handed.take() {
                state.reuse(done);
            }
            state.check = Check::At(index);
            while state.waiting.front().is_some_and(|piece| piece.index < index) {
                state.drop_oldest();
            }
            if state.waiting.front().is_some_and(|piece| piece.index == index) {
                self.handed = state.waiting.pop_front().map(|piece| piece.content);
            }
        }
        self.relay.taken.notify_all();
        match &self.handed {
            Some(content) => Ok(content),
            None => {
                read_piece(&self.relay.bytes, index, &mut self.own)?;
                Ok(&self.own)
            }
        }
    }
}

impl Drop for Checking<'_> {
    fn drop(&mut self) {
        let mut state = self.relay.lock();
        (state.check, state.waiting, state.spare) = (Check::None, VecDeque::new(), Vec::new());
        drop(state);
        self.relay.taken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn content(len: usize) -> Vec<u8> {
        (0..len.div_ceil(1000)).flat_map(|at| [(at % 251) as u8; 1000]).take(len).collect()
    }

    fn bytes(content: &[u8]) -> Bytes {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Bytes::whole(file).unwrap()
    }

    fn check_all(relay: &Relay) -> Vec<u8> {
        let (mut check, mut all) = (relay.check(), Vec::new());
        loop {
            match check.next_piece().unwrap() {
                [] => return all,
                piece => all.extend_from_slice(piece),
            }
        }
    }

    /// Reads like the merge: `step` bytes at a time, leaving out what lies between `skip`.
    fn read_all(relay: &Relay, step: usize, skip: std::ops::Range<u64>) -> Vec<u8> {
        let (reader, mut all, mut buffer) = (relay.reader(), Vec::new(), vec![0; step]);
        let mut at = 0;
        loop {
            if skip.contains(&at) {
                at = skip.end;
            }
            let len = reader.read_at(&mut buffer, at).unwrap();
            if len == 0 {
                return all;
            }
            all.extend_from_slice(&buffer[..len]);
            at += len as u64;
        }
    }

    #[test]
    fn both_get_every_byte_whoever_is_faster() {
        let wanted = content(2 * MOST_WAITING * PIECE + 12345);
        for (step, pause) in [(1000, 0), (100_000, 0), (PIECE, 200), (70_001, 200)] {
            let relay = Relay::checked(bytes(&wanted));
            std::thread::scope(|scope| {
                let check = scope.spawn(|| check_all(&relay));
                std::thread::sleep(std::time::Duration::from_micros(pause));
                assert!(read_all(&relay, step, 0..0) == wanted);
                assert!(check.join().unwrap() == wanted);
            });
        }
    }

    #[test]
    fn what_was_read_is_handed_over_and_not_read_again() {
        let relay = Relay::checked(bytes(&content(3 * PIECE)));
        let reader = relay.reader();
        let mut buffer = vec![0; PIECE];
        for index in 0..3 {
            assert_eq!(reader.read_at(&mut buffer, index * PIECE as u64).unwrap(), PIECE);
        }
        let mut check = relay.check();
        for _ in 0..3 {
            assert_eq!(check.next_piece().unwrap().len(), PIECE);
            assert!(check.handed.is_some());
        }
        assert!(check.next_piece().unwrap().is_empty());
    }

    #[test]
    fn a_check_that_comes_late_or_never_holds_nobody_up() {
        let wanted = content(2 * MOST_WAITING * PIECE);
        let relay = Relay::checked(bytes(&wanted));
        assert!(read_all(&relay, PIECE, 0..0) == wanted);
        assert!(relay.lock().waiting.is_empty(), "nothing is kept once the merge is through");
        assert!(check_all(&relay) == wanted);
    }

    #[test]
    fn a_check_that_ends_early_lets_the_merge_go_on() {
        let wanted = content(2 * MOST_WAITING * PIECE);
        let relay = Relay::checked(bytes(&wanted));
        std::thread::scope(|scope| {
            let mut check = relay.check();
            check.next_piece().unwrap();
            let merge = scope.spawn(|| read_all(&relay, PIECE, 0..0));
            // It waits for the check, which is close behind, and then is given up.
            while relay.lock().waiting.len() < MOST_WAITING {
                std::thread::yield_now();
            }
            drop(check);
            assert!(merge.join().unwrap() == wanted);
        });
    }

    #[test]
    fn content_that_the_merge_leaves_out_is_checked_all_the_same() {
        let wanted = content((2 * MOST_WAITING + 20) * PIECE + 1);
        let skip = (3 * PIECE + 17) as u64..((2 * MOST_WAITING + 3) * PIECE + 4711) as u64;
        let relay = Relay::checked(bytes(&wanted));
        std::thread::scope(|scope| {
            let check = scope.spawn(|| check_all(&relay));
            let read = read_all(&relay, PIECE, skip.clone());
            let end = wanted.len() - (read.len() - read_before(&skip));
            assert!(read[read_before(&skip)..] == wanted[end..]);
            assert!(check.join().unwrap() == wanted);
        });
    }

    /// Bytes that are read before a gap is met: up to the end of the piece in which it begins.
    fn read_before(skip: &std::ops::Range<u64>) -> usize {
        (skip.start as usize).next_multiple_of(PIECE)
    }

    #[test]
    fn looks_back_are_served() {
        let wanted = content(5 * PIECE);
        let relay = Relay::checked(bytes(&wanted));
        let (reader, mut buffer) = (relay.reader(), [0; 100]);
        for at in [0, 4 * PIECE + 5, 100, PIECE - 50, 4 * PIECE + 200] {
            let len = reader.read_at(&mut buffer, at as u64).unwrap();
            assert!(len > 0 && buffer[..len] == wanted[at..at + len], "at {at}");
        }
        assert_eq!(reader.read_at(&mut buffer, wanted.len() as u64).unwrap(), 0);
    }
}
