//! Base64 (RFC 4648 4).

use data_encoding::{BASE64, BASE64_NOPAD};

/// Encodes with padding.
pub fn encode(bytes: &[u8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes with any amount of padding: clients omit it, or add too much.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    BASE64_NOPAD.decode(text.get(..text.len() - padding)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_and_decoding_are_inverse() {
        // RFC 4648 10
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(encode(bytes.as_bytes()), text);
            for padded in [text, text.trim_end_matches('='), &format!("{text}===")] {
                assert_eq!(decode(padded.as_bytes()).unwrap(), bytes.as_bytes(), "{padded}");
            }
        }
        let all: Vec<u8> = (0..=255).collect();
        assert!(encode(&all).contains("+/"));
        assert_eq!(decode(encode(&all).as_bytes()).unwrap(), all);
    }

    #[test]
    fn invalid_base64_is_rejected() {
        for invalid in ["Z", "Zm9vY", "Zh", "Zm9", "Zm=v", "Zm 9v", "Zm9-", "Zm9_", "Zm9\u{e9}"] {
            assert_eq!(decode(invalid.as_bytes()), None, "{invalid}");
        }
    }
}
