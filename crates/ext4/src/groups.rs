//! Block groups: bitmaps, inode tables and the descriptors that say where they are.
//!
//! Groups that content reached get their bitmaps and inode table behind the content; a group that nothing reached keeps
//! its own at its start and is marked as never used, so that nothing of it is written (flex_bg allows both).
//!
//! Source: Linux, Documentation/filesystems/ext4/{group_descr,bitmaps,blockgroup}.rst.

use crate::checksum::crc32c;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::layout::{BLOCK_SIZE, BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, Layout};
use crate::le::{put16, put32};
use crate::space::Space;

const BLOCK: usize = BLOCK_SIZE as usize;
const INODE_UNINIT: u16 = 1;
const BLOCK_UNINIT: u16 = 2;
const INODE_ZEROED: u16 = 4;

/// Where the metadata of one group is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    block_bitmap: u64,
    inode_bitmap: u64,
    pub(crate) inode_table: u64,
    /// Whether it lies at the start of its own, otherwise empty group.
    local: bool,
}

/// Finds a place for every group's metadata.
pub(crate) fn place(space: &mut Space, inodes_per_group: u64) -> Vec<Place> {
    let layout = *space.layout();
    let table = Layout::inode_table_blocks(inodes_per_group);
    let fits = |group| layout.reserved(group) + 2 + table <= layout.group_len(group);
    // Only the last group can be too short for its own. Its metadata moves the mark, so it is placed before any other
    // group is found to be out of the mark's reach.
    let last = layout.groups - 1;
    let of_last = (!fits(last)).then(|| behind_content(space, table));
    let mut places = Vec::with_capacity(layout.groups as usize);
    // Placing moves the mark, which may reach further groups.
    for group in 0..layout.groups {
        let start = layout.group_start(group) + layout.reserved(group);
        places.push(match of_last {
            Some(place) if group == last => place,
            _ if space.mark() <= layout.group_start(group) => {
                Place { block_bitmap: start, inode_bitmap: start + 1, inode_table: start + 2, local: true }
            }
            _ => behind_content(space, table),
        });
    }
    places
}

fn behind_content(space: &mut Space, table: u64) -> Place {
    let (block_bitmap, inode_bitmap) = (space.take_together(1), space.take_together(1));
    Place { block_bitmap, inode_bitmap, inode_table: space.take_together(table), local: false }
}

/// What is known when the descriptors are written.
#[derive(Debug)]
pub(crate) struct Groups<'a> {
    pub(crate) layout: Layout,
    pub(crate) places: &'a [Place],
    pub(crate) inodes_per_group: u64,
    /// Inodes in use; they are the first ones.
    pub(crate) inodes_used: u64,
    /// Directories among the inodes of each group.
    pub(crate) directories: &'a [u32],
    /// First block that was never handed out, and the runs before it that are free all the same.
    pub(crate) mark: u64,
    pub(crate) freed: &'a [(u64, u64)],
    pub(crate) seed: u32,
}

