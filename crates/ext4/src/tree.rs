//! The tree in memory: names, inodes and extents in flat tables of small records.
//!
//! A name takes about 40 bytes with its index slot and an inode 88, so that an image of half a million files is built
//! within a hundred MiB.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::metadata::{Kind, Timestamp};
use crate::space::Extent;
use crate::xattr::XattrRef;

/// A name in the tree, which is what paths and hard links refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Node(pub(crate) u32);

impl Node {
    /// The root directory.
    pub const ROOT: Self = Self(0);

    /// Position in the order in which names were added, for tables that run beside the tree.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

pub(crate) const NONE: u32 = u32::MAX;

/// `S_IFMT` values, from inode(7).
pub(crate) mod file_type {
    pub(crate) const FIFO: u16 = 0o010_000;
    pub(crate) const CHAR: u16 = 0o020_000;
    pub(crate) const DIRECTORY: u16 = 0o040_000;
    pub(crate) const BLOCK: u16 = 0o060_000;
    pub(crate) const FILE: u16 = 0o100_000;
    pub(crate) const SYMLINK: u16 = 0o120_000;
    pub(crate) const SOCKET: u16 = 0o140_000;
    pub(crate) const MASK: u16 = 0o170_000;
}

#[derive(Debug)]
struct Name {
    parent: u32,
    inode: u32,
    /// Next name in the same directory, in the order of adding.
    next: u32,
    text: u32,
    len: u8,
    removed: bool,
}

/// What an inode's `i_block` will hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// First and last name in the directory.
    Directory { first: u32, last: u32 },
    /// A run of the extent table.
    Extents { first: u32, count: u32 },
    /// Target in the text table, shorter than 60 bytes.
    FastSymlink { text: u32 },
    /// One extent of the extent table, and the target in the text table; [`NONE`] if it is only in the image.
    LongSymlink { extent: u32, text: u32 },
    /// Device number.
    Device { major: u32, minor: u32 },
    /// Nothing: fifos and sockets.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    pub(crate) links: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) size: u64,
    pub(crate) body: Body,
    pub(crate) xattrs: XattrRef,
}

