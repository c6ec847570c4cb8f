//! Tar archives as container layers use them: ustar, PAX and GNU headers, long names, sparse files, extended attributes.
//!
//! Reading is by position, so that content which is not wanted is never read, and nothing is believed: every length is
//! checked against what is there before it is used.
//!
//! Source: POSIX.1-2017 `pax`, and the GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".

mod acl;
mod entries;
mod header;
mod pax;
mod sparse;

use std::io;

use clarateach_ext4::{Metadata, Special};

pub use entries::Entries;

/// Bytes that can be read at any position, possibly before all of them are there.
pub trait ReadAt {
    /// Fills the front of `buffer` from `offset` on and says how much; 0 only at the end. Blocks until there is something.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being there.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|at| self.get(at..)).unwrap_or_default();
        let len = rest.len().min(buffer.len());
        buffer[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }
}

impl<T: ReadAt + ?Sized> ReadAt for &T {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        (**self).read_at(buffer, offset)
    }
}

/// One entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path as it stands in the archive.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    /// Owner, permissions, time and extended attributes.
    pub metadata: Metadata,
    /// Position of the header in the archive.
    pub position: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// Directory.
    Directory,
    /// Regular file.
    File(clarateach_ext4::FileMap),
    /// Symbolic link to a target.
    Symlink(Vec<u8>),
    /// Another name for the entry with this path.
    HardLink(Vec<u8>),
    /// Fifo or device.
    Special(Special),
}

/// Why an archive could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes could not be had.
    #[error("reading at byte {position}")]
    Read {
        /// Where in the archive.
        position: u64,
        /// Why.
        source: io::Error,
    },
    /// The archive ends in the middle of something.
    #[error("it ends at byte {position}, in the middle of {what}")]
    Truncated {
        /// Where in the archive.
        position: u64,
        /// What was being read.
        what: &'static str,
    },
    /// What is there is not a valid tar archive, or uses a kind of entry that container layers don't.
    #[error("at byte {position}: {reason}")]
    Malformed {
        /// Where in the archive.
        position: u64,
        /// What is wrong.
        reason: String,
    },
}
