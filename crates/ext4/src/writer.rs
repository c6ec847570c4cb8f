//! The writer: entries in, an image out.

use std::fs::File;
use std::io::Read;

use crate::content::{Padded, Run, ascending, block_runs, pieces};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::layout::{BLOCK_SIZE, Layout};
use crate::metadata::{FileMap, Kind, Metadata, Segments, Special};
use crate::options::{Options, Summary};
use crate::space::{Extent, Space};
use crate::tree::{Body, Inode, NONE, Node, Tree, file_type};
use crate::xattr::{XattrRef, XattrStore};
use crate::{journal, seal};

/// The longest target of a symbolic link: a block with its terminating zero.
const LONGEST_SYMLINK: usize = BLOCK_SIZE as usize - 1;
/// A target shorter than this lives in the inode.
const FAST_SYMLINK: usize = 60;
/// The most links to anything that is not a directory (`EXT4_LINK_MAX`).
pub(crate) const MOST_LINKS: u32 = 65000;
/// This many times the inodes that a filesystem can have are counted before it is given up.
const COUNTED: u64 = 4;
/// Targets too long for the inode are kept in memory as well, up to so many bytes in all.
const MOST_TARGETS: usize = 64 << 20;
/// Logical blocks are 32-bit numbers and the last one is not used.
const LARGEST_FILE: u64 = (u32::MAX as u64) * BLOCK_SIZE;

/// Writes one ext4 image.
///
/// Content goes to its final place at once and in the order of the calls; names, inodes and extents are kept in memory
/// and written by [`Writer::finish`]. An entry can be replaced or removed until then; the blocks it had become free space.
///
/// When more is added than fits, nothing more is written, but everything is still counted, so that `finish` can say how
/// much would have been enough. Only with four times the inodes that the filesystem can have, be they still in use or
/// not, counting ends and [`Error::FarTooSmall`] comes at once.
#[derive(Debug)]
pub struct Writer {
    pub(crate) options: Options,
    pub(crate) image: Image,
    pub(crate) space: Space,
    pub(crate) tree: Tree,
    pub(crate) xattrs: XattrStore,
    pub(crate) journal: Option<Vec<Extent>>,
    /// Bytes of long targets that are kept in memory.
    targets: usize,
}

impl Writer {
    /// Starts an image in `file`, which must be open for reading and writing and loses what it holds.
    ///
    /// A root directory (mode 0755, root's) and an empty `lost+found` (mode 0700) are there from the start.
    ///
    /// # Errors
    /// [`Error::Options`] for a size, label or journal that can't be; [`Error::Image`] if the file can't be resized.
    pub fn new(file: File, options: Options) -> Result<Self> {
        let layout = Layout::new(options.size)?;
        if options.label.len() > 16 {
            return Err(Error::Options("a label has at most 16 bytes".to_owned()));
        }
        let mut image = Image::new(file);
        image.clear(layout.blocks * BLOCK_SIZE)?;
        let mut space = Space::new(layout);
        let journal = options.journal.map(|size| journal::reserve(size, &mut space)).transpose()?;
        let root = inode(file_type::DIRECTORY, &Metadata::root(0o755), XattrRef::default());
        let tree = Tree::new(Inode { body: Body::Directory { first: NONE, last: NONE }, links: 2, ..root });
        let mut writer =
            Self { options, image, space, tree, xattrs: XattrStore::default(), journal, targets: 0 };
        writer.directory(Node::ROOT, b"lost+found", &Metadata::root(0o700))?;
        Ok(writer)
    }

    /// The entry `name` in a directory.
    pub fn lookup(&self, parent: Node, name: &[u8]) -> Option<Node> {
        self.tree.lookup(parent, name)
    }

    /// Whether an entry is still there: neither it nor a directory above it was taken away.
    pub fn contains(&self, node: Node) -> bool {
        self.tree.contains(node)
    }

    /// The names in a directory, in the order of adding; none for anything else.
    pub fn children(&self, directory: Node) -> impl Iterator<Item = Node> {
        self.tree.children(directory)
    }

    /// The name of an entry within its directory; empty for the root.
    pub fn name(&self, node: Node) -> &[u8] {
        self.tree.name(node)
    }

