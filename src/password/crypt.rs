//! bcrypt, and Ulrich Drepper's SHA-crypt: they take as long as whoever keeps the password wants.

use blowfish::Blowfish;
use sha2::{Digest, Sha256, Sha512};

use super::{Hash, repeated, rounds, same, write_crypt64};

/// log2 of the rounds of a bcrypt: this many take minutes.
const COST_MAX: u32 = 17;
/// Rounds of a SHA-crypt: these take seconds.
const ROUNDS_MAX: u32 = 2_000_000;

/// A password as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Crypt {
    Sha { is_long: bool, rounds: u32, salt: Vec<u8>, digest: Vec<u8> },
    Bcrypt { cost: u32, salt: [u8; 16], digest: [u8; 23] },
}

impl Crypt {
    /// Reads what stood between `$`.
    pub(super) fn parse(parts: &[&[u8]]) -> Option<Self> {
        match *parts {
            [b"2a" | b"2b" | b"2y", cost, text] => {
                let (salt, digest) = text.split_at_checked(22)?;
                let cost = decimal(cost).filter(|n| cost.len() == 2 && (4..=COST_MAX).contains(n))?;
                Some(Self::Bcrypt { cost, salt: from_bcrypt_text(salt)?, digest: from_bcrypt_text(digest)? })
            }
            [b"5", ref rest @ ..] => Self::sha(rest, false),
            [b"6", ref rest @ ..] => Self::sha(rest, true),
            _ => None,
        }
    }

    /// `SALT$DIGEST` or `rounds=COUNT$SALT$DIGEST`
    fn sha(parts: &[&[u8]], is_long: bool) -> Option<Self> {
        let (rounds, salt, digest) = match *parts {
            [salt, digest] if !salt.starts_with(b"rounds=") => (5000, salt, digest),
            [count, salt, digest] => (decimal(count.strip_prefix(b"rounds=")?)?.max(1000), salt, digest),
            _ => return None,
        };
        let salt = salt.get(..16).unwrap_or(salt);
        let fits = rounds <= ROUNDS_MAX && digest.len() == if is_long { 86 } else { 43 };
        fits.then(|| Self::Sha { is_long, rounds, salt: salt.to_vec(), digest: digest.to_vec() })
    }

    /// Whether `password` is the one that is kept.
    pub(super) fn is(&self, password: &[u8]) -> bool {
        match self {
            Self::Sha { is_long, rounds, salt, digest } => {
                let (hash, turn): (Hash, _) =
                    if *is_long { (hash::<Sha512>, [1, 2, 0]) } else { (hash::<Sha256>, [2, 0, 1]) };
                same(&sha_text(&sha_crypt(hash, password, salt, *rounds), turn), digest)
            }
            Self::Bcrypt { cost, salt, digest } => same(&bcrypt(password, *cost, salt), digest),
        }
    }
}

fn decimal(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn hash<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
}

/// The digest of a SHA-crypt.
fn sha_crypt(hash: Hash, password: &[u8], salt: &[u8], count: u32) -> Vec<u8> {
    let inner = hash(&[password, salt, password]);
    let mut first = [password, salt, &repeated(&inner, password.len())].concat();
    let mut bits = password.len();
    while bits > 0 {
        first.extend_from_slice(if bits % 2 == 1 { &inner } else { password });
        bits /= 2;
    }
    let first = hash(&[&first]);
    let times = 16 + usize::from(first.first().copied().unwrap_or(0));
    let of_password = hash(&vec![password; password.len()]);
    let of_salt = hash(&vec![salt; times]);
    let (password, salt) = (repeated(&of_password, password.len()), repeated(&of_salt, salt.len()));
    rounds(hash, first, count, &password, &salt)
}

/// The text of a SHA-crypt: three bytes that lie a third of it apart, next time one further and with places changed.
fn sha_text(digest: &[u8], turn: [usize; 3]) -> Vec<u8> {
    let third = digest.len() / 3;
    let byte = |at: usize| digest.get(at).copied().unwrap_or(0);
    let mut at = [0, third, 2 * third];
    let mut text = Vec::with_capacity(86);
    for _ in 0..third {
        write_crypt64(at.map(byte), 4, &mut text);
        at = turn.map(|place| at.get(place).map_or(0, |at| at + 1));
    }
    match digest.len() % 3 {
        2 => write_crypt64([0, byte(3 * third + 1), byte(3 * third)], 3, &mut text),
        _ => write_crypt64([0, 0, byte(3 * third)], 2, &mut text),
    }
    text
}

/// bcrypt's own base 64: the highest bits come first, and it has another order of letters.
fn from_bcrypt_text<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    const LETTERS: &[u8; 64] = b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let (mut bits, mut have) = (0u32, 0);
    let mut out = Vec::with_capacity(N + 1);
    for letter in text {
        bits = bits << 6 | LETTERS.iter().position(|known| known == letter)? as u32;
        have += 6;
        if have >= 8 {
            have -= 8;
            out.push((bits >> have) as u8);
        }
    }
    out.try_into().ok()
}

/// bcrypt of a password and the NUL behind it.
fn bcrypt(password: &[u8], cost: u32, salt: &[u8; 16]) -> [u8; 23] {
    const KEY_BYTES_MAX: usize = 72;
    let mut key = [password, b"\0"].concat();
    key.truncate(KEY_BYTES_MAX);
    let mut state = <Blowfish>::bc_init_state();
    state.salted_expand_key(salt, &key);
    for _ in 0..1u32 << cost {
        state.bc_expand_key(&key);
        state.bc_expand_key(salt);
    }
    let mut digest = [0; 23];
    let texts: [[u32; 2]; 3] = [*b"OrpheanB", *b"eholderS", *b"cryDoubt"].map(|text| {
        let [a, b, c, d, e, f, g, h] = text;
        (0..64).fold([u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h])], |text, _| {
            state.bc_encrypt(text)
        })
    });
    let bytes = texts.into_iter().flatten().flat_map(u32::to_be_bytes);
    digest.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    digest
}

#[cfg(test)]
mod tests {
    use super::super::tests::{verify, verify_none};

    /// Made by htpasswd, openssl and libxcrypt.
    #[test]
    fn every_form_knows_its_password_and_no_other() {
        let (umlauts, many) = ("pässwort ".repeat(9), "x".repeat(90));
        verify(&[
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
    fn what_is_not_understood_is_nobodys_password() {
        verify_none(&[
            "$5$salt",
            "$5$rounds=1400$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=99999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=1400$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5$",
            "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIr",
            "$2b$04$abcdefghijklmnopqrst",
            "$2b$31$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$03$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2x$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$04$abcdefghijklm*opqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
        ]);
    }
}
