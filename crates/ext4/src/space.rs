//! Which blocks are taken: everything up to a mark that only moves forward, but for what was given back.

use crate::layout::{BLOCKS_PER_GROUP, Layout};

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block within the file.
    pub(crate) logical: u32,
    /// Number of blocks, at most [`Extent::LONGEST`].
    pub(crate) len: u32,
    /// First block within the image.
    pub(crate) start: u64,
}

impl Extent {
    /// The most blocks of an initialised extent (Documentation/filesystems/ext4/ifork.rst, `ee_len`).
    pub(crate) const LONGEST: u32 = 32768;
}

/// Hands out blocks in ascending order, stepping over the copies of the superblock.
#[derive(Debug)]
pub(crate) struct Space {
    layout: Layout,
    /// The next block to hand out.
    mark: u64,
    /// Blocks handed out so far, those that were given back included: they are not handed out again.
    taken: u64,
    /// Runs that were given back: removed files. They stay free for the guest.
    freed: Vec<(u64, u64)>,
}

impl Space {
    pub(crate) fn new(layout: Layout) -> Self {
        Self { layout, mark: layout.reserved(0), taken: 0, freed: Vec::new() }
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The first block that was never handed out.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// Blocks handed out so far: what it takes to write the same entries again.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether more was handed out than there is.
    pub(crate) fn overflowed(&self) -> bool {
        self.mark > self.layout.blocks
    }

    /// The next run of at most `want` blocks.
    pub(crate) fn take(&mut self, want: u64) -> (u64, u64) {
        self.step_over_backup();
        let (start, len) = (self.mark, want.min(self.until_backup()));
        self.mark += len;
        self.taken += len;
        (start, len)
    }

    /// One run of exactly `len` blocks, at most a group's worth.
    pub(crate) fn take_together(&mut self, len: u64) -> u64 {
        self.step_over_backup();
        if self.until_backup() < len {
            self.freed.push((self.mark, self.until_backup()));
            self.mark += self.until_backup();
            self.step_over_backup();
        }
        let start = self.mark;
        self.mark += len;
        self.taken += len;
        start
    }

    /// Gives a run back. It is not handed out again: content is written once, in ascending order.
    pub(crate) fn free(&mut self, start: u64, len: u64) {
        self.freed.push((start, len));
    }

    /// The runs below the mark that are not in use, ascending.
    pub(crate) fn into_freed(mut self) -> Vec<(u64, u64)> {
        self.freed.sort_unstable();
        self.freed
    }

    fn step_over_backup(&mut self) {
        let group = self.mark / BLOCKS_PER_GROUP;
        if group < self.layout.groups && self.mark == self.layout.group_start(group) {
            self.mark += self.layout.reserved(group);
        }
    }

    /// Blocks up to the next copy of the superblock.
    fn until_backup(&self) -> u64 {
        let next = self.layout.backups.iter().map(|&group| self.layout.group_start(group));
        next.filter(|&start| start > self.mark).map(|start| start - self.mark).min().unwrap_or(u64::MAX / 2)
    }
}
