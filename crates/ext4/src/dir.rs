//! Directory blocks: one linear block for small directories, a hashed index for larger ones.
//!
//! Source: Linux, Documentation/filesystems/ext4/directory.rst (`ext4_dir_entry_2`, `ext4_dir_entry_tail`, `dx_root`,
//! `dx_node`, `dx_tail`).

use crate::checksum::crc32c;
use crate::hash;
use crate::layout::BLOCK_SIZE;
use crate::le::{put16, put32};

const BLOCK: usize = BLOCK_SIZE as usize;
/// The checksum at the end of a block of names, dressed as an unused entry.
const TAIL: usize = 12;
const NAMES: usize = BLOCK - TAIL;
const DOTS: usize = 24;
const HALF_MD4: u8 = 1;
/// Offset of limit and count in the root and in the other index blocks.
const ROOT_ENTRIES: usize = 32;
const NODE_ENTRIES: usize = 8;
/// Index entries that fit, one slot left for the checksum.
const ROOT_LIMIT: usize = (BLOCK - ROOT_ENTRIES) / 8 - 1;
const NODE_LIMIT: usize = (BLOCK - NODE_ENTRIES) / 8 - 1;

/// An entry of a directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DirEntry<'a> {
    pub(crate) inode: u32,
    /// `EXT4_FT_*`.
    pub(crate) file_type: u8,
    pub(crate) name: &'a [u8],
}

impl DirEntry<'_> {
    fn size(&self) -> usize {
        8 + self.name.len().next_multiple_of(4)
    }
}

/// The type byte of an entry for a mode.
pub(crate) fn file_type(mode: u16) -> u8 {
    use crate::tree::file_type as t;
    match mode & t::MASK {
        t::FILE => 1,
        t::DIRECTORY => 2,
        t::CHAR => 3,
        t::BLOCK => 4,
        t::FIFO => 5,
        t::SOCKET => 6,
        t::SYMLINK => 7,
        _ => 0,
    }
}

/// What is the same for all blocks of one directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Directory {
    pub(crate) inode: u32,
    pub(crate) parent: u32,
    /// Checksum seed of the inode.
    pub(crate) seed: u32,
    pub(crate) hash_seed: [u32; 4],
}

/// The blocks of a directory in logical order, and whether they are indexed.
#[derive(Debug)]
pub(crate) struct DirBlocks {
    pub(crate) blocks: Vec<[u8; BLOCK]>,
    pub(crate) indexed: bool,
}

