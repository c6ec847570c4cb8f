//! Hard links while merging: the target may be later in the layer, in a lower layer, or hidden by a higher one.

use std::collections::{BTreeMap, HashMap, HashSet};

use clarateach_ext4::{Kind, Node};

use super::{Merge, MergeError, path, refused};
use crate::tar::{Entries, EntryKind, ReadAt};

/// Hard links to hard links are followed this far.
const LONGEST_CHAIN: usize = 40;

/// A link whose target has not been met yet.
#[derive(Debug)]
pub(super) struct Pending {
    /// Where the link goes.
    parent: Node,
    name: Box<[u8]>,
    /// Its path and its target as they stand in the archive.
    pub(super) path: Vec<u8>,
    pub(super) target: Vec<u8>,
}

impl Merge {
    /// Adds a hard link, or notes it down until its target is met.
    pub(super) fn hard_link(
        &mut self,
        rank: u16,
        parent: Node,
        name: &[u8],
        path: &[u8],
        target: &[u8],
    ) -> Result<(), MergeError> {
        let parts =
            path::components(target).map_err(|reason| refused(path, &format!("a hard link to {reason}")))?;
        if let Some(node) = self.of_layer(rank, &parts) {
            return self.link(rank, parent, name, node);
        }
        // Lower layers must not take the place meanwhile.
        self.gone.entry((parent, name.into())).or_insert(rank);
        let (path, target) = (path.to_vec(), target.to_vec());
        self.pending.push(Pending { parent, name: name.into(), path, target });
        Ok(())
    }

    /// After a layer: links to what came later in it, or to what it has under a name that is hidden.
    pub(super) fn settle_links(&mut self, rank: u16, source: &dyn ReadAt) -> Result<(), MergeError> {
        let links = self.standing();
        let among_them =
            links.iter().map(|link| (path::joined(&link.path), path::joined(&link.target))).collect();
        let mut left = self.link_visible(rank, links, &among_them)?;
        if !left.is_empty() {
            left = self.link_visible(rank, left, &all_links(source)?)?;
        }
        if !left.is_empty() {
            left = self.link_hidden(rank, source, left)?;
        }
        self.pending = left;
        Ok(())
    }

    /// The pending links whose place is still free. Of several for one place the last counts.
    fn standing(&mut self) -> Vec<Pending> {
        let mut seen = HashSet::new();
        let mut links = std::mem::take(&mut self.pending);
        links.reverse();
        links.retain(|link| {
            self.writer.contains(link.parent)
                && self.writer.lookup(link.parent, &link.name).is_none()
                && seen.insert((link.parent, link.name.clone()))
        });
        links.reverse();
        links
    }

    /// Links to what this layer shows, be it by way of further links; what is left points to where those lead.
    fn link_visible(
        &mut self,
        rank: u16,
        links: Vec<Pending>,
        further: &HashMap<Vec<u8>, Vec<u8>>,
    ) -> Result<Vec<Pending>, MergeError> {
        let mut left = Vec::new();
        for mut link in links {
            let mut steps = 0;
            let found = loop {
                let parts = path::components(&link.target).map_err(|reason| refused(&link.path, reason))?;
                if let Some(node) = self.of_layer(rank, &parts) {
                    break Some(node);
                }
                steps += 1;
                match further.get(&parts.join(&b'/')).filter(|_| steps < LONGEST_CHAIN) {
                    Some(next) => link.target.clone_from(next),
                    None => break None,
                }
            };
            match found {
                Some(node) => self.link(rank, link.parent, &link.name, node)?,
                None => left.push(link),
            }
        }
        Ok(left)
    }

    /// Goes through the layer again for targets that a higher layer hides: the link keeps their content alive.
    fn link_hidden(
        &mut self,
        rank: u16,
        source: &dyn ReadAt,
        links: Vec<Pending>,
    ) -> Result<Vec<Pending>, MergeError> {
        let mut wanted: BTreeMap<Vec<u8>, Vec<Pending>> = BTreeMap::new();
        for link in links {
            wanted.entry(path::joined(&link.target)).or_default().push(link);
        }
        let mut entries = Entries::new(source);
        while !wanted.is_empty()
            && let Some(mut entry) = entries.next()?
        {
            if matches!(entry.kind, EntryKind::Directory | EntryKind::HardLink(_)) {
                continue;
            }
            let Some(links) = wanted.remove(&path::joined(&entry.path)) else { continue };
            self.leave_out(&mut entry.metadata);
            let mut first = None;
            for link in links {
                match first {
                    None => first = Some(self.add(rank, link.parent, &link.name, &entry, &mut entries)?),
                    Some(node) => self.link(rank, link.parent, &link.name, node)?,
                }
            }
        }
        Ok(wanted.into_values().flatten().collect())
    }

    fn link(&mut self, rank: u16, parent: Node, name: &[u8], target: Node) -> Result<(), MergeError> {
        let node = self.writer.link(parent, name, target)?;
        let info = self.info_mut(node);
        (info.origin, info.described) = (rank, rank);
        self.counts.added += 1;
        Ok(())
    }

    /// What is at a path, if this layer put it there and it can be linked to.
    fn of_layer(&self, rank: u16, parts: &[&[u8]]) -> Option<Node> {
        let node = parts.iter().try_fold(Node::ROOT, |at, part| self.writer.lookup(at, part))?;
        (self.info(node).origin == rank && self.writer.kind(node) != Kind::Directory).then_some(node)
    }
}

/// All hard links of a layer, those included that a higher one hides: path and target.
fn all_links(source: &dyn ReadAt) -> Result<HashMap<Vec<u8>, Vec<u8>>, MergeError> {
    let mut links = HashMap::new();
    let mut entries = Entries::new(source);
    while let Some(entry) = entries.next()? {
        let path = path::joined(&entry.path);
        match entry.kind {
            EntryKind::HardLink(target) => links.insert(path, path::joined(&target)),
            _ => links.remove(&path),
        };
    }
    Ok(links)
}
