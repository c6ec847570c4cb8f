//! On-disk inodes.
//!
//! Source: Linux, Documentation/filesystems/ext4/inodes.rst (`struct ext4_inode`).

use crate::checksum::crc32c;
use crate::layout::INODE_SIZE;
use crate::le::{put16, put32, put64_split};
use crate::metadata::Timestamp;
use crate::xattr::INODE_ROOM;

/// `EXT4_EXTENTS_FL` and `EXT4_INDEX_FL`.
pub(crate) const USES_EXTENTS: u32 = 0x8_0000;
pub(crate) const INDEXED: u32 = 0x1000;
/// Bytes of fields behind the classic 128.
pub(crate) const EXTRA_SIZE: u16 = 32;
const XATTRS: usize = 128 + EXTRA_SIZE as usize;

/// The fields of an inode, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct InodeRecord {
    pub(crate) mode: u16,
    pub(crate) links: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) time: Timestamp,
    pub(crate) size: u64,
    /// Blocks of 4096 bytes, those of extent tree and attributes included.
    pub(crate) blocks: u64,
    pub(crate) flags: u32,
    pub(crate) body: [u8; 60],
    pub(crate) xattr_block: u64,
    pub(crate) xattrs: Option<[u8; INODE_ROOM]>,
}

impl InodeRecord {
    /// A reserved inode that nothing uses.
    pub(crate) fn unused() -> Self {
        Self {
            mode: 0,
            links: 0,
            uid: 0,
            gid: 0,
            time: Timestamp::default(),
            size: 0,
            blocks: 0,
            flags: 0,
            body: [0; 60],
            xattr_block: 0,
            xattrs: None,
        }
    }

    /// The inode as it stands on disk; `seed` is its own checksum seed.
    pub(crate) fn encode(&self, seed: u32) -> [u8; INODE_SIZE as usize] {
        let mut raw = [0; INODE_SIZE as usize];
        let (seconds, extra) = self.time.encode();
        let sectors = self.blocks * 8;
        put16(&mut raw, 0x00, self.mode);
        put16(&mut raw, 0x02, self.uid as u16);
        put64_split(&mut raw, 0x04, 0x6c, self.size);
        for at in [0x08, 0x0c, 0x10, 0x90] {
            put32(&mut raw, at, seconds);
        }
        for at in [0x84, 0x88, 0x8c, 0x94] {
            put32(&mut raw, at, extra);
        }
        put16(&mut raw, 0x18, self.gid as u16);
        put16(&mut raw, 0x1a, self.links);
        put32(&mut raw, 0x1c, sectors as u32);
        put32(&mut raw, 0x20, self.flags);
        raw[0x28..0x28 + 60].copy_from_slice(&self.body);
        put32(&mut raw, 0x68, self.xattr_block as u32);
        put16(&mut raw, 0x74, (sectors >> 32) as u16);
        put16(&mut raw, 0x76, (self.xattr_block >> 32) as u16);
        put16(&mut raw, 0x78, (self.uid >> 16) as u16);
        put16(&mut raw, 0x7a, (self.gid >> 16) as u16);
        put16(&mut raw, 0x80, EXTRA_SIZE);
        if let Some(xattrs) = &self.xattrs {
            raw[XATTRS..].copy_from_slice(xattrs);
        }
        let sum = crc32c(seed, &raw);
        put16(&mut raw, 0x7c, sum as u16);
        put16(&mut raw, 0x82, (sum >> 16) as u16);
        raw
    }
}

/// `i_block` of a device: the old form where it fits, else the new one behind it (fs/ext4/inode.c,
/// `new_encode_dev` in include/linux/kdev_t.h).
pub(crate) fn device(major: u32, minor: u32) -> [u8; 60] {
    let mut body = [0; 60];
    if major < 256 && minor < 256 {
        put32(&mut body, 0, major << 8 | minor);
    } else {
        put32(&mut body, 4, minor & 0xff | major << 8 | (minor & !0xff) << 12);
    }
    body
}
