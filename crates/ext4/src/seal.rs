//! The end of an image: everything that is known only when all entries are.

use std::collections::HashMap;
use std::fs::File;

use crate::checksum::{filesystem_seed, inode_seed};
use crate::content::pieces;
use crate::dir::{self, DirEntry, Directory};
use crate::error::{Error, Result};
use crate::groups::{self, Groups, check_fits, too_small};
use crate::inode::{self, INDEXED, InodeRecord, USES_EXTENTS};
use crate::layout::{BLOCK_SIZE, FIRST_INODE, INODE_SIZE, Layout};
use crate::metadata::Timestamp;
use crate::options::Summary;
use crate::space::Extent;
use crate::superblock::{self, Totals};
use crate::tree::{Body, Inode, Node};
use crate::writer::{MOST_LINKS, Writer};
use crate::{extents, journal};

const ROOT: u32 = 2;
/// `lost+found` gets room in advance, as mke2fs gives it, so that e2fsck need not find any on a full filesystem.
const LOST_FOUND_BLOCKS: usize = 4;

/// The blocks of a directory.
struct DirectoryPlace {
    extents: Vec<Extent>,
    blocks: u64,
    indexed: bool,
}

/// Writes everything that is left.
pub(crate) fn finish(mut writer: Writer) -> Result<(File, Summary)> {
    let seed = filesystem_seed(&writer.options.uuid);
    let layout = *writer.space.layout();
    let numbers = number(&writer);
    let used = u64::from(FIRST_INODE) - 1 + writer.tree.live_inodes() - 1;
    writer.xattrs.finish(seed, &mut writer.space, &mut writer.image)?;
    let directories = write_directories(&mut writer, &numbers, seed)?;
    let bodies = write_extent_trees(&mut writer, &numbers, &directories, seed)?;

    let data = writer.space.taken();
    let per_group = layout.inodes_per_group(used).ok_or_else(|| too_small(&layout, data, used))?;
    check_fits(&writer.space, data, used)?;
    let places = groups::place(&mut writer.space, per_group);
    check_fits(&writer.space, data, used)?;

    let records = Records { writer: &writer, bodies: &bodies, directories: &directories };
    let mut directory_counts = vec![0; layout.groups as usize];
    for node in writer.tree.directories() {
        let number = u64::from(numbers[writer.tree.inode_index(node)]) - 1;
        directory_counts[(number / per_group) as usize] += 1;
    }
    let journal_body = records.journal_body();
    write_inodes(&mut writer, &numbers, &bodies, &directories, seed, |number| {
        let (group, within) = (u64::from(number - 1) / per_group, u64::from(number - 1) % per_group);
        places[group as usize].inode_table * BLOCK_SIZE + within * INODE_SIZE
    })?;
    if let Some(extents) = &writer.journal {
        journal::write(extents, &writer.options.uuid, &mut writer.image)?;
    }
    let mark = writer.space.mark();
    let freed = writer.space.into_freed();
    let groups = Groups {
        layout,
        places: &places,
        inodes_per_group: per_group,
        inodes_used: used,
        directories: &directory_counts,
        mark,
        freed: &freed,
        seed,
    };
    let (descriptors, free_blocks) = groups.write(&mut writer.image)?;
    let inodes = per_group * layout.groups;
    let totals = Totals { free_blocks, free_inodes: inodes - used, inodes_per_group: per_group };
    let make = |group| superblock::encode(&writer.options, &layout, totals, journal_body.as_ref(), group);
    groups.write_superblocks(&descriptors, make, &mut writer.image)?;
    writer.image.flush()?;

    let size = layout.blocks * BLOCK_SIZE;
    let summary = Summary { size, used: size - free_blocks * BLOCK_SIZE, inodes, inodes_used: used };
    Ok((writer.image.into_file(), summary))
}

/// Inode numbers in the order of adding: the root, then `lost+found`, then the rest; 0 for what was removed.
fn number(writer: &Writer) -> Vec<u32> {
    let mut next = FIRST_INODE;
    let number = |(index, inode): (usize, &Inode)| {
        if index == 0 {
            return ROOT;
        }
        if inode.links == 0 {
            return 0;
        }
        next += 1;
        next - 1
    };
    writer.tree.inodes().iter().enumerate().map(number).collect()
}

/// Directories by the position of their inode.
type Directories = HashMap<usize, DirectoryPlace>;

fn write_directories(writer: &mut Writer, numbers: &[u32], seed: u32) -> Result<Directories> {
    let mut places = Directories::new();
    let hash_seed = writer.options.hash_words();
    let lost_found = writer.tree.lookup(Node::ROOT, b"lost+found");
    let nodes: Vec<Node> = writer.tree.directories().collect();
    for node in nodes {
        let tree = &writer.tree;
        let index = tree.inode_index(node);
        let number = numbers[index];
        let directory = Directory {
            inode: number,
            parent: numbers[tree.inode_index(tree.parent(node))],
            seed: inode_seed(seed, number),
            hash_seed,
        };
        let entries: Vec<_> = tree
            .children(node)
            .map(|child| DirEntry {
                inode: numbers[tree.inode_index(child)],
                file_type: dir::file_type(tree.inode(child).mode),
                name: tree.name(child),
            })
            .collect();
        let mut encoded = directory
            .encode(&entries)
            .ok_or_else(|| Error::entry(&tree.path(node), "more entries than a directory can hold"))?;
        if Some(node) == lost_found && !encoded.indexed {
            encoded.blocks.resize(LOST_FOUND_BLOCKS, directory.empty_block());
        }
        let mut place = DirectoryPlace {
            extents: Vec::new(),
            blocks: encoded.blocks.len() as u64,
            indexed: encoded.indexed,
        };
        let mut logical = 0;
        while logical < place.blocks {
            let (start, len) = writer.space.take(place.blocks - logical);
            if writer.space.overflowed() {
                writer.image.discard();
            }
            for (at, piece) in pieces(len) {
                place.extents.push(Extent { logical: (logical + at) as u32, len: piece, start: start + at });
            }
            for at in 0..len {
                writer.image.write(start + at, &encoded.blocks[(logical + at) as usize])?;
            }
            logical += len;
        }
        places.insert(index, place);
    }
    Ok(places)
}

