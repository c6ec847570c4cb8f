//! Merging layers into one tree, from the top layer down.
//!
//! Going down, whatever is met first at a path is what the image shows there, so that content can be written at once and
//! is never written twice. What a layer hides of the layers below is kept as two marks:
//!
//! - a directory is *sealed* at a layer: an opaque marker, a whiteout beside it, or something below it that is no directory;
//! - a name is *gone* from a layer on: a whiteout.
//!
//! Paths are taken literally, as overlayfs does: an entry below a symbolic link of its own or of a lower layer makes a
//! real directory in its place. Nothing is ever resolved through a link while merging.
//!
//! Source: OCI image-spec, layer.md, "Applying Changesets" and "Whiteouts".

mod hardlink;
mod path;

use std::collections::{BTreeSet, HashMap};
use std::io::Read;

use clarateach_ext4::{Kind, Metadata, Node, Writer};

use self::hardlink::Pending;
use self::path::Marker;
use crate::tar::{Entries, Entry, EntryKind, ReadAt, TarError};

/// The most layers of an image.
pub const MOST_LAYERS: usize = 4096;
/// The most names of attributes that are remembered for the warning.
const MOST_LEFT_OUT: usize = 8;
/// A file that init injection may change is kept in memory up to this size.
const LARGEST_KEPT: u64 = 1 << 20;
/// The files that init injection looks into.
const KEPT: [&[u8]; 5] = [b"etc/group", b"etc/hosts", b"etc/passwd", b"etc/resolv.conf", b"etc/shadow"];

/// Why layers could not be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The archive is broken.
    #[error("broken layer")]
    Tar(#[from] TarError),
    /// An entry is refused.
    #[error("{path}: {reason}")]
    Refused {
        /// Its path in the archive, lossily decoded.
        path: String,
        /// Why.
        reason: String,
    },
    /// The image can't take it.
    #[error(transparent)]
    Ext4(#[from] clarateach_ext4::Error),
    /// The build was called off.
    #[error("interrupted")]
    Interrupted,
}

/// A file whose content was kept because it may have to be changed.
#[derive(Debug, Clone)]
pub struct KeptFile {
    /// The name it has in the image.
    pub node: Node,
    /// Its owner, mode, time and attributes.
    pub metadata: Metadata,
    /// Its content.
    pub content: Vec<u8>,
}

/// Kept files by their path, without a leading slash.
pub type KeptFiles = HashMap<Vec<u8>, KeptFile>;

/// All layers in one tree.
#[derive(Debug)]
pub struct Merged {
    /// The image, to which more can be added.
    pub writer: Writer,
    /// The files that injection may look into.
    pub kept: KeptFiles,
    /// What was met.
    pub counts: Counts,
    /// Names of extended attributes that were left out, because Linux has no namespace for them; not all if they are many.
    pub left_out: BTreeSet<Vec<u8>>,
}

/// What was met on the way, for `--verbose`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Entries that became part of the image.
    pub added: u64,
    /// Entries that a higher layer hides.
    pub hidden: u64,
    /// Whiteouts and opaque markers.
    pub markers: u64,
    /// Entries below a symbolic link or file of their own layer, which became a directory for it.
    pub contained: u64,
}

/// What is known of a name besides what the image stores. Layers count from 1, the lowest.
#[derive(Debug, Clone, Copy, Default)]
struct Info {
    /// The highest layer that has it.
    origin: u16,
    /// Layers below this one have no say in what is in it.
    sealed: u16,
    /// The layer its metadata is from; 0 while it is only known as somebody's parent.
    described: u16,
}

/// Merges layers into an image.
#[derive(Debug)]
pub struct Merge {
    writer: Writer,
    info: Vec<Info>,
    gone: HashMap<(Node, Box<[u8]>), u16>,
    pending: Vec<Pending>,
    kept: KeptFiles,
    counts: Counts,
    left_out: BTreeSet<Vec<u8>>,
    /// The directory of the entry before, which is most often that of the next one too.
    last_parent: Option<(Vec<u8>, Option<Node>)>,
}

/// Where an entry goes.
enum Spot {
    /// A higher layer hides it.
    Hidden,
    /// In a directory, under a name; what is there already, if anything.
    At(Node, Option<Node>),
}

impl Merge {
    /// Starts with an empty image.
    pub fn new(writer: Writer) -> Self {
        let mut merge = Self {
            writer,
            info: Vec::new(),
            gone: HashMap::new(),
            pending: Vec::new(),
            kept: HashMap::new(),
            counts: Counts::default(),
            left_out: BTreeSet::new(),
            last_parent: None,
        };
        if let Some(lost_found) = merge.writer.lookup(Node::ROOT, b"lost+found") {
            // Always a directory, whatever the layers say.
            merge.info_mut(lost_found).origin = u16::MAX;
        }
        merge
    }

