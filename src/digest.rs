//! MD5 (RFC 1321) and SHA-1 (RFC 3174): what htpasswd writes, nginx's cookies and WebSockets are made of. Nothing else
//! should be.
//!
//! As loops, which take a fifth of the bytes that crates unroll them to.

/// Bytes of a SHA-1.
pub const SHA1_BYTES: usize = 20;
/// Bytes that are taken in at once.
const BLOCK_BYTES: usize = 64;
/// Where both begin.
const START: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];
/// How far MD5 turns a sum: four numbers for sixteen steps each.
const TURNS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
/// Sines of 1 to 64, without sign, as MD5 adds them.
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// The MD5 of parts that stand one behind the other.
pub fn md5(parts: &[&[u8]]) -> Vec<u8> {
    let [a, b, c, d, _] = START;
    let mut state = [a, b, c, d];
    for block in padded(parts, u64::to_le_bytes).chunks_exact(BLOCK_BYTES) {
        let words = words(block, u32::from_le_bytes);
        let [mut a, mut b, mut c, mut d] = state;
        for (step, sine) in SINES.iter().enumerate() {
            let (mixed, at) = match step / 16 {
                0 => (b & c | !b & d, step),
                1 => (d & b | !d & c, 5 * step + 1),
                2 => (b ^ c ^ d, 3 * step + 5),
                _ => (c ^ (b | !d), 7 * step),
            };
            let word = words.get(at % 16).copied().unwrap_or(0);
            let turn = TURNS.as_flattened().get(step / 16 * 4 + step % 4).copied().unwrap_or(0);
            let sum = a.wrapping_add(mixed).wrapping_add(word).wrapping_add(*sine);
            (a, b, c, d) = (d, b.wrapping_add(sum.rotate_left(turn)), b, c);
        }
        add(&mut state, &[a, b, c, d]);
    }
    state.into_iter().flat_map(u32::to_le_bytes).collect()
}

/// The SHA-1 of parts that stand one behind the other.
pub fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    let mut state = START;
    for block in padded(parts, u64::to_be_bytes).chunks_exact(BLOCK_BYTES) {
        let mut words = words(block, u32::from_be_bytes);
        for step in 16..80 {
            let mixed = [3, 8, 14, 16].iter().filter_map(|back| words.get(step - back)).fold(0, |all, word| all ^ word);
            words.push(mixed.rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (step, word) in words.iter().enumerate() {
            let (mixed, constant) = match step / 20 {
                0 => (b & c | !b & d, 0x5a82_7999),
                1 => (b ^ c ^ d, 0x6ed9_eba1),
                2 => (b & c | b & d | c & d, 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let sum = a.rotate_left(5).wrapping_add(mixed).wrapping_add(e).wrapping_add(*word).wrapping_add(constant);
            (a, b, c, d, e) = (sum, a, b.rotate_left(30), c, d);
        }
        add(&mut state, &[a, b, c, d, e]);
    }
    state.into_iter().flat_map(u32::to_be_bytes).collect()
}

/// The parts in whole blocks: a bit of 1 ends them, and the last bytes say how many bits they had.
fn padded(parts: &[&[u8]], bytes_of: fn(u64) -> [u8; 8]) -> Vec<u8> {
    let mut text = parts.concat();
    let bits = bytes_of(text.len() as u64 * 8);
    text.push(0x80);
    text.resize((text.len() + bits.len()).next_multiple_of(BLOCK_BYTES) - bits.len(), 0);
    text.extend_from_slice(&bits);
    text
}

fn words(block: &[u8], word_of: fn([u8; 4]) -> u32) -> Vec<u32> {
    block.as_chunks().0.iter().map(|bytes| word_of(*bytes)).collect()
}

fn add(state: &mut [u32], more: &[u32]) {
    state.iter_mut().zip(more).for_each(|(word, more)| *word = word.wrapping_add(*more));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Those of the RFCs, and lengths about that of a block as md5sum and sha1sum have it.
    #[test]
    fn digests_are_those_of_others() {
        let alphabet = "abcdefghijklmnopqrstuvwxyz";
        for (text, expected_md5, expected_sha1) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (alphabet, "c3fcd3d76192e4007dfb496cca67e13b", "32d10c7b8cf96570ca04ce37f2a19d84240d3a89"),
            (&"x".repeat(55), "04364420e25c512fd958a70738aa8f72", "cef734ba81a024479e09eb5a75b6ddae62e6abf1"),
            (&"x".repeat(56), "668a72d5ba17f08e62dabcafad6db14b", "901305367c259952f4e7af8323f480d59f81335b"),
            (&"x".repeat(63), "7dc2ca208106a2f703567bdff99d8981", "0ddc4e0cccd9a12850deb5abb0853a4425559fec"),
            (&"x".repeat(64), "c1bb4f81d892b2d57947682aeb252456", "bb2fa3ee7afb9f54c6dfb5d021f14b1ffe40c163"),
            (&"x".repeat(119), "ab347a5f68c8a443cfcddc633f12c24f", "4300320394f7ee239bcdce7d3b8bcee173a0cd5c"),
            (&"x".repeat(120), "fb98667f98096de92620b64f46e1c5b5", "ceb2821639c4b6dcb10bce0e522ca2e608ce056d"),
            (&"x".repeat(1000), "398533d48111e9f664b1f64cb10c4b63", "c3efa690fa3fdd2e2526853eed670538ea127638"),
        ] {
            assert_eq!(hex(&md5(&[text.as_bytes()])), expected_md5, "{text}");
            assert_eq!(hex(&sha1(&[text.as_bytes()])), expected_sha1, "{text}");
        }
        let whole = md5(&[alphabet.as_bytes()]);
        for at in 0..=alphabet.len() {
            let (one, two) = alphabet.as_bytes().split_at(at);
            assert_eq!(md5(&[one, b"", two]), whole);
        }
    }
}