/// `i_block` of every inode that needs blocks for its extent tree, with the number of those blocks.
type Bodies = HashMap<usize, ([u8; 60], u64)>;

fn write_extent_trees(
    writer: &mut Writer,
    numbers: &[u32],
    directories: &Directories,
    seed: u32,
) -> Result<Bodies> {
    let mut bodies = Bodies::new();
    for (index, inode) in writer.tree.inodes().iter().enumerate() {
        let list =
            directories.get(&index).map_or_else(|| writer.tree.extents_of(inode), |place| &place.extents);
        if inode.links > 0 && list.len() > 4 {
            let seed = inode_seed(seed, numbers[index]);
            bodies.insert(index, extents::write(list, seed, &mut writer.space, &mut writer.image)?);
        }
    }
    Ok(bodies)
}

/// Writes all inodes in use, each at the byte of the image that `place` gives for its number.
fn write_inodes(
    writer: &mut Writer,
    numbers: &[u32],
    bodies: &Bodies,
    directories: &Directories,
    seed: u32,
    place: impl Fn(u32) -> u64,
) -> Result<()> {
    let reserved = (1..FIRST_INODE).map(|number| (number, (number == ROOT).then_some(0)));
    let rest = numbers.iter().enumerate().skip(1).filter(|&(_, &number)| number != 0);
    let mut end = 0;
    for (number, index) in reserved.chain(rest.map(|(index, &number)| (number, Some(index)))) {
        let records = Records { writer, bodies, directories };
        let record = match index {
            Some(index) => records.record(index),
            None if number == journal::INODE => records.journal().unwrap_or_else(InodeRecord::unused),
            None => InodeRecord::unused(),
        };
        let raw = record.encode(inode_seed(seed, number));
        let at = place(number);
        if at != end {
            writer.image.pad(end)?;
        }
        writer.image.space(at, INODE_SIZE)?.copy_from_slice(&raw);
        writer.image.advance(raw.len());
        end = at + INODE_SIZE;
    }
    writer.image.pad(end)
}

/// Everything that is needed to describe inodes.
struct Records<'a> {
    writer: &'a Writer,
    bodies: &'a Bodies,
    directories: &'a Directories,
}

impl Records<'_> {
    fn record(&self, index: usize) -> InodeRecord {
        let tree = &self.writer.tree;
        let inode = &tree.inodes()[index];
        let directory = self.directories.get(&index);
        let list = directory.map_or_else(|| tree.extents_of(inode), |place| &place.extents);
        let xattr_block = self.writer.xattrs.block(inode.xattrs);
        let mut record = InodeRecord {
            mode: inode.mode,
            links: inode.links as u16,
            uid: inode.uid,
            gid: inode.gid,
            time: inode.mtime,
            size: inode.size,
            blocks: list.iter().map(|extent| u64::from(extent.len)).sum::<u64>()
                + u64::from(xattr_block.is_some()),
            xattr_block: xattr_block.unwrap_or(0),
            xattrs: self.writer.xattrs.inline(inode.xattrs).copied(),
            ..InodeRecord::unused()
        };
        match inode.body {
            Body::Directory { .. } | Body::Extents { .. } | Body::LongSymlink { .. } => {
                let (body, blocks) = self.bodies.get(&index).copied().unwrap_or_else(|| (in_inode(list), 0));
                record.body = body;
                record.blocks += blocks;
                record.flags = USES_EXTENTS;
            }
            Body::FastSymlink { text } => {
                record.body[..inode.size as usize].copy_from_slice(tree.text(text, inode.size as usize));
            }
            Body::Device { major, minor } => record.body = inode::device(major, minor),
            Body::Nothing => {}
        }
        if let Some(place) = directory {
            record.size = place.blocks * BLOCK_SIZE;
            record.flags |= if place.indexed { INDEXED } else { 0 };
            // A directory with more subdirectories than can be counted has a link count of 1 (dir_nlink).
            record.links = if inode.links > MOST_LINKS { 1 } else { inode.links as u16 };
        }
        record
    }

    fn journal_body(&self) -> Option<[u8; 60]> {
        self.journal().map(|record| record.body)
    }

    fn journal(&self) -> Option<InodeRecord> {
        let list = self.writer.journal.as_ref()?;
        let blocks: u64 = list.iter().map(|extent| u64::from(extent.len)).sum();
        Some(InodeRecord {
            mode: crate::tree::file_type::FILE | 0o600,
            links: 1,
            time: Timestamp::from_seconds(i64::from(self.writer.options.created)),
            size: blocks * BLOCK_SIZE,
            blocks,
            flags: USES_EXTENTS,
            body: in_inode(list),
            ..InodeRecord::unused()
        })
    }
}

fn in_inode(list: &[Extent]) -> [u8; 60] {
    let mut body = [0; 60];
    extents::put_root(list, &mut body);
    body
}

const _: () = assert!(Layout::inode_table_blocks(32768) < 32768);
