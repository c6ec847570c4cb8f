//! An empty journal.
//!
//! Source: Linux, Documentation/filesystems/ext4/journal.rst (jbd2 numbers are big-endian).

use crate::error::{Error, Result};
use crate::image::Image;
use crate::layout::BLOCK_SIZE;
use crate::space::{Extent, Space};

/// Number of the inode that holds the journal.
pub(crate) const INODE: u32 = 8;
const MAGIC: u32 = 0xc03b_3998;
const SUPERBLOCK_V2: u32 = 4;
/// `JBD2_MIN_JOURNAL_BLOCKS` is 1024.
const LEAST: u64 = 1024 * BLOCK_SIZE;
const MOST: u64 = 128 << 20;

/// Reserves the blocks of the journal, at the start of the image.
pub(crate) fn reserve(size: u64, space: &mut Space) -> Result<Vec<Extent>> {
    if !(LEAST..=MOST).contains(&size) || !size.is_multiple_of(BLOCK_SIZE) {
        return Err(Error::Options(format!(
            "a journal of {size} bytes can't be made: it takes {LEAST} to {MOST} bytes, a multiple of {BLOCK_SIZE}"
        )));
    }
    let mut extents = Vec::new();
    let mut logical = 0;
    let blocks = size / BLOCK_SIZE;
    while logical < blocks {
        let (start, len) = space.take((blocks - logical).min(u64::from(Extent::LONGEST)));
        extents.push(Extent { logical: logical as u32, len: len as u32, start });
        logical += len;
    }
    if space.overflowed() {
        return Err(Error::Options(format!("a journal of {size} bytes does not fit into the filesystem")));
    }
    Ok(extents)
}

/// Writes the journal's own superblock; everything behind it is zero, which means empty.
pub(crate) fn write(extents: &[Extent], uuid: &[u8; 16], image: &mut Image) -> Result<()> {
    let mut block = [0u8; BLOCK_SIZE as usize];
    let mut put = |offset: usize, value: u32| block[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
    put(0, MAGIC);
    put(4, SUPERBLOCK_V2);
    put(12, BLOCK_SIZE as u32);
    put(16, extents.iter().map(|extent| extent.len).sum());
    put(20, 1); // first block of log information
    put(24, 1); // first commit expected; a start of 0 means that nothing is in it
    put(64, 1); // one user: this filesystem
    block[48..64].copy_from_slice(uuid);
    // With an internal journal the list of users holds no UUID (mke2fs leaves it empty).
    let first = extents.first().map_or(0, |extent| extent.start);
    image.write(first, &block)
}
