//! Extended attributes: in the inode where they fit, else in a block that inodes with equal attributes share.
//!
//! Source: Linux, Documentation/filesystems/ext4/attributes.rst and fs/ext4/xattr.c.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::acl;
use crate::checksum::crc32c;
use crate::image::Image;
use crate::layout::BLOCK_SIZE;
use crate::le::{put16, put32, put64_split};
use crate::metadata::Xattr;
use crate::space::Space;
use crate::{Result, layout};

/// What it takes, or why ext4 can't hold it.
type Refusable<T> = std::result::Result<T, String>;

const MAGIC: u32 = 0xea02_0000;
const ENTRY: usize = 16;
const BLOCK_HEADER: usize = 32;
/// Size of the part of an inode that is left for attributes: 256 bytes without the classic 128 and the 32 extra ones.
pub(crate) const INODE_ROOM: usize = 96;
const BLOCK: usize = BLOCK_SIZE as usize;
/// `EXT4_XATTR_REFCOUNT_MAX`.
const MOST_SHARED: u32 = 1024;

/// Where the attributes of an inode are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct XattrRef {
    /// One more than the index of the part inside the inode; 0 for none.
    inline: u32,
    /// One more than the index of the block; 0 for none.
    block: u32,
}

/// All attributes of an image: each distinct set is stored once.
#[derive(Debug, Default)]
pub(crate) struct XattrStore {
    inline: Vec<[u8; INODE_ROOM]>,
    blocks: Vec<SharedBlock>,
    known: HashMap<u128, XattrRef>,
    // Keyed at random, so that no image can contain two sets that are taken for one another.
    hashers: [RandomState; 2],
}

#[derive(Debug)]
struct SharedBlock {
    at: u64,
    users: u32,
}

