//! Makes the checksum of every block right, so that what is in a header matters and not its sum.

/// A copy of `data` after its first byte, mended if that byte is odd.
pub fn checksums(data: &[u8]) -> Vec<u8> {
    let Some((&flag, rest)) = data.split_first() else { return Vec::new() };
    let mut mended = rest.to_vec();
    if flag & 1 == 1 {
        for block in mended.chunks_exact_mut(512).filter(|block| block.iter().any(|&byte| byte != 0)) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    mended
}
