//! What a microVM needs that a container image lacks: an init, name resolution, mount points, a learner.
//!
//! What the image has of its own is left as it is; everything added is reported.

mod files;
mod init;
mod user;

use clarateach_ext4::{Error as Ext4Error, FileMap, Kind, Metadata, Node, Timestamp, Writer};

pub use init::{Init, InitError};

use crate::merge::KeptFiles;

/// Where ClaraTeach's own init goes.
pub const OWN_INIT: &str = "/sbin/clarateach-init";

/// Adds what is missing. `created` is the time, in seconds since 1970, that everything added gets.
#[derive(Debug)]
pub struct Injection<'a> {
    writer: &'a mut Writer,
    kept: KeptFiles,
    created: i64,
    /// What was done, a line each.
    said: Vec<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// What will run as `/sbin/init`, in words; `None` if the image has none.
    pub init: Option<String>,
    /// What was added or left, a line each.
    pub said: Vec<String>,
}

/// Adds init, network files, mount points and the learner.
///
/// # Errors
/// If the image can't take an entry: the only way to get there is to run out of names.
pub fn inject(
    writer: &mut Writer,
    kept: KeptFiles,
    created: i64,
    init: &Init,
) -> Result<Injected, Ext4Error> {
    let mut injection = Injection { writer, kept, created, said: Vec::new() };
    injection.mount_points()?;
    let init = injection.init(init)?;
    injection.network_files()?;
    injection.learner()?;
    Ok(Injected { init, said: injection.said })
}

/// The most symbolic links on the way to a directory, as in Linux.
const MOST_LINKS: usize = 40;

/// Where a path leads inside the image.
enum Place {
    /// There is something.
    There(Node),
    /// There is nothing of this name in a directory.
    Free(Node, Vec<u8>),
    /// A directory on the way is missing or none, or the links go round in circles.
    Nowhere,
}

impl Injection<'_> {
    fn say(&mut self, line: impl Into<String>) {
        self.said.push(line.into());
    }

    fn metadata(&self, mode: u16) -> Metadata {
        Metadata { mtime: Timestamp::from_seconds(self.created), ..Metadata::root(mode) }
    }

    fn file(
        &mut self,
        parent: Node,
        name: &[u8],
        metadata: &Metadata,
        content: &[u8],
    ) -> Result<Node, Ext4Error> {
        let map = FileMap::dense(content.len() as u64);
        self.writer.file(parent, name, metadata, &map, &mut &content[..])
    }

    /// Follows a path inside the image, symbolic links included, never out of it.
    fn resolve(&mut self, path: &[u8], follow_last: bool) -> Result<Place, Ext4Error> {
        let mut at = Node::ROOT;
        let mut rest: Vec<Vec<u8>> = parts(path).rev().map(<[u8]>::to_vec).collect();
        let mut links = 0;
        while let Some(part) = rest.pop() {
            if part == b".." {
                at = self.writer.parent(at);
                continue;
            }
            let Some(node) = self.writer.lookup(at, &part) else {
                return Ok(if rest.is_empty() { Place::Free(at, part) } else { Place::Nowhere });
            };
            match self.writer.kind(node) {
                Kind::Directory => at = node,
                Kind::Symlink if !rest.is_empty() || follow_last => {
                    links += 1;
                    let target = self.writer.symlink_target(node)?.filter(|_| links <= MOST_LINKS);
                    let Some(target) = target else { return Ok(Place::Nowhere) };
                    if target.starts_with(b"/") {
                        at = Node::ROOT;
                    }
                    rest.extend(parts(&target).rev().map(<[u8]>::to_vec));
                }
                _ if rest.is_empty() => return Ok(Place::There(node)),
                _ => return Ok(Place::Nowhere),
            }
        }
        Ok(Place::There(at))
    }

    /// The directory at a path, made if it is missing, along with those above it. `None` if something else is in the way.
    fn directory(&mut self, path: &[u8], metadata: &Metadata) -> Result<Option<(Node, bool)>, Ext4Error> {
        let all: Vec<_> = parts(path).collect();
        let mut made = false;
        let mut at = Node::ROOT;
        for depth in 1..=all.len() {
            let so_far = all[..depth].join(&b'/');
            at = match self.resolve(&so_far, true)? {
                Place::There(node) if self.writer.kind(node) == Kind::Directory => node,
                Place::Free(parent, name) => {
                    made = true;
                    let own = if depth == all.len() { metadata.clone() } else { self.metadata(0o755) };
                    self.writer.directory(parent, &name, &own)?
                }
                _ => return Ok(None),
            };
        }
        Ok(Some((at, made)))
    }
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".")
}