struct Entry {
    index: u8,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Entry {
    /// Bytes for the entry and for its value, both padded to four.
    fn sizes(&self) -> (usize, usize) {
        ((ENTRY + self.name.len()).next_multiple_of(4), self.value.len().next_multiple_of(4))
    }

    fn new(xattr: &Xattr) -> Refusable<Option<Self>> {
        let say = |reason: &str| format!("{reason}: {}", String::from_utf8_lossy(&xattr.name));
        let (index, name) =
            split_name(&xattr.name).ok_or_else(|| say("extended attribute in a namespace ext4 lacks"))?;
        let value = match index {
            POSIX_ACL_ACCESS | POSIX_ACL_DEFAULT => {
                match acl::to_disk(&xattr.value, index == POSIX_ACL_ACCESS).map_err(say)? {
                    Some(value) => value,
                    None => return Ok(None),
                }
            }
            _ => xattr.value.clone(),
        };
        if name.len() > 255 {
            return Err(say("extended attribute with a name of more than 255 bytes"));
        }
        Ok(Some(Self { index, name: name.to_vec(), value }))
    }

    /// `ext4_xattr_hash_entry`.
    fn hash(&self) -> u32 {
        let name = self.name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(name, |hash, chunk| {
            let mut word = [0; 4];
            word[..chunk.len()].copy_from_slice(chunk);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

const POSIX_ACL_ACCESS: u8 = 2;
const POSIX_ACL_DEFAULT: u8 = 3;

/// The number of a namespace that Linux knows, and the rest of the name.
pub(crate) fn split_name(full: &[u8]) -> Option<(u8, &[u8])> {
    match full {
        b"system.posix_acl_access" => return Some((POSIX_ACL_ACCESS, b"")),
        b"system.posix_acl_default" => return Some((POSIX_ACL_DEFAULT, b"")),
        _ => {}
    }
    let prefixes: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];
    prefixes.iter().find_map(|(index, prefix)| {
        full.strip_prefix(*prefix).filter(|name| !name.is_empty()).map(|name| (*index, name))
    })
}

impl XattrStore {
    /// Stores a set of attributes, or says why ext4 can't hold it.
    pub(crate) fn store(
        &mut self,
        xattrs: &[Xattr],
        space: &mut Space,
        image: &mut Image,
    ) -> Result<Refusable<XattrRef>> {
        if xattrs.is_empty() {
            return Ok(Ok(XattrRef::default()));
        }
        let mut entries = match xattrs.iter().filter_map(|xattr| Entry::new(xattr).transpose()).collect() {
            Ok(entries) if Vec::is_empty(&entries) => return Ok(Ok(XattrRef::default())),
            Ok(entries) => entries,
            Err(reason) => return Ok(Err(reason)),
        };
        // The order that the kernel keeps blocks in.
        entries.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
        if entries.windows(2).any(|pair| (pair[0].index, &pair[0].name) == (pair[1].index, &pair[1].name)) {
            return Ok(Err("an extended attribute is given twice".to_owned()));
        }
        let key = self.key(&entries);
        if let Some(known) = self.known.get(&key).copied() {
            let room = known.block == 0 || self.blocks[known.block as usize - 1].users < MOST_SHARED;
            if room {
                if let Some(block) = known.block.checked_sub(1) {
                    self.blocks[block as usize].users += 1;
                }
                return Ok(Ok(known));
            }
        }
        let Some((inside, outside)) = divide(entries) else {
            return Ok(Err("more extended attributes than fit into a block of 4096 bytes".to_owned()));
        };
        let mut place = XattrRef::default();
        if !inside.is_empty() {
            let mut room = [0; INODE_ROOM];
            put32(&mut room, 0, MAGIC);
            // Offsets inside an inode count from the first entry, and hashes are not kept.
            encode(&inside, &mut room[4..], 0, false);
            self.inline.push(room);
            place.inline = self.inline.len() as u32;
        }
        if !outside.is_empty() {
            let mut block = [0; BLOCK];
            put32(&mut block, 0, MAGIC);
            put32(&mut block, 8, 1);
            let hash = encode(&outside, &mut block, BLOCK_HEADER, true);
            put32(&mut block, 12, hash);
            let (at, _) = space.take(1);
            if space.overflowed() {
                image.discard();
            }
            image.write(at, &block)?;
            self.blocks.push(SharedBlock { at, users: 1 });
            place.block = self.blocks.len() as u32;
        }
        self.known.insert(key, place);
        Ok(Ok(place))
    }

    /// Forgets one use of a set, because its inode is gone or got others.
    pub(crate) fn release(&mut self, place: XattrRef) {
        if let Some(block) = place.block.checked_sub(1) {
            self.blocks[block as usize].users -= 1;
        }
    }

    fn key(&self, entries: &[Entry]) -> u128 {
        let list: Vec<_> = entries.iter().map(|entry| (entry.index, &entry.name, &entry.value)).collect();
        let [high, low] = [0, 1].map(|half| self.hashers[half].hash_one(&list));
        u128::from(high) << 64 | u128::from(low)
    }

    /// The part inside the inode.
    pub(crate) fn inline(&self, place: XattrRef) -> Option<&[u8; INODE_ROOM]> {
        place.inline.checked_sub(1).map(|index| &self.inline[index as usize])
    }

    /// The block, if there is one.
    pub(crate) fn block(&self, place: XattrRef) -> Option<u64> {
        place.block.checked_sub(1).map(|index| self.blocks[index as usize].at)
    }

    /// Gives back the blocks that nothing uses any more, and completes the others with their number of users and checksum.
    pub(crate) fn finish(
        &mut self,
        filesystem_seed: u32,
        space: &mut Space,
        image: &mut Image,
    ) -> Result<()> {
        for shared in &self.blocks {
            if shared.users == 0 {
                space.free(shared.at, 1);
                continue;
            }
            let mut block = image.read(shared.at)?;
            put32(&mut block, 4, shared.users);
            put32(&mut block, 16, 0);
            let mut number = [0; 8];
            put64_split(&mut number, 0, 4, shared.at);
            let sum = crc32c(crc32c(filesystem_seed, &number), &block);
            put32(&mut block, 16, sum);
            image.write(shared.at, &block)?;
        }
        Ok(())
    }
}

/// Which entries go into the inode and which into a block: all in one place if possible.
fn divide(mut entries: Vec<Entry>) -> Option<(Vec<Entry>, Vec<Entry>)> {
    let total = |entries: &[Entry]| entries.iter().map(|e| e.sizes().0 + e.sizes().1).sum::<usize>() + 4;
    let inode_room = INODE_ROOM - 4;
    let block_room = layout::BLOCK_SIZE as usize - BLOCK_HEADER;
    if total(&entries) <= inode_room {
        return Some((entries, Vec::new()));
    }
    let mut inside: Vec<Entry> = Vec::new();
    while total(&entries) > block_room {
        let size = |e: &Entry| e.sizes().0 + e.sizes().1;
        let smallest = (0..entries.len()).min_by_key(|&i| size(&entries[i]))?;
        inside.push(entries.remove(smallest));
        if total(&inside) > inode_room {
            return None;
        }
    }
    Some((inside, entries))
}

/// Writes entries from `start` upward and values from the end downward; returns the hash over all entries.
fn encode(entries: &[Entry], area: &mut [u8], start: usize, hashed: bool) -> u32 {
    let (mut at, mut end, mut all) = (start, area.len(), 0u32);
    for entry in entries {
        let (entry_size, value_size) = entry.sizes();
        end -= value_size;
        area[end..end + entry.value.len()].copy_from_slice(&entry.value);
        area[at] = entry.name.len() as u8;
        area[at + 1] = entry.index;
        put16(area, at + 2, if entry.value.is_empty() { 0 } else { end as u16 });
        put32(area, at + 8, entry.value.len() as u32);
        let hash = if hashed { entry.hash() } else { 0 };
        put32(area, at + 12, hash);
        area[at + ENTRY..at + ENTRY + entry.name.len()].copy_from_slice(&entry.name);
        at += entry_size;
        all = all.rotate_left(16) ^ hash;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_by_namespace() {
        assert_eq!(split_name(b"user.a.b"), Some((1, &b"a.b"[..])));
        assert_eq!(split_name(b"security.capability"), Some((6, &b"capability"[..])));
        assert_eq!(split_name(b"system.posix_acl_default"), Some((3, &b""[..])));
        assert_eq!(split_name(b"user."), None);
        assert_eq!(split_name(b"other.x"), None);
        assert_eq!(split_name(b"system.data"), None, "of this namespace there are only the ACLs");
    }

    #[test]
    fn small_sets_stay_in_the_inode_and_large_ones_leave_it() {
        let entry = |len: usize| Entry { index: 1, name: vec![b'n'; 4], value: vec![1; len] };
        let (inside, outside) = divide(vec![entry(20), entry(20)]).unwrap();
        assert_eq!((inside.len(), outside.len()), (2, 0));
        let (inside, outside) = divide(vec![entry(20), entry(200)]).unwrap();
        assert_eq!((inside.len(), outside.len()), (0, 2));
        let (inside, outside) = divide(vec![entry(4030), entry(20)]).unwrap();
        assert_eq!((inside.len(), outside.len()), (1, 1));
        assert!(divide(vec![entry(4090)]).is_none());
    }
}