impl Groups<'_> {
    /// Writes the bitmaps; returns the descriptor table and the number of free blocks.
    pub(crate) fn write(&self, image: &mut Image) -> Result<(Vec<u8>, u64)> {
        let mut table = vec![0; (self.layout.descriptor_blocks * BLOCK_SIZE) as usize];
        let mut free_total = 0;
        let mut freed = self.freed.iter().copied().peekable();
        for (group, raw) in (0..self.layout.groups).zip(table.chunks_mut(DESCRIPTOR_SIZE as usize)) {
            let place = &self.places[group as usize];
            let bitmap = self.block_bitmap(group, &mut freed);
            let free = self.layout.group_len(group) - count(&bitmap, self.layout.group_len(group));
            free_total += free;
            let untouched = place.local && group != 0 && group + 1 != self.layout.groups;
            let sum = if untouched { 0 } else { crc32c(self.seed, &bitmap) };
            if !untouched {
                image.write(place.block_bitmap, &bitmap)?;
            }
            let used =
                self.inodes_used.saturating_sub(group * self.inodes_per_group).min(self.inodes_per_group);
            let mut flags = INODE_ZEROED | if untouched { BLOCK_UNINIT } else { 0 };
            let mut inode_sum = 0;
            if used > 0 {
                let inodes = self.inode_bitmap(used);
                image.write(place.inode_bitmap, &inodes)?;
                inode_sum = crc32c(self.seed, &inodes[..(self.inodes_per_group / 8) as usize]);
            } else {
                flags |= INODE_UNINIT;
            }
            let free_inodes = (self.inodes_per_group - used) as u32;
            let halves = [
                (0x00, 0x20, place.block_bitmap),
                (0x04, 0x24, place.inode_bitmap),
                (0x08, 0x28, place.inode_table),
            ];
            for (low, high, value) in halves {
                put32(raw, low, value as u32);
                put32(raw, high, (value >> 32) as u32);
            }
            let halves = [
                (0x0c, 0x2c, free as u32),
                (0x0e, 0x2e, free_inodes),
                (0x10, 0x30, self.directories[group as usize]),
                (0x18, 0x38, sum),
                (0x1a, 0x3a, inode_sum),
                (0x1c, 0x32, free_inodes), // those at the end of the table that were never used
            ];
            for (low, high, value) in halves {
                put16(raw, low, value as u16);
                put16(raw, high, (value >> 16) as u16);
            }
            put16(raw, 0x12, flags);
            let sum = crc32c(crc32c(self.seed, &(group as u32).to_le_bytes()), raw);
            put16(raw, 0x1e, sum as u16);
        }
        Ok((table, free_total))
    }

    /// Writes what `make` returns for a group, and the descriptor table, at the start of each group that has them.
    pub(crate) fn write_superblocks(
        &self,
        table: &[u8],
        make: impl Fn(u64) -> [u8; crate::superblock::SIZE],
        image: &mut Image,
    ) -> Result<()> {
        let mut groups = vec![0, self.layout.backups[0], self.layout.backups[1]];
        groups.dedup();
        for group in
            groups.into_iter().enumerate().filter(|&(i, group)| i == 0 || group != 0).map(|(_, group)| group)
        {
            let mut block = [0; BLOCK];
            let at = if group == 0 { 1024 } else { 0 };
            block[at..at + crate::superblock::SIZE].copy_from_slice(&make(group));
            let start = self.layout.group_start(group);
            image.write(start, &block)?;
            image.write(start + 1, table)?;
        }
        Ok(())
    }

    fn block_bitmap(
        &self,
        group: u64,
        freed: &mut std::iter::Peekable<impl Iterator<Item = (u64, u64)>>,
    ) -> [u8; BLOCK] {
        let (start, len) = (self.layout.group_start(group), self.layout.group_len(group));
        let end = start + len;
        let mut bitmap = [0; BLOCK];
        let place = &self.places[group as usize];
        if place.local {
            set(&mut bitmap, 0, self.layout.reserved(group) + 2 + self.inodes_per_group / 16, true);
        } else {
            set(&mut bitmap, 0, self.mark.clamp(start, end) - start, true);
            set(&mut bitmap, 0, self.layout.reserved(group), true);
            // Runs are ascending; one may reach into the next group and is then looked at again there.
            while let Some(&(run, run_len)) = freed.peek()
                && run < end
            {
                let (from, to) = (run.max(start), (run + run_len).min(end));
                if from < to {
                    set(&mut bitmap, from - start, to - from, false);
                }
                if run + run_len > end {
                    break;
                }
                freed.next();
            }
        }
        // Bits beyond the end of the filesystem are set.
        set(&mut bitmap, len, BLOCKS_PER_GROUP - len, true);
        bitmap
    }

    fn inode_bitmap(&self, used: u64) -> [u8; BLOCK] {
        let mut bitmap = [0; BLOCK];
        set(&mut bitmap, 0, used, true);
        set(&mut bitmap, self.inodes_per_group, BLOCKS_PER_GROUP - self.inodes_per_group, true);
        bitmap
    }
}

