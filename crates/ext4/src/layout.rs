//! Sizes and places that follow from the size of the filesystem alone.
//!
//! Source: Linux, Documentation/filesystems/ext4/{blockgroup,super,group_descr}.rst.

use crate::error::{Error, Result};

/// Bytes per block, the only size this crate writes.
pub const BLOCK_SIZE: u64 = 4096;
/// Bytes per on-disk inode.
pub(crate) const INODE_SIZE: u64 = 256;
/// Blocks that one bitmap block can describe, and so blocks per group.
pub(crate) const BLOCKS_PER_GROUP: u64 = 8 * BLOCK_SIZE;
/// Inodes that one bitmap block can describe.
const MOST_INODES_PER_GROUP: u64 = 8 * BLOCK_SIZE;
/// Bytes per group descriptor with the 64bit feature.
pub(crate) const DESCRIPTOR_SIZE: u64 = 64;
/// The first inode that is not reserved; it becomes `lost+found`.
pub(crate) const FIRST_INODE: u32 = 11;
/// One inode per this many bytes, as mke2fs does by default.
const BYTES_PER_INODE: u64 = 16384;
/// Inodes come in blocks of 16, and a bitmap must end on a byte.
const INODES_PER_BLOCK: u64 = BLOCK_SIZE / INODE_SIZE;
const SMALLEST: u64 = 256 * 1024;
/// 2^32 inodes at one per 16 KiB would need more; Linux on 64-bit machines could go further.
const LARGEST: u64 = 64 << 40;

/// How a filesystem of a given size is divided into groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Blocks in the filesystem.
    pub(crate) blocks: u64,
    /// Block groups, the last one possibly short.
    pub(crate) groups: u64,
    /// Blocks of the group descriptor table.
    pub(crate) descriptor_blocks: u64,
    /// The two groups besides group 0 that hold a copy of superblock and descriptors; 0 for none.
    pub(crate) backups: [u64; 2],
}

impl Layout {
    /// The layout of a filesystem of `size` bytes; what is left over past the last whole block stays unused.
    pub(crate) fn new(size: u64) -> Result<Self> {
        if !(SMALLEST..=LARGEST).contains(&size) {
            return Err(Error::Options(format!(
                "a filesystem of {size} bytes can't be made: it takes {SMALLEST} to {LARGEST} bytes"
            )));
        }
        let blocks = size / BLOCK_SIZE;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let descriptor_blocks = (groups * DESCRIPTOR_SIZE).div_ceil(BLOCK_SIZE);
        let last_len = blocks - (groups - 1) * BLOCKS_PER_GROUP;
        let last = if last_len == BLOCKS_PER_GROUP { groups - 1 } else { groups.saturating_sub(2) };
        let backups = match groups {
            1 => [0, 0],
            _ if last <= 1 => [if groups > 2 || last == 1 { 1 } else { 0 }, 0],
            _ => [1, last],
        };
        Ok(Self { blocks, groups, descriptor_blocks, backups })
    }

    /// First block of a group.
    pub(crate) fn group_start(&self, group: u64) -> u64 {
        group * BLOCKS_PER_GROUP
    }

    /// Blocks in a group.
    pub(crate) fn group_len(&self, group: u64) -> u64 {
        (self.blocks - self.group_start(group)).min(BLOCKS_PER_GROUP)
    }

    /// Whether a group starts with a superblock and a copy of the descriptor table.
    pub(crate) fn has_superblock(&self, group: u64) -> bool {
        group == 0 || self.backups.contains(&group)
    }

    /// Blocks at the start of a group that superblock and descriptors take.
    pub(crate) fn reserved(&self, group: u64) -> u64 {
        if self.has_superblock(group) { 1 + self.descriptor_blocks } else { 0 }
    }

