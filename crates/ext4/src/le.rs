//! Little-endian fields at fixed offsets of an on-disk structure.

/// Writes `value` at `offset` of `block`.
pub(crate) fn put16(block: &mut [u8], offset: usize, value: u16) {
    block[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes `value` at `offset` of `block`.
pub(crate) fn put32(block: &mut [u8], offset: usize, value: u32) {
    block[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

/// Writes the low half of `value` at `low` and the high half at `high`.
pub(crate) fn put64_split(block: &mut [u8], low: usize, high: usize, value: u64) {
    put32(block, low, value as u32);
    put32(block, high, (value >> 32) as u32);
}
