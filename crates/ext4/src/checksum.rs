//! CRC32C as ext4 uses it: running, starting from all ones, never inverted.
//!
//! Source: Linux, Documentation/filesystems/ext4/checksums.rst.

/// Continues `crc` over `bytes`.
pub(crate) fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    // The crate inverts on the way in and out, which ext4 does not.
    !crc32c::crc32c_append(!crc, bytes)
}

/// The seed of every metadata checksum of a filesystem.
pub(crate) fn filesystem_seed(uuid: &[u8; 16]) -> u32 {
    crc32c(!0, uuid)
}

/// The seed of the checksums of one inode and of the blocks that belong to it. Generations are always zero here.
pub(crate) fn inode_seed(filesystem_seed: u32, inode: u32) -> u32 {
    crc32c(crc32c(filesystem_seed, &inode.to_le_bytes()), &0u32.to_le_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn matches_the_published_check_value_before_inversion() {
        assert_eq!(!super::crc32c(!0, b"123456789"), 0xe306_9283);
    }
}