    /// Inodes per group so that `used` inodes fit and, where the size allows, one per 16 KiB and a tenth more than used.
    /// `None` if there can't be that many.
    pub(crate) fn inodes_per_group(&self, used: u64) -> Option<u64> {
        let usual = (self.blocks * BLOCK_SIZE / BYTES_PER_INODE).max(used + used / 10);
        let round = |total: u64| total.div_ceil(self.groups).next_multiple_of(INODES_PER_BLOCK);
        let least = round(used);
        let most = self.most_inodes_per_group();
        (least <= most).then(|| round(usual).min(most))
    }

    /// What one bitmap describes, and no more than 32-bit numbers in all groups together.
    fn most_inodes_per_group(&self) -> u64 {
        let numbered = u64::from(u32::MAX) / self.groups;
        MOST_INODES_PER_GROUP.min(numbered - numbered % INODES_PER_BLOCK)
    }

    /// The most inodes that a filesystem of this size can have.
    pub(crate) fn most_inodes(&self) -> u64 {
        self.groups * self.most_inodes_per_group()
    }

    /// Blocks of one group's inode table.
    pub(crate) const fn inode_table_blocks(inodes_per_group: u64) -> u64 {
        inodes_per_group / INODES_PER_BLOCK
    }

    /// The smallest size in bytes, in whole MiB, in which `data` blocks outside inode tables and bitmaps, and `inodes`
    /// inodes, fit.
    pub(crate) fn smallest_for(data: u64, inodes: u64) -> u64 {
        const STEP: u64 = 1 << 20;
        let mut size = (data * BLOCK_SIZE).next_multiple_of(STEP).max(STEP);
        loop {
            match Self::new(size) {
                Ok(layout) if layout.holds(data, inodes) => return size,
                Ok(_) => size += STEP.max((size / 4096).next_multiple_of(STEP)),
                Err(_) => return size,
            }
        }
    }

    fn holds(&self, data: u64, inodes: u64) -> bool {
        let Some(per_group) = self.inodes_per_group(inodes) else { return false };
        let reserved: u64 = [0]
            .into_iter()
            .chain(self.backups.into_iter().filter(|&g| g != 0))
            .map(|g| self.reserved(g))
            .sum();
        let metadata = self.groups * (2 + Self::inode_table_blocks(per_group));
        // An inode table must not be cut by a backup, so that up to one table may be lost before each of them.
        let lost = 2 * Self::inode_table_blocks(per_group);
        data + reserved + metadata + lost <= self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_filesystems_have_no_backups_in_a_short_group() {
        assert_eq!(Layout::new(1 << 20).unwrap().backups, [0, 0]);
        assert_eq!(Layout::new(129 << 20).unwrap().backups, [0, 0]);
        assert_eq!(Layout::new(256 << 20).unwrap().backups, [1, 0]);
        assert_eq!(Layout::new(300 << 20).unwrap().backups, [1, 0]);
        assert_eq!(Layout::new(2 << 30).unwrap().backups, [1, 15]);
        assert_eq!(Layout::new((2 << 30) + 4096).unwrap().backups, [1, 15]);
    }

    #[test]
    fn sizes_out_of_range_are_refused() {
        assert!(Layout::new(0).is_err());
        assert!(Layout::new(u64::MAX).is_err());
        assert_eq!(Layout::new(1 << 40).unwrap().groups, 8192);
    }

    #[test]
    fn inodes_are_32_bit_numbers() {
        for size in [16 << 40, 16 << 40 | 1 << 27, 40 << 40, LARGEST - (1 << 27), LARGEST] {
            let layout = Layout::new(size).unwrap();
            for used in [11, u64::from(u32::MAX) / 10 * 9] {
                let per_group = layout.inodes_per_group(used).unwrap();
                assert!(per_group.is_multiple_of(INODES_PER_BLOCK) && per_group * layout.groups >= used);
                assert!(u32::try_from(per_group * layout.groups).is_ok(), "{size} {used}: {per_group}");
            }
            assert!(layout.most_inodes() <= u64::from(u32::MAX));
            assert_eq!(layout.inodes_per_group(layout.most_inodes() + 1), None);
        }
        assert_eq!(Layout::new(LARGEST).unwrap().inodes_per_group(11), Some(8176));
    }
}
