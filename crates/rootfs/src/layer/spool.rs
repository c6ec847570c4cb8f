//! Bytes that are still coming: a file that grows while others read it.
//!
//! The file has no name, so that nothing is left behind however the process ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Condvar, Mutex, PoisonError};

use crate::tar::ReadAt;

/// A nameless file that one writes and any number read.
#[derive(Debug)]
pub struct Spool {
    file: File,
    state: Mutex<State>,
    grown: Condvar,
}

#[derive(Debug)]
struct State {
    len: u64,
    end: End,
}

#[derive(Debug)]
enum End {
    Open,
    Complete,
    Failed(io::ErrorKind, String),
}

impl Spool {
    /// An empty spool in a nameless file.
    pub fn new(file: File) -> Self {
        Self { file, state: Mutex::new(State { len: 0, end: End::Open }), grown: Condvar::new() }
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// What the filesystem says, most likely that it is full.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let at = self.lock().len;
        self.file.write_all_at(bytes, at)?;
        self.lock().len = at + bytes.len() as u64;
        self.grown.notify_all();
        Ok(())
    }

    /// Says that nothing more will come, or why.
    pub fn finish(&self, result: Result<(), &io::Error>) {
        let mut state = self.lock();
        if matches!(state.end, End::Open) {
            state.end = match result {
                Ok(()) => End::Complete,
                Err(error) => End::Failed(error.kind(), error.to_string()),
            };
        }
        drop(state);
        self.grown.notify_all();
    }

    /// Why nothing more will come, if that is so.
    pub fn failure(&self) -> Option<io::Error> {
        match &self.lock().end {
            End::Failed(kind, reason) => Some(io::Error::new(*kind, reason.clone())),
            End::Open | End::Complete => None,
        }
    }

    /// The file behind it.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Bytes that are there by now.
    pub fn len(&self) -> u64 {
        self.lock().len
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is two plain values: whoever panicked has not left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReadAt for Spool {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.lock();
        let available = loop {
            if let End::Failed(kind, reason) = &state.end {
                return Err(io::Error::new(*kind, reason.clone()));
            }
            if offset < state.len {
                break state.len - offset;
            }
            if matches!(state.end, End::Complete) {
                return Ok(0);
            }
            state = self.grown.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        drop(state);
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        self.file.read_at(&mut buffer[..len], offset)
    }
}

/// Appends to a spool as an ordinary writer.
#[derive(Debug)]
pub struct SpoolWriter<'a>(pub &'a Spool);

impl Write for SpoolWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.append(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn readers_wait_for_what_is_to_come_and_hear_of_the_end() {
        let spool = Arc::new(Spool::new(tempfile::tempfile().unwrap()));
        let reader = std::thread::spawn({
            let spool = Arc::clone(&spool);
            move || {
                let (mut all, mut buffer) = (Vec::new(), [0; 3]);
                loop {
                    match spool.read_at(&mut buffer, all.len() as u64).unwrap() {
                        0 => return all,
                        len => all.extend_from_slice(&buffer[..len]),
                    }
                }
            }
        });
        spool.append(b"hello ").unwrap();
        spool.append(b"world").unwrap();
        spool.finish(Ok(()));
        assert_eq!(reader.join().unwrap(), b"hello world");
    }

    #[test]
    fn readers_hear_of_a_failure() {
        let spool = Spool::new(tempfile::tempfile().unwrap());
        spool.append(b"x").unwrap();
        spool.finish(Err(&io::Error::other("cut off")));
        assert_eq!(spool.read_at(&mut [0; 8], 1).unwrap_err().to_string(), "cut off");
    }
}
