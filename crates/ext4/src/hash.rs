//! The hash that orders a directory's index: half MD4 over the name, bytes taken as unsigned.
//!
//! Source: Linux, fs/ext4/hash.c (`half_md4_transform`, `str2hashbuf_unsigned`, `__ext4fs_dirhash`).

/// `EXT4_HTREE_EOF_32BIT << 1`: a hash that means "past the end" and is never given to a name.
const END: u32 = 0x7fff_ffff << 1;

/// The major hash of `name`, its lowest bit clear.
pub(crate) fn half_md4(seed: &[u32; 4], name: &[u8]) -> u32 {
    let mut state =
        if *seed == [0; 4] { [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476] } else { *seed };
    let mut rest = name;
    loop {
        let words = pack(rest);
        transform(&mut state, &words);
        if rest.len() <= 32 {
            break;
        }
        rest = &rest[32..];
    }
    let hash = state[1] & !1;
    if hash == END { END - 2 } else { hash }
}

/// Up to 32 bytes as eight words, filled up with the length of what is left.
fn pack(rest: &[u8]) -> [u32; 8] {
    let len = rest.len() as u32;
    let pad = len & 0xff | (len & 0xff) << 8;
    let pad = pad | pad << 16;
    let mut words = [pad; 8];
    let taken = &rest[..rest.len().min(32)];
    for (word, chunk) in words.iter_mut().zip(taken.chunks(4)) {
        for &byte in chunk {
            *word = u32::from(byte).wrapping_add(*word << 8);
        }
    }
    words
}

fn transform(state: &mut [u32; 4], words: &[u32; 8]) {
    const K2: u32 = 0o13240474631;
    const K3: u32 = 0o15666365641;
    const ORDER: [[usize; 8]; 3] =
        [[0, 1, 2, 3, 4, 5, 6, 7], [1, 3, 5, 7, 0, 2, 4, 6], [3, 7, 2, 6, 1, 5, 0, 4]];
    const SHIFTS: [[u32; 4]; 3] = [[3, 7, 11, 19], [3, 5, 9, 13], [3, 9, 11, 15]];
    let mix: [fn(u32, u32, u32) -> u32; 3] =
        [|x, y, z| z ^ (x & (y ^ z)), |x, y, z| (x & y).wrapping_add((x ^ y) & z), |x, y, z| x ^ y ^ z];
    let [mut a, mut b, mut c, mut d] = *state;
    for round in 0..3 {
        let constant = [0, K2, K3][round];
        for step in 0..8 {
            let sum = a
                .wrapping_add(mix[round](b, c, d))
                .wrapping_add(words[ORDER[round][step]])
                .wrapping_add(constant)
                .rotate_left(SHIFTS[round][step % 4]);
            (a, b, c, d) = (d, sum, b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}
