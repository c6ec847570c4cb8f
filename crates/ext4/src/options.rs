//! What the caller decides about a filesystem.

use sha2::{Digest, Sha256};

/// What a filesystem is to be. Equal options and equal entries give equal bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Size of the filesystem and of the image file in bytes.
    pub size: u64,
    /// The filesystem's UUID.
    pub uuid: [u8; 16],
    /// Seed of the directory hashes.
    pub hash_seed: [u8; 16],
    /// Volume label, at most 16 bytes.
    pub label: Vec<u8>,
    /// Time of creation in seconds since 1970, as it stands in the superblock.
    pub created: u32,
    /// Size of the journal in bytes, a multiple of 4096 from 4 MiB to 128 MiB; `None` for a filesystem without one.
    pub journal: Option<u64>,
}

impl Options {
    /// A filesystem of `size` bytes without journal and label, its UUID and hash seed derived from `seed`.
    pub fn new(size: u64, seed: &[u8]) -> Self {
        let digest = Sha256::new_with_prefix(b"clarateach-ext4\0").chain_update(seed).finalize();
        let mut uuid: [u8; 16] = std::array::from_fn(|i| digest[i]);
        let hash_seed = std::array::from_fn(|i| digest[16 + i]);
        // Version 8 and the RFC 9562 variant: a UUID whose other bits are the maker's affair.
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        Self { size, uuid, hash_seed, label: Vec::new(), created: 0, journal: None }
    }

    /// The hash seed as the words that the hash starts from.
    pub(crate) fn hash_words(&self) -> [u32; 4] {
        let (words, _) = self.hash_seed.as_chunks::<4>();
        std::array::from_fn(|i| u32::from_le_bytes(words[i]))
    }
}

/// What an image holds, once it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    /// Size of the filesystem in bytes.
    pub size: u64,
    /// Bytes in use, metadata included.
    pub used: u64,
    /// Inodes in all.
    pub inodes: u64,
    /// Inodes in use, the reserved ones included.
    pub inodes_used: u64,
}
