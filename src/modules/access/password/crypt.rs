//! bcrypt and Ulrich Drepper's SHA-crypt. The hash itself sets the cost, up to the limits here.

use data_encoding::{BitOrder, Specification};
use sha_crypt::{PasswordHashRef, PasswordVerifier, ShaCrypt};

use crate::modules::access::password::constant_time_eq;

/// log2 of the rounds of bcrypt; this cost takes minutes.
const COST_MAX: u32 = 17;
/// Rounds of SHA-crypt; this many take seconds.
const ROUNDS_MAX: u32 = 2_000_000;

/// bcrypt's base64, highest bits first.
const BCRYPT_ALPHABET: &str = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// crypt(5)'s base64, lowest bits first.
const CRYPT_ALPHABET: &str = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Crypt {
    /// The whole hash, whose rounds are within the limits.
    Sha(String),
    Bcrypt {
        cost: u32,
        salt: [u8; 16],
        digest: [u8; 23],
    },
}

impl Crypt {
    /// Parses `$id$...`; `parts` are the fields between the `$`.
    pub(super) fn parse(text: &[u8], parts: &[&[u8]]) -> Option<Self> {
        match *parts {
            [b"2a" | b"2b" | b"2y", cost, text] => {
                let cost = parse_decimal(cost).filter(|n| cost.len() == 2 && (4..=COST_MAX).contains(n))?;
                let (salt, digest) = text.split_at_checked(22)?;
                let bytes = |text| decode_base64(BCRYPT_ALPHABET, BitOrder::MostSignificantFirst, text);
                Some(Self::Bcrypt {
                    cost,
                    salt: bytes(salt)?.try_into().ok()?,
                    digest: bytes(digest)?.try_into().ok()?,
                })
            }
            [id @ (b"5" | b"6"), ref rounds @ .., salt, digest] => {
                let fits = match *rounds {
                    [] => !salt.starts_with(b"rounds="),
                    // crypt(3) writes no number below its minimum of 1000.
                    [rounds] => (1000..=ROUNDS_MAX).contains(&parse_decimal(rounds.strip_prefix(b"rounds=")?)?),
                    _ => false,
                };
                let digest = decode_base64(CRYPT_ALPHABET, BitOrder::LeastSignificantFirst, digest)?;
                let fits = fits && digest.len() == if id == b"5" { 32 } else { 64 };
                let text = String::from_utf8(text.to_vec()).ok().filter(|_| fits)?;
                PasswordHashRef::new(&text).is_ok().then_some(Self::Sha(text))
            }
            _ => None,
        }
    }

    pub(super) fn matches(&self, password: &[u8]) -> bool {
        /// bcrypt hashes the NUL that ends a password, and ignores all bytes after these.
        const KEY_BYTES_MAX: usize = 72;
        match self {
            Self::Sha(text) => ShaCrypt::default().verify_password(password, text.as_str()).is_ok(),
            Self::Bcrypt { cost, salt, digest } => {
                let mut key = [password, b"\0"].concat();
                key.truncate(KEY_BYTES_MAX);
                bcrypt::bcrypt(*cost, *salt, &key)
                    .split_last()
                    .is_some_and(|(_, computed)| constant_time_eq(computed, digest))
            }
        }
    }
}

fn parse_decimal(text: &[u8]) -> Option<u32> {
    let digits = text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn decode_base64(alphabet: &str, order: BitOrder, text: &[u8]) -> Option<Vec<u8>> {
    let mut base64 = Specification::new();
    base64.symbols.push_str(alphabet);
    base64.bit_order = order;
    base64.encoding().ok()?.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use crate::modules::access::password::tests::{assert_matches, assert_unsupported};

    /// Made by htpasswd, openssl and libxcrypt.
    #[test]
    fn every_hash_matches_its_password_and_no_other() {
        let (umlauts, many) = ("pässwort ".repeat(9), "x".repeat(90));
        assert_matches(&[
            ("$5$saltstring$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5", "password"),
            (
                "$6$saltstring$adDbXsJjcDlq2662QPgd.tkSOVmnG9Tt3oXl4HR60SusC3AGjirnDenVZp3DGwLwqy6iYKCzannhaX9DR72nN1",
                "password",
            ),
            ("$6$s$.ZBEl9liET9mKM6jGxl//vp8wOnIJwfkp.7sG2Ahu2q68bf4LasDRE6k5T5NPzLqBFx3oUbMl6xWpBsFfgm6..", ""),
            (
                "$6$rounds=1400$anotherlongsalts$\
                 rndx8ZzvHyfOzHI9Q.Y9q2D742kgd19j0GuNc74ACPn8wg7/QmFZsXB.2S2fGQErVE4ywz8jbnbkjiGn5pyGe.",
                &umlauts,
            ),
            ("$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW", "secret"),
            ("$2y$05$abcdefghijklmnopqrstuu0oImNDIy4flhldV9YqunRgBAePKmw7m", ""),
            ("$2a$04$abcdefghijklmnopqrstuubzadhGtS2zEF.gu0yd0opP6cVzb.e0i", &many),
        ]);
    }

    #[test]
    fn unsupported_and_malformed_hashes_are_rejected() {
        assert_unsupported(&[
            "$5$salt",
            "$5$rounds=1400$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=+1400$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=1400$rounds=1400$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$s_lt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$saltstring$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQz",
            "$5$saltstring$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4,dQ5",
            "$6$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=99999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=1400$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5$",
            "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIr",
            "$2b$04$abcdefghijklmnopqrst",
            "$2b$31$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$03$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2x$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$+4$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$04$abcdefghijklmnopqrstuv2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$04$abcdefghijklm*opqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
        ]);
    }
}
