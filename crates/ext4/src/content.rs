//! The content of files on its way to blocks: which blocks have data, and what stands between.

use std::io::{self, Read};

use crate::layout::BLOCK_SIZE;
use crate::space::Extent;

/// Start and end in bytes of whole blocks with data, and the segments in them.
pub(crate) type Run<'a> = (u64, u64, &'a [(u64, u64)]);

/// Whether segments ascend without overlapping, up to `size`.
pub(crate) fn ascending(segments: &[(u64, u64)], size: u64) -> bool {
    let mut end = 0;
    segments.iter().all(|&(offset, len)| {
        let fits = offset >= end && offset.checked_add(len).is_some_and(|stop| stop <= size);
        end = offset.saturating_add(len);
        fits
    })
}

/// Groups segments that touch the same or neighbouring blocks.
pub(crate) fn block_runs(segments: &[(u64, u64)]) -> impl Iterator<Item = Run<'_>> {
    let mut rest = segments;
    std::iter::from_fn(move || {
        while let [(_, 0), tail @ ..] = rest {
            rest = tail;
        }
        let &(offset, len) = rest.first()?;
        let (mut end, mut count) = (offset + len, 1);
        while let Some(&(next, len)) = rest.get(count) {
            if next / BLOCK_SIZE > end.div_ceil(BLOCK_SIZE) {
                break;
            }
            end = end.max(next + len);
            count += 1;
        }
        let run = (offset, end, &rest[..count]);
        rest = &rest[count..];
        Some(run)
    })
}

/// Cuts a run of blocks into extents of the longest possible length: offset within the run, and length.
pub(crate) fn pieces(len: u64) -> impl Iterator<Item = (u64, u32)> {
    let longest = u64::from(Extent::LONGEST);
    (0..len.div_ceil(longest)).map(move |i| (i * longest, (len - i * longest).min(longest) as u32))
}

/// The bytes of a run: content where a segment is, zeros elsewhere.
pub(crate) struct Padded<'a> {
    content: &'a mut dyn Read,
    segments: &'a [(u64, u64)],
    at: u64,
}

impl<'a> Padded<'a> {
    /// Starts at a byte of the file.
    pub(crate) fn new(content: &'a mut dyn Read, segments: &'a [(u64, u64)], at: u64) -> Self {
        Self { content, segments, at }
    }

    /// The byte of the file that is next.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Fills a buffer, which must not reach beyond the run.
    pub(crate) fn read_exact(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            while let [(offset, len), tail @ ..] = self.segments
                && self.at >= offset + len
            {
                self.segments = tail;
            }
            let whole = buffer.len() as u64;
            let (data, len) = match self.segments.first() {
                Some(&(offset, _)) if self.at < offset => (false, whole.min(offset - self.at)),
                Some(&(offset, len)) => (true, whole.min(offset + len - self.at)),
                None => (false, whole),
            };
            let (piece, rest) = buffer.split_at_mut(len as usize);
            if data {
                self.content.read_exact(piece)?
            } else {
                piece.fill(0)
            }
            self.at += len;
            buffer = rest;
        }
        Ok(())
    }
}
