//! MD5 and SHA-1, for htpasswd, nginx's cookies and the WebSocket handshake. Nothing new should use them.

use md5::Md5;
use sha1::{Digest, Sha1};

/// Bytes of a SHA-1 digest.
pub const SHA1_BYTES: usize = 20;

/// Returns the MD5 digest of the concatenated parts.
pub fn md5(parts: &[&[u8]]) -> Vec<u8> {
    digest::<Md5>(parts)
}

/// Returns the SHA-1 digest of the concatenated parts.
pub fn sha1(parts: &[&[u8]]) -> Vec<u8> {
    digest::<Sha1>(parts)
}

fn digest<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(D::new(), |digest, part| digest.chain_update(part)).finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Test vectors of the RFCs, and lengths around the block size (expected values from md5sum and sha1sum).
    #[test]
    fn digests_match_test_vectors() {
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
