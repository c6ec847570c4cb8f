//! Sparse maps in the four forms GNU tar has used.

use super::header::number;
use super::pax::{PaxSparse, decimal};

/// The most runs of one sparse file that are believed.
pub(super) const MOST_RUNS: usize = 1 << 20;

/// Pairs of an old GNU header or of one of its extension blocks; an empty field ends the list.
pub(super) fn old_pairs(field: &[u8], map: &mut Vec<(u64, u64)>) -> Result<(), String> {
    for pair in field.chunks_exact(24) {
        if pair[0] == 0 || map.len() >= MOST_RUNS {
            break;
        }
        let value = |field: &[u8]| number(field).and_then(|n| u64::try_from(n).ok());
        let (Some(offset), Some(len)) = (value(&pair[..12]), value(&pair[12..])) else {
            return Err("a sparse map with an unreadable number".to_owned());
        };
        map.push((offset, len));
    }
    Ok(())
}

/// The map of versions 0.0 and 0.1, which is in the PAX header.
pub(super) fn from_header(sparse: &PaxSparse) -> Result<Option<Vec<(u64, u64)>>, String> {
    let Some(map) = &sparse.map else { return Ok(None) };
    let (pairs, rest) = map.as_chunks::<2>();
    if !rest.is_empty() || pairs.len() > MOST_RUNS {
        return Err("a sparse map with a wrong number of fields".to_owned());
    }
    Ok(Some(pairs.iter().map(|&[offset, len]| (offset, len)).collect()))
}

/// The map of version 1.0, which precedes the data: a count and then numbers, each on a line of its own.
///
/// `next_block` delivers the blocks of 512 bytes one after the other.
pub(super) fn from_data<E: From<String>>(
    mut next_block: impl FnMut() -> Result<[u8; 512], E>,
) -> Result<Vec<(u64, u64)>, E> {
    let mut numbers = Vec::new();
    let mut wanted = 1;
    let mut digits: Vec<u8> = Vec::new();
    while numbers.len() < wanted {
        for byte in next_block()? {
            if byte != b'\n' {
                digits.push(byte);
                if digits.len() > 20 {
                    return Err("a sparse map with an unreadable number".to_owned().into());
                }
                continue;
            }
            let value = decimal(&digits)?.ok_or("a sparse map with an empty line".to_owned())?;
            digits.clear();
            if numbers.is_empty() {
                let runs = usize::try_from(value).ok().filter(|&runs| runs <= MOST_RUNS);
                wanted = 1 + 2 * runs.ok_or("a sparse map with too many runs".to_owned())?;
            }
            numbers.push(value);
            if numbers.len() == wanted {
                break;
            }
        }
    }
    let (pairs, _) = numbers[1..].as_chunks::<2>();
    Ok(pairs.iter().map(|&[offset, len]| (offset, len)).collect())
}