    /// The directory an entry is in; the root is in itself.
    pub fn parent(&self, node: Node) -> Node {
        self.tree.parent(node)
    }

    /// Path of an entry from the root, without a leading slash.
    pub fn path(&self, node: Node) -> Vec<u8> {
        self.tree.path(node)
    }

    /// What an entry is.
    pub fn kind(&self, node: Node) -> Kind {
        self.tree.inode(node).kind()
    }

    /// Target of a symbolic link; `None` for anything else. Of long ones, those beyond the first 64 MiB are read back from
    /// the image, and are `None` once that has overflowed.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn symlink_target(&mut self, node: Node) -> Result<Option<Vec<u8>>> {
        let inode = self.tree.inode(node);
        let len = inode.size as usize;
        match (inode.body, self.tree.extents_of(inode)) {
            (Body::LongSymlink { text: NONE, .. }, &[extent]) if !self.image.discarding() => {
                self.image.read(extent.start).map(|block| Some(block[..len].to_vec()))
            }
            (Body::LongSymlink { text: NONE, .. }, _) => Ok(None),
            (Body::FastSymlink { text } | Body::LongSymlink { text, .. }, _) => {
                Ok(Some(self.tree.text(text, len).to_vec()))
            }
            _ => Ok(None),
        }
    }

    /// Adds an empty directory.
    ///
    /// # Errors
    /// Like all calls that add something: [`Error::Entry`] if the name can't be used or is taken, or the metadata can't be
    /// represented.
    pub fn directory(&mut self, parent: Node, name: &[u8], metadata: &Metadata) -> Result<Node> {
        let inode = self.prepare(parent, name, metadata, file_type::DIRECTORY)?;
        Ok(self.tree.add(parent, name, Inode { body: Body::Directory { first: NONE, last: NONE }, ..inode }))
    }

    /// Adds a regular file, reading exactly [`FileMap::data_len`] bytes from `content`.
    ///
    /// Once the image has overflowed, `content` is not read any more.
    ///
    /// # Errors
    /// [`Error::Content`] if `content` fails or ends early, and those of [`Writer::directory`].
    pub fn file(
        &mut self,
        parent: Node,
        name: &[u8],
        metadata: &Metadata,
        map: &FileMap,
        content: &mut dyn Read,
    ) -> Result<Node> {
        if map.size > LARGEST_FILE {
            return Err(self.refuse(parent, name, "larger than the 16 TiB that ext4 can hold"));
        }
        if let Segments::Sparse(segments) = &map.segments
            && !ascending(segments, map.size)
        {
            return Err(self.refuse(
                parent,
                name,
                "its sparse map is out of order or reaches beyond its size",
            ));
        }
        let inode = self.prepare(parent, name, metadata, file_type::FILE)?;
        let first = self.tree.extent_count() as u32;
        let dense = [(0, map.size)];
        let segments = match &map.segments {
            Segments::Dense => &dense[..],
            Segments::Sparse(segments) => segments,
        };
        for run in block_runs(segments) {
            self.write_run(run, content).map_err(|failed| failed.at(self, parent, name))?;
        }
        let count = self.tree.extent_count() as u32 - first;
        Ok(self.tree.add(
            parent,
            name,
            Inode { size: map.size, body: Body::Extents { first, count }, ..inode },
        ))
    }

    /// Adds a symbolic link; the target is stored as it is.
    ///
    /// # Errors
    /// Those of [`Writer::directory`], and an empty target or one of more than 4095 bytes.
    pub fn symlink(&mut self, parent: Node, name: &[u8], metadata: &Metadata, target: &[u8]) -> Result<Node> {
        if target.is_empty() || target.len() > LONGEST_SYMLINK || target.contains(&0) {
            return Err(self.refuse(
                parent,
                name,
                "a symbolic link needs a target of 1 to 4095 bytes without NUL",
            ));
        }
        let mut inode = self.prepare(parent, name, metadata, file_type::SYMLINK)?;
        inode.size = target.len() as u64;
        inode.body = if target.len() < FAST_SYMLINK {
            Body::FastSymlink { text: self.tree.add_text(target) }
        } else {
            let extent = self.tree.extent_count() as u32;
            self.write_run((0, inode.size, &[(0, inode.size)]), &mut &target[..])
                .map_err(|failed| failed.at(self, parent, name))?;
            let kept = self.targets + target.len() <= MOST_TARGETS;
            self.targets += if kept { target.len() } else { 0 };
            Body::LongSymlink { extent, text: if kept { self.tree.add_text(target) } else { NONE } }
        };
        Ok(self.tree.add(parent, name, inode))
    }

    /// Adds a fifo, socket or device.
    ///
    /// # Errors
    /// Those of [`Writer::directory`], and device numbers beyond 12 bits (major) or 20 bits (minor).
    pub fn special(
        &mut self,
        parent: Node,
        name: &[u8],
        metadata: &Metadata,
        special: Special,
    ) -> Result<Node> {
        let (kind, body) = match special {
            Special::Fifo => (file_type::FIFO, Body::Nothing),
            Special::Socket => (file_type::SOCKET, Body::Nothing),
            Special::CharDevice(major, minor) => (file_type::CHAR, Body::Device { major, minor }),
            Special::BlockDevice(major, minor) => (file_type::BLOCK, Body::Device { major, minor }),
        };
        if let Body::Device { major, minor } = body
            && (major >= 1 << 12 || minor >= 1 << 20)
        {
            return Err(self.refuse(parent, name, "its device number is larger than Linux allows"));
        }
        let inode = self.prepare(parent, name, metadata, kind)?;
        Ok(self.tree.add(parent, name, Inode { body, ..inode }))
    }

    /// Adds a hard link: another name for what `target` names.
    ///
    /// # Errors
    /// [`Error::Entry`] if the target is a directory or has 65,000 links, or the name can't be used.
    pub fn link(&mut self, parent: Node, name: &[u8], target: Node) -> Result<Node> {
        if self.kind(target) == Kind::Directory {
            return Err(self.refuse(parent, name, "a hard link to a directory"));
        }
        if self.tree.inode(target).links >= MOST_LINKS {
            return Err(self.refuse(parent, name, "more than 65,000 hard links to one file"));
        }
        self.check_name(parent, name)?;
        Ok(self.tree.link(parent, name, target))
    }

    /// Replaces owner, permissions, time and extended attributes of an entry and of all hard links to it.
    ///
    /// # Errors
    /// [`Error::Entry`] if the metadata can't be represented.
    pub fn set_metadata(&mut self, node: Node, metadata: &Metadata) -> Result<()> {
        let path = self.path(node);
        let xattrs = self.store_xattrs(&path, metadata)?;
        let old = self.tree.inode_mut(node);
        let before = std::mem::replace(&mut old.xattrs, xattrs);
        (old.uid, old.gid, old.mtime) = (metadata.uid, metadata.gid, metadata.mtime);
        old.mode = old.mode & file_type::MASK | metadata.mode & 0o7777;
        self.xattrs.release(before);
        Ok(())
    }

    /// Takes an entry away, with everything below it. The root can't be taken away: it is emptied.
    pub fn remove(&mut self, node: Node) {
        let mut pending: Vec<(Node, bool)> = vec![(node, false)];
        while let Some((at, emptied)) = pending.pop() {
            if !emptied && self.kind(at) == Kind::Directory {
                pending.push((at, true));
                pending.extend(self.tree.children(at).map(|child| (child, false)));
            } else if at != Node::ROOT {
                let xattrs = self.tree.inode(at).xattrs;
                for extent in self.tree.remove(at) {
                    self.space.free(extent.start, u64::from(extent.len));
                }
                if self.tree.inode(at).links == 0 {
                    self.xattrs.release(xattrs);
                }
            }
        }
    }

    /// Whether the content no longer fits; it is then only counted.
    pub fn overflowed(&self) -> bool {
        self.image.discarding()
    }

    /// Writes directories, inodes, bitmaps, descriptors and superblocks, and gives the file back. It is not synced.
    ///
    /// # Errors
    /// [`Error::TooSmall`] with the size that is needed; [`Error::Image`].
    pub fn finish(self) -> Result<(File, Summary)> {
        seal::finish(self)
    }

    fn prepare(&mut self, parent: Node, name: &[u8], metadata: &Metadata, kind: u16) -> Result<Inode> {
        self.check_name(parent, name)?;
        self.check_count()?;
        let mut path = Vec::new();
        if !metadata.xattrs.is_empty() {
            path = self.tree.path(parent);
            path.push(b'/');
            path.extend_from_slice(name);
        }
        let xattrs = self.store_xattrs(&path, metadata)?;
        Ok(inode(kind, metadata, xattrs))
    }

    /// Memory is bounded: what was taken away counts too, since the tables only grow.
    fn check_count(&self) -> Result<()> {
        let layout = self.space.layout();
        let (made, fit) = (self.tree.inodes().len() as u64, layout.most_inodes());
        if made < fit * COUNTED {
            return Ok(());
        }
        let needed = Layout::smallest_for(self.space.taken(), made);
        Err(Error::FarTooSmall { size: layout.blocks * BLOCK_SIZE, counted: made, needed })
    }

    fn store_xattrs(&mut self, path: &[u8], metadata: &Metadata) -> Result<XattrRef> {
        self.xattrs
            .store(&metadata.xattrs, &mut self.space, &mut self.image)?
            .map_err(|reason| Error::entry(path, reason))
    }

    fn check_name(&self, parent: Node, name: &[u8]) -> Result<()> {
        let reason = if name.is_empty() || name == b"." || name == b".." {
            "not a name"
        } else if name.len() > 255 {
            "a name has at most 255 bytes"
        } else if name.contains(&b'/') || name.contains(&0) {
            "a name has no slash and no NUL"
        } else if self.kind(parent) != Kind::Directory {
            "its parent is not a directory"
        } else if self.lookup(parent, name).is_some() {
            "there is already an entry of this name"
        } else if self.tree.full(name.len() + LONGEST_SYMLINK) {
            "more entries than one image can hold"
        } else {
            return Ok(());
        };
        Err(self.refuse(parent, name, reason))
    }

    fn refuse(&self, parent: Node, name: &[u8], reason: &str) -> Error {
        Error::entry(&self.join(parent, name), reason)
    }

    fn join(&self, parent: Node, name: &[u8]) -> Vec<u8> {
        let mut path = self.tree.path(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Writes a run of whole blocks: the segments in it from `content`, zeros between them.
    fn write_run(&mut self, run: Run<'_>, content: &mut dyn Read) -> std::result::Result<(), Failed> {
        let (start, end, segments) = run;
        let mut logical = start / BLOCK_SIZE;
        let mut left = end.div_ceil(BLOCK_SIZE) - logical;
        let mut source = Padded::new(content, segments, logical * BLOCK_SIZE);
        while left > 0 {
            let (at, len) = self.space.take(left);
            if self.space.overflowed() {
                self.image.discard();
            }
            for (index, piece) in pieces(len) {
                let extent = Extent { logical: (logical + index) as u32, len: piece, start: at + index };
                self.tree.add_extent(extent);
            }
            if !self.image.discarding() {
                self.fill(at * BLOCK_SIZE, len * BLOCK_SIZE, end, &mut source)?;
            }
            logical += len;
            left -= len;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        mut at: u64,
        len: u64,
        end: u64,
        source: &mut Padded<'_>,
    ) -> std::result::Result<(), Failed> {
        let stop = at + len;
        while at < stop {
            let want = (stop - at).min(end.saturating_sub(source.position()));
            if want == 0 {
                self.image.pad(at).map_err(Failed::Image)?;
                break;
            }
            let space = self.image.space(at, want).map_err(Failed::Image)?;
            let filled = space.len();
            source.read_exact(space).map_err(Failed::Content)?;
            self.image.advance(filled);
            at += filled as u64;
        }
        Ok(())
    }
}

fn inode(kind: u16, metadata: &Metadata, xattrs: XattrRef) -> Inode {
    Inode {
        mode: kind | metadata.mode & 0o7777,
        links: 0,
        uid: metadata.uid,
        gid: metadata.gid,
        mtime: metadata.mtime,
        size: 0,
        body: Body::Nothing,
        xattrs,
    }
}

enum Failed {
    Image(Error),
    Content(std::io::Error),
}

impl Failed {
    fn at(self, writer: &Writer, parent: Node, name: &[u8]) -> Error {
        match self {
            Self::Image(error) => error,
            Self::Content(source) => {
                let path = String::from_utf8_lossy(&writer.join(parent, name)).into_owned();
                Error::Content { path, source }
            }
        }
    }
}
