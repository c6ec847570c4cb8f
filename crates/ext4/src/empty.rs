//! Empty filesystems: the writable disk of a seat.

use std::fs::OpenOptions;
use std::path::Path;

use crate::error::{Error, Result};
use crate::options::{Options, Summary};
use crate::writer::Writer;

/// Journal of an empty disk, in bytes: enough for one seat, and it takes no space until it is used.
pub const EMPTY_JOURNAL: u64 = 32 << 20;

/// Creates an image at `path` that holds nothing but a root directory and `lost+found`.
///
/// The file is sparse: 10 GiB take less than 256 KiB on any host filesystem with holes, and a few hundred microseconds.
/// It is not synced: a disk that a power cut takes was never handed out.
///
/// # Errors
/// [`Error::Image`] if `path` exists or can't be created or written; [`Error::Options`].
pub fn write_empty(path: &Path, options: Options) -> Result<Summary> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .map_err(Error::image("creating the file"))?;
    let written = Writer::new(file, options).and_then(Writer::finish);
    if written.is_err() {
        // Best effort: the error that is returned is the one that matters.
        let _ = std::fs::remove_file(path);
    }
    written.map(|(_, summary)| summary)
}