fn set(bitmap: &mut [u8; BLOCK], from: u64, len: u64, value: bool) {
    let (mut at, end) = (from as usize, (from + len) as usize);
    while at < end {
        if at.is_multiple_of(8) && at + 8 <= end {
            bitmap[at / 8] = if value { 0xff } else { 0 };
            at += 8;
        } else {
            let bit = 1 << (at % 8);
            if value {
                bitmap[at / 8] |= bit;
            } else {
                bitmap[at / 8] &= !bit;
            }
            at += 1;
        }
    }
}

/// Bits that are set among the first `len`.
fn count(bitmap: &[u8; BLOCK], len: u64) -> u64 {
    let all: u64 = bitmap.iter().map(|byte| u64::from(byte.count_ones())).sum();
    all - (BLOCKS_PER_GROUP - len)
}

/// Fails if the image has more than fits.
pub(crate) fn check_fits(space: &Space, data: u64, inodes: u64) -> Result<()> {
    if space.overflowed() {
        return Err(too_small(space.layout(), data, inodes));
    }
    Ok(())
}

/// The error that says how much would have been enough.
pub(crate) fn too_small(layout: &Layout, data: u64, inodes: u64) -> Error {
    let needed = Layout::smallest_for(data, inodes);
    Error::TooSmall { size: layout.blocks * BLOCK_SIZE, needed }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The ranges of all metadata, as start and length, and the blocks that content and superblocks take.
    fn ranges(space: &Space, places: &[Place], table: u64, content: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let layout = space.layout();
        let reserved = (0..layout.groups).map(|group| (layout.group_start(group), layout.reserved(group)));
        let own =
            places.iter().flat_map(|p| [(p.block_bitmap, 1), (p.inode_bitmap, 1), (p.inode_table, table)]);
        let mut all: Vec<_> = own.chain(content.iter().copied()).chain(reserved).collect();
        all.retain(|&(_, len)| len > 0);
        all.sort_unstable();
        all
    }

    #[test]
    fn no_two_groups_share_a_block_however_short_the_last_one_is() {
        let mut placed = 0;
        for groups in 1..5 {
            // Up to 10 MiB beyond the border, block by block around the size of a table.
            for beyond in (0..700).chain((700..2560).step_by(37)) {
                let blocks = (groups * BLOCKS_PER_GROUP + beyond).max(64);
                let layout = Layout::new(blocks * BLOCK_SIZE).unwrap();
                for inodes in [11, 30_000 * groups] {
                    let Some(per_group) = layout.inodes_per_group(inodes) else { continue };
                    let table = Layout::inode_table_blocks(per_group);
                    // Before, at and behind every border, by up to two sets of tables.
                    let fills = (0..=groups).flat_map(|border| {
                        (0..24).map(move |step| {
                            (border * BLOCKS_PER_GROUP + table).saturating_sub(step * table / 8 + step % 3)
                        })
                    });
                    for fill in fills.filter(|&fill| fill < blocks) {
                        let mut space = Space::new(layout);
                        let mut content = Vec::new();
                        let mut left = fill;
                        while left > 0 {
                            let run = space.take(left);
                            left -= run.1;
                            content.push(run);
                        }
                        let places = place(&mut space, per_group);
                        if space.overflowed() {
                            assert!(Layout::smallest_for(fill, inodes) > layout.blocks * BLOCK_SIZE);
                            continue;
                        }
                        placed += 1;
                        let all = ranges(&space, &places, table, &content);
                        for pair in all.windows(2) {
                            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{blocks} {inodes} {fill}: {pair:?}");
                        }
                        assert!(all.last().is_some_and(|&(start, len)| start + len <= blocks));
                    }
                }
            }
        }
        assert!(placed > 50_000, "{placed}");
    }
}
