//! Layers: where their bytes are, unpacking and checking them, and keeping what was unpacked.

pub mod blob;
pub mod cache;
pub mod relay;
pub mod spool;
pub mod unpack;

use std::io;

use crate::digest::Digest;
use blob::Bytes;

/// A layer as a source delivers it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its bytes: a tar archive, plain or compressed.
    pub bytes: Bytes,
    /// Digest of these bytes, where the manifest states one.
    pub digest: Option<Digest>,
    /// Digest of the plain tar archive.
    pub diff_id: Digest,
    /// Known to be a plain tar archive, although it may not be all there yet.
    pub plain: bool,
}

/// What to say when nameless files can't be made or written.
pub(crate) fn no_room(error: &io::Error) -> String {
    format!("no room to store or unpack it (CLARATEACH_CACHE_DIR, else TMPDIR, says where): {error}")
}
