//! Extent trees.
//!
//! Source: Linux, Documentation/filesystems/ext4/ifork.rst (`ext4_extent_header`, `ext4_extent`, `ext4_extent_idx`,
//! `ext4_extent_tail`).

use crate::checksum::crc32c;
use crate::error::Result;
use crate::image::Image;
use crate::layout::BLOCK_SIZE;
use crate::le::{put16, put32};
use crate::space::{Extent, Space};

const MAGIC: u16 = 0xf30a;
const ENTRY: usize = 12;
/// Entries in the 60 bytes of `i_block`.
const IN_INODE: usize = 4;
/// Entries in a block, before the checksum.
const IN_BLOCK: usize = (BLOCK_SIZE as usize - ENTRY - 4) / ENTRY;

/// What points to the next level down: first logical block and place.
type Index = (u32, u64);

/// Writes the tree of a file; returns `i_block` and the number of blocks that the tree takes besides.
pub(crate) fn write(
    extents: &[Extent],
    seed: u32,
    space: &mut Space,
    image: &mut Image,
) -> Result<([u8; 60], u64)> {
    let mut root = [0; 60];
    if extents.len() <= IN_INODE {
        put_root(extents, &mut root);
        return Ok((root, 0));
    }
    let mut blocks = 0;
    let mut level: Vec<Index> = Vec::new();
    for part in extents.chunks(IN_BLOCK) {
        let mut block = new_block(part.len(), 0);
        for (slot, extent) in part.iter().enumerate() {
            leaf(&mut block, slot, extent);
        }
        level.push((part[0].logical, write_block(block, seed, space, image)?));
        blocks += 1;
    }
    let mut depth = 1;
    while level.len() > IN_INODE {
        let mut above = Vec::new();
        for part in level.chunks(IN_BLOCK) {
            let mut block = new_block(part.len(), depth);
            for (slot, index) in part.iter().enumerate() {
                branch(&mut block, slot, index);
            }
            above.push((part[0].0, write_block(block, seed, space, image)?));
            blocks += 1;
        }
        level = above;
        depth += 1;
    }
    header(&mut root, level.len(), IN_INODE, depth);
    for (slot, index) in level.iter().enumerate() {
        branch(&mut root, slot, index);
    }
    Ok((root, blocks))
}

/// `i_block` of a file with at most four extents.
pub(crate) fn put_root(extents: &[Extent], root: &mut [u8; 60]) {
    header(root, extents.len(), IN_INODE, 0);
    for (slot, extent) in extents.iter().enumerate() {
        leaf(root, slot, extent);
    }
}

fn new_block(entries: usize, depth: u16) -> [u8; BLOCK_SIZE as usize] {
    let mut block = [0; BLOCK_SIZE as usize];
    header(&mut block, entries, IN_BLOCK, depth);
    block
}

fn write_block(
    mut block: [u8; BLOCK_SIZE as usize],
    seed: u32,
    space: &mut Space,
    image: &mut Image,
) -> Result<u64> {
    let tail = ENTRY + IN_BLOCK * ENTRY;
    let sum = crc32c(seed, &block[..tail]);
    put32(&mut block, tail, sum);
    let (at, _) = space.take(1);
    if space.overflowed() {
        image.discard();
    }
    image.write(at, &block)?;
    Ok(at)
}

fn header(area: &mut [u8], entries: usize, most: usize, depth: u16) {
    put16(area, 0, MAGIC);
    put16(area, 2, entries as u16);
    put16(area, 4, most as u16);
    put16(area, 6, depth);
}

fn leaf(area: &mut [u8], slot: usize, extent: &Extent) {
    let entry = &mut area[ENTRY * (slot + 1)..][..ENTRY];
    put32(entry, 0, extent.logical);
    put16(entry, 4, extent.len as u16);
    put16(entry, 6, (extent.start >> 32) as u16);
    put32(entry, 8, extent.start as u32);
}

fn branch(area: &mut [u8], slot: usize, &(logical, place): &Index) {
    let entry = &mut area[ENTRY * (slot + 1)..][..ENTRY];
    put32(entry, 0, logical);
    put32(entry, 4, place as u32);
    put16(entry, 8, (place >> 32) as u16);
}
