//! Base 64 (RFC 4648 4). A crate for all such codes takes ten times the bytes.

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// With padding.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0, |group, byte| group << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let digit = DIGITS.get(group >> (18 - 6 * at) & 63).filter(|_| at <= chunk.len());
            text.push(char::from(*digit.unwrap_or(&b'=')));
        }
    }
    text
}

/// Who leaves out the padding, or adds some, is understood as well.
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take_while(|b| **b == b'=').count();
    let digits = text.get(..text.len() - padding)?;
    let mut bytes = Vec::with_capacity(digits.len().div_ceil(4) * 3);
    for chunk in digits.chunks(4) {
        let mut group = 0;
        for digit in chunk {
            group = group << 6 | value(*digit)?;
        }
        group <<= 6 * (4 - chunk.len());
        let [_, all @ ..] = group.to_be_bytes();
        let (whole, spare) = all.split_at(chunk.len() - 1);
        // A digit alone is no byte, and bits that are left over are none of ours.
        if whole.is_empty() || spare.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_text_are_the_same() {
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
    fn what_is_no_text_of_bytes_is_refused() {
        for odd in ["Z", "Zm9vY", "Zh", "Zm9", "Zm=v", "Zm 9v", "Zm9-", "Zm9_", "Zm9\u{e9}"] {
            assert_eq!(decode(odd.as_bytes()), None, "{odd}");
        }
    }
}