impl Directory {
    /// Lays out a directory; `None` if it has more entries than a two-level index can hold.
    pub(crate) fn encode(&self, entries: &[DirEntry<'_>]) -> Option<DirBlocks> {
        if DOTS + entries.iter().map(DirEntry::size).sum::<usize>() <= NAMES {
            return Some(DirBlocks { blocks: vec![self.linear(entries)], indexed: false });
        }
        self.indexed(entries).map(|blocks| DirBlocks { blocks, indexed: true })
    }

    /// A block that holds no entry, ready to take some.
    pub(crate) fn empty_block(&self) -> [u8; BLOCK] {
        self.leaf(&[])
    }

    fn dots(&self) -> [DirEntry<'static>; 2] {
        [
            DirEntry { inode: self.inode, file_type: 2, name: b"." },
            DirEntry { inode: self.parent, file_type: 2, name: b".." },
        ]
    }

    fn linear(&self, entries: &[DirEntry<'_>]) -> [u8; BLOCK] {
        let all: Vec<_> = self.dots().into_iter().chain(entries.iter().copied()).collect();
        self.leaf(&all)
    }

    /// A block of names, the last of them reaching to the end.
    fn leaf(&self, entries: &[DirEntry<'_>]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut at = 0;
        for (index, entry) in entries.iter().enumerate() {
            let len = if index + 1 == entries.len() { NAMES - at } else { entry.size() };
            put_entry(&mut block[at..], entry, len);
            at += len;
        }
        if entries.is_empty() {
            put16(&mut block, 4, NAMES as u16);
        }
        put16(&mut block, NAMES + 4, TAIL as u16);
        block[NAMES + 7] = 0xde;
        let sum = crc32c(self.seed, &block[..NAMES]);
        put32(&mut block, NAMES + 8, sum);
        block
    }

    fn indexed(&self, entries: &[DirEntry<'_>]) -> Option<Vec<[u8; BLOCK]>> {
        let mut hashed: Vec<_> =
            entries.iter().map(|entry| (hash::half_md4(&self.hash_seed, entry.name), *entry)).collect();
        hashed.sort_by_key(|(hash, _)| *hash);

        let (mut leaves, mut starts) = (Vec::new(), Vec::new());
        let (mut from, mut size) = (0, 0);
        for at in 0..=hashed.len() {
            if at == hashed.len() || size + hashed[at].1.size() > NAMES {
                let part: Vec<_> = hashed[from..at].iter().map(|(_, entry)| *entry).collect();
                // The low bit says that names of this hash already began in the block before.
                let continued = from > 0 && hashed[from - 1].0 == hashed[from].0;
                starts.push(if from == 0 { 0 } else { hashed[from].0 | u32::from(continued) });
                leaves.push(self.leaf(&part));
                (from, size) = (at, 0);
            }
            if at < hashed.len() {
                size += hashed[at].1.size();
            }
        }

        let nodes = if leaves.len() <= ROOT_LIMIT { 0 } else { leaves.len().div_ceil(NODE_LIMIT) };
        if nodes > ROOT_LIMIT {
            return None;
        }
        let leaf_at = |leaf: usize| (1 + nodes + leaf) as u32;
        let pointers: Vec<_> = starts.iter().enumerate().map(|(leaf, &hash)| (hash, leaf_at(leaf))).collect();
        let mut blocks = Vec::with_capacity(1 + nodes + leaves.len());
        if nodes == 0 {
            blocks.push(self.root(&pointers, 0));
        } else {
            let parts = pointers.chunks(NODE_LIMIT);
            let top: Vec<_> =
                parts.clone().enumerate().map(|(node, part)| (part[0].0, 1 + node as u32)).collect();
            blocks.push(self.root(&top, 1));
            blocks.extend(parts.map(|part| self.node(part)));
        }
        blocks.extend(leaves);
        Some(blocks)
    }

    fn root(&self, pointers: &[(u32, u32)], levels: u8) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let [dot, dot_dot] = self.dots();
        put_entry(&mut block, &dot, 12);
        put_entry(&mut block[12..], &dot_dot, BLOCK - 12);
        block[28] = HALF_MD4;
        block[29] = 8; // length of this information
        block[30] = levels;
        self.put_index(&mut block, ROOT_ENTRIES, ROOT_LIMIT, pointers);
        block
    }

    fn node(&self, pointers: &[(u32, u32)]) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        put16(&mut block, 4, BLOCK as u16);
        self.put_index(&mut block, NODE_ENTRIES, NODE_LIMIT, pointers);
        block
    }

    /// The first pointer has no hash: limit and count stand in its place.
    fn put_index(&self, block: &mut [u8; BLOCK], at: usize, limit: usize, pointers: &[(u32, u32)]) {
        for (slot, (hash, place)) in pointers.iter().enumerate() {
            put32(block, at + 8 * slot, *hash);
            put32(block, at + 8 * slot + 4, *place);
        }
        put16(block, at, limit as u16);
        put16(block, at + 2, pointers.len() as u16);
        // The checksum covers what is used, then the tail with its checksum taken as zero.
        let sum = crc32c(crc32c(self.seed, &block[..at + 8 * pointers.len()]), &[0; 8]);
        put32(block, at + 8 * limit + 4, sum);
    }
}

fn put_entry(area: &mut [u8], entry: &DirEntry<'_>, len: usize) {
    put32(area, 0, entry.inode);
    put16(area, 4, len as u16);
    area[6] = entry.name.len() as u8;
    area[7] = entry.file_type;
    area[8..8 + entry.name.len()].copy_from_slice(entry.name);
}
