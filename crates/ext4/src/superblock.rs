//! The superblock.
//!
//! Source: Linux, Documentation/filesystems/ext4/super.rst (`struct ext4_super_block`).

use crate::checksum::crc32c;
use crate::inode::EXTRA_SIZE;
use crate::journal;
use crate::layout::{BLOCKS_PER_GROUP, DESCRIPTOR_SIZE, FIRST_INODE, INODE_SIZE, Layout};
use crate::le::{put16, put32, put64_split};
use crate::options::Options;

/// ext_attr, dir_index, sparse_super2.
const COMPATIBLE: u32 = 0x8 | 0x20 | 0x200;
const HAS_JOURNAL: u32 = 0x4;
/// filetype, extents, 64bit, flex_bg.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum.
const READ_ONLY_COMPATIBLE: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// `EXT2_FLAGS_UNSIGNED_HASH`: names are hashed as unsigned bytes, on every machine.
const UNSIGNED_HASH: u32 = 0x2;
const HALF_MD4: u8 = 1;
/// user_xattr and acl.
const MOUNT_OPTIONS: u32 = 0x4 | 0x8;
/// 16 groups, as mke2fs writes.
const LOG_GROUPS_PER_FLEX: u8 = 4;
const CRC32C: u8 = 1;

/// Size of the superblock; the first one starts at byte 1024.
pub(crate) const SIZE: usize = 1024;

/// What the superblock says that does not follow from the options.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Totals {
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    pub(crate) inodes_per_group: u64,
}

/// The superblock as it stands at the start of `group`.
pub(crate) fn encode(
    options: &Options,
    layout: &Layout,
    totals: Totals,
    journal_body: Option<&[u8; 60]>,
    group: u64,
) -> [u8; SIZE] {
    let mut raw = [0; SIZE];
    put32(&mut raw, 0x00, (totals.inodes_per_group * layout.groups) as u32);
    put64_split(&mut raw, 0x04, 0x150, layout.blocks);
    put64_split(&mut raw, 0x0c, 0x158, totals.free_blocks);
    put32(&mut raw, 0x10, totals.free_inodes as u32);
    put32(&mut raw, 0x18, 2); // 1024 << 2 bytes per block
    put32(&mut raw, 0x1c, 2); // and per cluster
    put32(&mut raw, 0x20, BLOCKS_PER_GROUP as u32);
    put32(&mut raw, 0x24, BLOCKS_PER_GROUP as u32);
    put32(&mut raw, 0x28, totals.inodes_per_group as u32);
    put32(&mut raw, 0x30, options.created);
    put16(&mut raw, 0x36, u16::MAX); // never checked because of a number of mounts
    put16(&mut raw, 0x38, 0xef53);
    put16(&mut raw, 0x3a, 1); // clean
    put16(&mut raw, 0x3c, 1); // on errors: continue
    put32(&mut raw, 0x40, options.created);
    put32(&mut raw, 0x4c, 1); // revision with dynamic inode sizes
    put32(&mut raw, 0x54, FIRST_INODE);
    put16(&mut raw, 0x58, INODE_SIZE as u16);
    put16(&mut raw, 0x5a, group as u16);
    put32(&mut raw, 0x5c, COMPATIBLE | if journal_body.is_some() { HAS_JOURNAL } else { 0 });
    put32(&mut raw, 0x60, INCOMPATIBLE);
    put32(&mut raw, 0x64, READ_ONLY_COMPATIBLE);
    raw[0x68..0x78].copy_from_slice(&options.uuid);
    raw[0x78..0x78 + options.label.len()].copy_from_slice(&options.label);
    raw[0xec..0xfc].copy_from_slice(&options.hash_seed);
    raw[0xfc] = HALF_MD4;
    put16(&mut raw, 0xfe, DESCRIPTOR_SIZE as u16);
    put32(&mut raw, 0x100, MOUNT_OPTIONS);
    put32(&mut raw, 0x108, options.created);
    if let (Some(body), Some(size)) = (journal_body, options.journal) {
        put32(&mut raw, 0xe0, journal::INODE);
        // A copy of the journal's inode, from which e2fsck can restore it.
        raw[0xfd] = 1;
        raw[0x10c..0x10c + 60].copy_from_slice(body);
        put64_split(&mut raw, 0x10c + 64, 0x10c + 60, size);
    }
    put16(&mut raw, 0x15c, EXTRA_SIZE);
    put16(&mut raw, 0x15e, EXTRA_SIZE);
    put32(&mut raw, 0x160, UNSIGNED_HASH);
    raw[0x174] = LOG_GROUPS_PER_FLEX;
    raw[0x175] = CRC32C;
    put32(&mut raw, 0x24c, layout.backups[0] as u32);
    put32(&mut raw, 0x250, layout.backups[1] as u32);
    let sum = crc32c(!0, &raw[..0x3fc]);
    put32(&mut raw, 0x3fc, sum);
    raw
}