impl Inode {
    pub(crate) fn kind(&self) -> Kind {
        match self.mode & file_type::MASK {
            file_type::DIRECTORY => Kind::Directory,
            file_type::FILE => Kind::File,
            file_type::SYMLINK => Kind::Symlink,
            _ => Kind::Special,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Tree {
    names: Vec<Name>,
    text: Vec<u8>,
    inodes: Vec<Inode>,
    extents: Vec<Extent>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    live_inodes: u64,
}

impl Tree {
    /// A tree with nothing but a root directory.
    pub(crate) fn new(root: Inode) -> Self {
        Self {
            names: vec![Name { parent: 0, inode: 0, next: NONE, text: 0, len: 0, removed: false }],
            text: Vec::new(),
            inodes: vec![root],
            extents: Vec::new(),
            index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            live_inodes: 1,
        }
    }

    pub(crate) fn lookup(&self, parent: Node, name: &[u8]) -> Option<Node> {
        let hash = self.hasher.hash_one((parent.0, name));
        let same = |&other: &u32| {
            let entry = &self.names[other as usize];
            entry.parent == parent.0 && self.text_of(entry) == name
        };
        self.index.find(hash, same).copied().map(Node)
    }

    /// Adds a name for a new inode.
    pub(crate) fn add(&mut self, parent: Node, name: &[u8], inode: Inode) -> Node {
        let number = self.inodes.len() as u32;
        self.inodes.push(Inode { links: 0, ..inode });
        self.live_inodes += 1;
        self.add_name(parent, name, number)
    }

    /// Adds a further name for the inode of `target`.
    pub(crate) fn link(&mut self, parent: Node, name: &[u8], target: Node) -> Node {
        self.add_name(parent, name, self.names[target.index()].inode)
    }

    fn add_name(&mut self, parent: Node, name: &[u8], inode: u32) -> Node {
        let id = self.names.len() as u32;
        let text = self.add_text(name);
        self.names.push(Name {
            parent: parent.0,
            inode,
            next: NONE,
            text,
            len: name.len() as u8,
            removed: false,
        });
        let (names, all, hasher) = (&self.names, &self.text, &self.hasher);
        let rehash = |&other: &u32| {
            let entry = &names[other as usize];
            hasher.hash_one((entry.parent, &all[entry.text as usize..][..usize::from(entry.len)]))
        };
        self.index.insert_unique(hasher.hash_one((parent.0, name)), id, rehash);

        let directory = self.names[parent.index()].inode as usize;
        if let Body::Directory { first, last } = &mut self.inodes[directory].body {
            let before = std::mem::replace(last, id);
            if before == NONE {
                *first = id;
            } else {
                self.names[before as usize].next = id;
            }
        }
        let is_directory = self.inodes[inode as usize].kind() == Kind::Directory;
        self.inodes[inode as usize].links += if is_directory { 2 } else { 1 };
        if is_directory {
            self.inodes[directory].links += 1;
        }
        Node(id)
    }

    /// Takes a name away; the extents of its inode if that was the last one.
    pub(crate) fn remove(&mut self, node: Node) -> &[Extent] {
        let (parent, inode) = (self.names[node.index()].parent, self.names[node.index()].inode as usize);
        let hash = self.hasher.hash_one((parent, self.text_of(&self.names[node.index()])));
        if let Ok(entry) = self.index.find_entry(hash, |&other| other == node.0) {
            entry.remove();
        }
        self.names[node.index()].removed = true;
        if self.inodes[inode].kind() == Kind::Directory {
            self.inodes[inode].links = 0;
            let parent_inode = self.names[parent as usize].inode as usize;
            self.inodes[parent_inode].links = self.inodes[parent_inode].links.saturating_sub(1);
        } else {
            self.inodes[inode].links -= 1;
        }
        if self.inodes[inode].links > 0 {
            return &[];
        }
        self.live_inodes -= 1;
        self.extents_of(&self.inodes[inode])
    }

    /// Whether a name has not been taken away.
    pub(crate) fn contains(&self, node: Node) -> bool {
        !self.names[node.index()].removed
    }

    /// The names in a directory, in the order of adding.
    pub(crate) fn children(&self, directory: Node) -> impl Iterator<Item = Node> {
        let first = match self.inode(directory).body {
            Body::Directory { first, .. } => first,
            _ => NONE,
        };
        let follow = |id: u32| (id != NONE).then_some(id);
        std::iter::successors(follow(first), move |&id| follow(self.names[id as usize].next))
            .map(Node)
            .filter(|&node| self.contains(node))
    }

    pub(crate) fn add_text(&mut self, bytes: &[u8]) -> u32 {
        let at = self.text.len() as u32;
        self.text.extend_from_slice(bytes);
        at
    }

    pub(crate) fn text(&self, at: u32, len: usize) -> &[u8] {
        &self.text[at as usize..at as usize + len]
    }

    fn text_of(&self, name: &Name) -> &[u8] {
        self.text(name.text, usize::from(name.len))
    }

    pub(crate) fn name(&self, node: Node) -> &[u8] {
        self.text_of(&self.names[node.index()])
    }

    pub(crate) fn parent(&self, node: Node) -> Node {
        Node(self.names[node.index()].parent)
    }

    pub(crate) fn inode(&self, node: Node) -> &Inode {
        &self.inodes[self.inode_index(node)]
    }

    pub(crate) fn inode_mut(&mut self, node: Node) -> &mut Inode {
        let index = self.inode_index(node);
        &mut self.inodes[index]
    }

    pub(crate) fn inode_index(&self, node: Node) -> usize {
        self.names[node.index()].inode as usize
    }

    pub(crate) fn inodes(&self) -> &[Inode] {
        &self.inodes
    }

    /// Inodes that have a name.
    pub(crate) fn live_inodes(&self) -> u64 {
        self.live_inodes
    }

    /// Whether there is room for one more name and `text` more bytes of names.
    pub(crate) fn full(&self, text: usize) -> bool {
        self.names.len() >= NONE as usize || self.text.len() + text >= NONE as usize
    }

    pub(crate) fn extent_count(&self) -> usize {
        self.extents.len()
    }

    pub(crate) fn add_extent(&mut self, extent: Extent) {
        self.extents.push(extent);
    }

    pub(crate) fn extents_of(&self, inode: &Inode) -> &[Extent] {
        match inode.body {
            Body::Extents { first, count } => &self.extents[first as usize..][..count as usize],
            Body::LongSymlink { extent, .. } => &self.extents[extent as usize..][..1],
            _ => &[],
        }
    }

    /// Every directory that is still there, with one of its names, in the order of adding.
    pub(crate) fn directories(&self) -> impl Iterator<Item = Node> {
        (0..self.names.len() as u32).map(Node).filter(|&node| {
            self.contains(node) && self.inode(node).kind() == Kind::Directory && self.inode(node).links > 0
        })
    }

    /// Full path of a name, without a leading slash.
    pub(crate) fn path(&self, node: Node) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut at = node;
        while at != Node::ROOT {
            parts.push(self.name(at));
            at = self.parent(at);
        }
        parts.reverse();
        parts.join(&b'/')
    }
}
