//! The image file: sequential blocks are gathered and written in large pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::layout::BLOCK_SIZE;

const BUFFER: usize = 512 * 1024;
const BLOCK: usize = BLOCK_SIZE as usize;

/// A sparse image file with a write buffer. Once `discard` is called nothing is written any more.
#[derive(Debug)]
pub(crate) struct Image {
    file: File,
    buffer: Box<[u8]>,
    /// Bytes in the buffer, and where in the file they belong.
    filled: usize,
    offset: u64,
    discarding: bool,
}

impl Image {
    pub(crate) fn new(file: File) -> Self {
        Self { file, buffer: vec![0; BUFFER].into(), filled: 0, offset: 0, discarding: false }
    }

    /// Makes the file exactly `size` bytes long and all holes.
    pub(crate) fn clear(&mut self, size: u64) -> Result<()> {
        self.file.set_len(0).and_then(|()| self.file.set_len(size)).map_err(Error::image("setting its size"))
    }

    /// From now on, writes are forgotten: the content turned out not to fit and is only counted.
    pub(crate) fn discard(&mut self) {
        self.discarding = true;
        self.filled = 0;
    }

    pub(crate) fn discarding(&self) -> bool {
        self.discarding
    }

    /// Up to `want` bytes of buffer that belong at `offset` of the image, to be filled and then `advance`d over.
    pub(crate) fn space(&mut self, offset: u64, want: u64) -> Result<&mut [u8]> {
        if self.offset + self.filled as u64 != offset || self.filled == BUFFER {
            self.flush()?;
            self.offset = offset;
        }
        let room = (BUFFER - self.filled).min(usize::try_from(want).unwrap_or(BUFFER));
        Ok(&mut self.buffer[self.filled..self.filled + room])
    }

    pub(crate) fn advance(&mut self, len: usize) {
        self.filled += len;
    }

    /// Writes one block or several.
    pub(crate) fn write(&mut self, block: u64, bytes: &[u8]) -> Result<()> {
        let mut offset = block * BLOCK_SIZE;
        let mut rest = bytes;
        while !rest.is_empty() {
            let space = self.space(offset, rest.len() as u64)?;
            let len = space.len();
            space.copy_from_slice(&rest[..len]);
            self.advance(len);
            offset += len as u64;
            rest = &rest[len..];
        }
        Ok(())
    }

    /// Zeroes up to the next block border at or after `offset`; the number of bytes that took.
    pub(crate) fn pad(&mut self, offset: u64) -> Result<()> {
        let len = offset.next_multiple_of(BLOCK_SIZE) - offset;
        if len > 0 {
            // Whole blocks were asked for, and the buffer holds whole blocks: the rest of this one is there.
            let space = self.space(offset, len)?;
            space.fill(0);
            self.advance(len as usize);
        }
        Ok(())
    }

    /// Reads one block back, which must not have been discarded.
    pub(crate) fn read(&mut self, block: u64) -> Result<[u8; BLOCK]> {
        self.flush()?;
        let mut bytes = [0; BLOCK];
        self.file
            .read_exact_at(&mut bytes, block * BLOCK_SIZE)
            .map_err(Error::image("reading a block back"))?;
        Ok(bytes)
    }

    /// Writes what is gathered.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if !self.discarding && filled > 0 {
            write_at(&self.file, &self.buffer[..filled], self.offset)
                .map_err(Error::image("writing blocks"))?;
        }
        self.offset += filled as u64;
        Ok(())
    }

    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}