    /// Applies a layer; layers come from the top (`rank` = their number) down to 1. `keep_going` is asked now and then with
    /// the position in the archive.
    ///
    /// # Errors
    /// [`MergeError`]; the image is of no use then.
    pub fn layer(
        &mut self,
        rank: u16,
        source: &dyn ReadAt,
        keep_going: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(), MergeError> {
        self.last_parent = None;
        let mut entries = Entries::new(source);
        let mut whiteouts = Vec::new();
        while let Some(mut entry) = entries.next()? {
            if !keep_going(entries.position()) {
                return Err(MergeError::Interrupted);
            }
            self.leave_out(&mut entry.metadata);
            self.entry(rank, entry, &mut entries, &mut whiteouts)?;
        }
        // A whiteout beside a directory of the same layer: the directory is new, whatever was there before.
        for (parent, name) in whiteouts {
            if let Some(node) = self.writer.lookup(parent, &name) {
                self.seal(node, rank);
            }
        }
        self.settle_links(rank, source)
    }

    /// Ends the merge: the writer, and the files that injection may look into.
    ///
    /// # Errors
    /// [`MergeError::Refused`] for a hard link to what no layer has.
    pub fn finish(mut self) -> Result<Merged, MergeError> {
        if let Some(link) = self.pending.first() {
            let reason =
                format!("a hard link to {}, which is not there", String::from_utf8_lossy(&link.target));
            return Err(refused(&link.path, &reason));
        }
        // Whatever was replaced later in its layer, by itself or along with its directory.
        self.kept.retain(|_, file| self.writer.contains(file.node));
        Ok(Merged { writer: self.writer, kept: self.kept, counts: self.counts, left_out: self.left_out })
    }

    /// Whether the image has overflowed.
    pub fn overflowed(&self) -> bool {
        self.writer.overflowed()
    }

    fn entry(
        &mut self,
        rank: u16,
        entry: Entry,
        content: &mut dyn Read,
        whiteouts: &mut Vec<(Node, Box<[u8]>)>,
    ) -> Result<(), MergeError> {
        let parts = path::components(&entry.path).map_err(|reason| refused(&entry.path, reason))?;
        if path::is_bookkeeping(&parts) {
            self.counts.markers += 1;
            return Ok(());
        }
        let Some((name, directories)) = parts.split_last() else {
            return match entry.kind {
                EntryKind::Directory => self.describe(Node::ROOT, rank, &entry.metadata),
                _ => Err(refused(&entry.path, "the root is a directory")),
            };
        };
        let Some(parent) = self.parent(rank, &entry.path, directories)? else {
            self.counts.hidden += 1;
            return Ok(());
        };
        if let Some(marker) = path::marker(name) {
            self.counts.markers += 1;
            match marker.map_err(|reason| refused(&entry.path, reason))? {
                Marker::Opaque => self.seal(parent, rank),
                Marker::Whiteout(hidden) => {
                    self.gone.entry((parent, hidden.into())).or_insert(rank);
                    whiteouts.push((parent, hidden.into()));
                }
                Marker::Ignored => {}
            }
            return Ok(());
        }
        match self.spot(rank, parent, name, entry.kind == EntryKind::Directory) {
            Spot::Hidden => {
                self.counts.hidden += 1;
                Ok(())
            }
            Spot::At(parent, there) => self.place(rank, parent, name, there, &entry, content),
        }
    }

    /// The directory of an entry, made if it is missing; `None` if a higher layer hides it.
    fn parent(&mut self, rank: u16, path: &[u8], parts: &[&[u8]]) -> Result<Option<Node>, MergeError> {
        let directory = path::before_name(path);
        if let Some((last, node)) = &self.last_parent
            && last == directory
        {
            return Ok(*node);
        }
        let found = self.walk(rank, parts)?;
        self.last_parent = Some((directory.to_vec(), found));
        Ok(found)
    }

    fn walk(&mut self, rank: u16, parts: &[&[u8]]) -> Result<Option<Node>, MergeError> {
        let mut at = Node::ROOT;
        if self.info(at).sealed > rank {
            return Ok(None);
        }
        for part in parts {
            at = match self.writer.lookup(at, part) {
                Some(node) if self.writer.kind(node) == Kind::Directory => node,
                Some(node) if self.info(node).origin > rank => return Ok(None),
                other => {
                    if self.is_gone(rank, at, part) {
                        return Ok(None);
                    }
                    if let Some(node) = other {
                        self.counts.contained += 1;
                        self.take_away(node);
                    }
                    let node = self.writer.directory(at, part, &Metadata::root(0o755))?;
                    self.info_mut(node).origin = rank;
                    node
                }
            };
            if self.info(at).sealed > rank {
                return Ok(None);
            }
        }
        Ok(Some(at))
    }

    /// Whether an entry is visible, and what it meets.
    fn spot(&mut self, rank: u16, parent: Node, name: &[u8], is_directory: bool) -> Spot {
        let Some(node) = self.writer.lookup(parent, name) else {
            return if self.is_gone(rank, parent, name) { Spot::Hidden } else { Spot::At(parent, None) };
        };
        let info = self.info(node);
        let directory_there = self.writer.kind(node) == Kind::Directory;
        if directory_there && is_directory {
            return if info.sealed > rank { Spot::Hidden } else { Spot::At(parent, Some(node)) };
        }
        if info.origin > rank {
            if directory_there {
                // Something else lies below the directory: what is further below has nothing to do with it.
                self.seal(node, rank);
            }
            return Spot::Hidden;
        }
        Spot::At(parent, Some(node))
    }

    fn place(
        &mut self,
        rank: u16,
        parent: Node,
        name: &[u8],
        there: Option<Node>,
        entry: &Entry,
        content: &mut dyn Read,
    ) -> Result<(), MergeError> {
        if entry.kind == EntryKind::Directory {
            let node = match there {
                Some(node) if self.writer.kind(node) == Kind::Directory => node,
                other => {
                    if let Some(node) = other {
                        self.take_away(node);
                    }
                    let node = self.writer.directory(parent, name, &entry.metadata)?;
                    self.counts.added += 1;
                    *self.info_mut(node) = Info { origin: rank, sealed: 0, described: rank };
                    return Ok(());
                }
            };
            return self.describe(node, rank, &entry.metadata);
        }
        // A second entry of the same layer at this path: the later one counts.
        if let Some(node) = there {
            self.take_away(node);
        }
        if let EntryKind::HardLink(target) = &entry.kind {
            return self.hard_link(rank, parent, name, &entry.path, target);
        }
        self.add(rank, parent, name, entry, content)?;
        Ok(())
    }

    /// Adds anything but a directory or a hard link.
    fn add(
        &mut self,
        rank: u16,
        parent: Node,
        name: &[u8],
        entry: &Entry,
        content: &mut dyn Read,
    ) -> Result<Node, MergeError> {
        let node = match &entry.kind {
            EntryKind::File(map) => {
                let in_etc = self.writer.name(parent) == b"etc" && self.writer.parent(parent) == Node::ROOT;
                let path = in_etc.then(|| [b"etc/", name].concat());
                match path.filter(|path| KEPT.contains(&&path[..]) && map.size() <= LARGEST_KEPT) {
                    Some(path) => {
                        let mut bytes = vec![0; map.data_len() as usize];
                        content.read_exact(&mut bytes).map_err(|source| clarateach_ext4::Error::Content {
                            path: String::from_utf8_lossy(&path).into_owned(),
                            source,
                        })?;
                        let node = self.writer.file(parent, name, &entry.metadata, map, &mut &bytes[..])?;
                        let metadata = entry.metadata.clone();
                        self.kept.insert(path, KeptFile { node, metadata, content: bytes });
                        node
                    }
                    None => self.writer.file(parent, name, &entry.metadata, map, content)?,
                }
            }
            EntryKind::Symlink(target) => self.writer.symlink(parent, name, &entry.metadata, target)?,
            EntryKind::Special(special) => self.writer.special(parent, name, &entry.metadata, *special)?,
            EntryKind::Directory | EntryKind::HardLink(_) => {
                return Err(refused(&entry.path, "a hard link to something that can't be linked"));
            }
        };
        self.counts.added += 1;
        *self.info_mut(node) = Info { origin: rank, sealed: 0, described: rank };
        Ok(node)
    }

    /// Gives a directory its metadata, unless a higher layer did.
    fn describe(&mut self, node: Node, rank: u16, metadata: &Metadata) -> Result<(), MergeError> {
        let described = self.info(node).described;
        if described == 0 || described == rank {
            self.writer.set_metadata(node, metadata)?;
            self.info_mut(node).described = rank;
            self.counts.added += 1;
        } else {
            self.counts.hidden += 1;
        }
        Ok(())
    }

    /// Whether a higher layer has a whiteout for a name.
    fn is_gone(&self, rank: u16, parent: Node, name: &[u8]) -> bool {
        !self.gone.is_empty() && self.gone.get(&(parent, name.into())).is_some_and(|&layer| layer > rank)
    }

    /// Takes away attributes that other systems put into archives; Linux refuses to set them, and every runtime goes on.
    fn leave_out(&mut self, metadata: &mut Metadata) {
        metadata.xattrs.retain(|xattr| {
            let known = xattr.has_namespace();
            if !known && self.left_out.len() < MOST_LEFT_OUT {
                self.left_out.insert(xattr.name.clone());
            }
            known
        });
    }

    fn seal(&mut self, node: Node, rank: u16) {
        let info = self.info_mut(node);
        info.sealed = info.sealed.max(rank);
    }

    fn take_away(&mut self, node: Node) {
        self.writer.remove(node);
        self.last_parent = None;
    }

    fn info(&self, node: Node) -> Info {
        self.info.get(node.index()).copied().unwrap_or_default()
    }

    fn info_mut(&mut self, node: Node) -> &mut Info {
        if self.info.len() <= node.index() {
            self.info.resize(node.index() + 1, Info::default());
        }
        &mut self.info[node.index()]
    }
}

fn refused(path: &[u8], reason: &str) -> MergeError {
    MergeError::Refused { path: String::from_utf8_lossy(path).into_owned(), reason: reason.to_owned() }
}
