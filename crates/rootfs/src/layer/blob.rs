//! Where bytes are: in a part of a file, or still coming.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::cache::FileState;
use super::spool::Spool;
use crate::tar::ReadAt;

/// Bytes that can be read at any position, by several at a time.
#[derive(Debug, Clone)]
pub enum Bytes {
    /// A part of a file.
    File {
        /// The file.
        file: Arc<File>,
        /// Where the part begins.
        offset: u64,
        /// Its length.
        len: u64,
    },
    /// A file that is still being written.
    Spool(Arc<Spool>),
}

impl Bytes {
    /// A whole file.
    ///
    /// # Errors
    /// If its length can't be had.
    pub fn whole(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self::File { file: Arc::new(file), offset: 0, len })
    }

    /// Length, as far as it is known.
    pub fn known_len(&self) -> Option<u64> {
        match self {
            Self::File { len, .. } => Some(*len),
            Self::Spool(_) => None,
        }
    }

    /// What the filesystem says of them, if they are all there.
    pub(crate) fn state(&self) -> Option<FileState> {
        match self {
            Self::File { file, offset, .. } => FileState::of(file, *offset),
            Self::Spool(_) => None,
        }
    }

    /// Reads from the start.
    pub fn reader(&self) -> BytesReader<'_> {
        BytesReader { bytes: self, at: 0 }
    }

    /// Everything, if it is at most `limit` bytes.
    ///
    /// # Errors
    /// If it is longer or can't be read.
    pub fn read_all(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        self.reader().take(limit + 1).read_to_end(&mut all)?;
        if all.len() as u64 > limit {
            return Err(io::Error::other(format!("it is longer than {limit} bytes")));
        }
        Ok(all)
    }
}

impl ReadAt for Bytes {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        match self {
            Self::File { file, offset, len } => {
                let left = len.saturating_sub(at);
                let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
                file.read_at(&mut buffer[..want], offset + at)
            }
            Self::Spool(spool) => spool.read_at(buffer, at),
        }
    }
}

/// Reads bytes from the start to the end.
#[derive(Debug)]
pub struct BytesReader<'a> {
    bytes: &'a Bytes,
    at: u64,
}

impl Read for BytesReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.read_at(buffer, self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}
