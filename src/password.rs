//! Passwords as a user file keeps them, and whether one is right: `{PLAIN}`, `{SHA}`, `{SSHA}`, and of crypt(5) the forms
//! `$apr1$`, `$1$`, `$2a$`/`$2b$`/`$2y$` (bcrypt), `$5$` and `$6$` (SHA-crypt).
//!
//! The old DES form is none of them: of its passwords eight letters count, and they are found in hours.

use blowfish::Blowfish;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512};

use crate::base64;

/// Bytes of a password that are looked at; longer ones are wrong. crypt(3) takes no more.
pub const BYTES_MAX: usize = 512;
/// log2 of the rounds of a bcrypt: this many take minutes.
const COST_MAX: u32 = 17;
/// Rounds of a SHA-crypt: these take seconds.
const ROUNDS_MAX: u32 = 2_000_000;
const SHA1_BYTES: usize = 20;

/// A password as it is kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Stored<'f> {
    form: Form<'f>,
}

#[derive(Debug, PartialEq, Eq)]
enum Form<'f> {
    Plain(&'f [u8]),
    Sha1 { digest: Vec<u8>, salt: Vec<u8> },
    Md5 { magic: &'static [u8], salt: &'f [u8], digest: &'f [u8] },
    Sha256 { rounds: u32, salt: &'f [u8], digest: &'f [u8] },
    Sha512 { rounds: u32, salt: &'f [u8], digest: &'f [u8] },
    Bcrypt { cost: u32, salt: [u8; 16], digest: [u8; 23] },
}

impl<'f> Stored<'f> {
    /// Reads the second column of a user file. `None`: a form that is not known, or that is broken.
    pub fn parse(text: &'f [u8]) -> Option<Self> {
        let form = if let Some(plain) = text.strip_prefix(b"{PLAIN}") {
            Form::Plain(plain)
        } else if let Some(code) = text.strip_prefix(b"{SHA}") {
            let digest = base64::decode(code).filter(|digest| digest.len() == SHA1_BYTES)?;
            Form::Sha1 { digest, salt: Vec::new() }
        } else if let Some(code) = text.strip_prefix(b"{SSHA}") {
            let mut digest = base64::decode(code).filter(|digest| digest.len() >= SHA1_BYTES)?;
            let salt = digest.split_off(SHA1_BYTES);
            Form::Sha1 { digest, salt }
        } else {
            Self::crypt(text)?
        };
        Some(Self { form })
    }

    /// `$id$...`
    fn crypt(text: &'f [u8]) -> Option<Form<'f>> {
        let mut parts = text.strip_prefix(b"$")?.split(|b| *b == b'$');
        let id = parts.next()?;
        let mut next = parts.next()?;
        if matches!(id, b"2a" | b"2b" | b"2y") {
            let (salt, digest) = parts.next()?.split_at_checked(22)?;
            let cost = decimal(next).filter(|cost| next.len() == 2 && (4..=COST_MAX).contains(cost))?;
            let (salt, digest) = (from_bcrypt_text(salt)?, from_bcrypt_text(digest)?);
            return parts.next().is_none().then_some(Form::Bcrypt { cost, salt, digest });
        }
        let mut rounds = 5000;
        if matches!(id, b"5" | b"6")
            && let Some(count) = next.strip_prefix(b"rounds=")
        {
            rounds = decimal(count)?.max(1000);
            next = parts.next()?;
        }
        let most = if matches!(id, b"5" | b"6") { 16 } else { 8 };
        let (salt, digest) = (next.get(..most).unwrap_or(next), parts.next()?);
        let form = match (id, digest.len()) {
            (b"apr1", 22) => Form::Md5 { magic: b"$apr1$", salt, digest },
            (b"1", 22) => Form::Md5 { magic: b"$1$", salt, digest },
            (b"5", 43) => Form::Sha256 { rounds, salt, digest },
            (b"6", 86) => Form::Sha512 { rounds, salt, digest },
            _ => return None,
        };
        (parts.next().is_none() && rounds <= ROUNDS_MAX).then_some(form)
    }

    /// Whether [`Stored::is`] takes long, on purpose: milliseconds to seconds.
    pub fn is_slow(&self) -> bool {
        !matches!(self.form, Form::Plain(_) | Form::Sha1 { .. })
    }

    /// Whether `password` is the one that is kept. How long that takes does not tell how much of it is right.
    pub fn is(&self, password: &[u8]) -> bool {
        if password.len() > BYTES_MAX {
            return false;
        }
        match &self.form {
            Form::Plain(plain) => same(password, plain),
            Form::Sha1 { digest, salt } => same(&sha1(&[password, salt]), digest),
            Form::Md5 { magic, salt, digest } => same(&md5_crypt(password, magic, salt), digest),
            Form::Sha256 { rounds, salt, digest } => {
                same(&sha_text(&sha_crypt(hash::<Sha256>, password, salt, *rounds), [2, 0, 1]), digest)
            }
            Form::Sha512 { rounds, salt, digest } => {
                same(&sha_text(&sha_crypt(hash::<Sha512>, password, salt, *rounds), [1, 2, 0]), digest)
            }
            Form::Bcrypt { cost, salt, digest } => same(&bcrypt(password, *cost, salt), digest),
        }
    }
}

/// Whether both are the same, found out in a time that depends on their lengths alone.
fn same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |all, (a, b)| std::hint::black_box(all | (a ^ b)));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

fn decimal(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()
}

fn sha1(parts: &[&[u8]]) -> [u8; SHA1_BYTES] {
    let mut hash = sha1_smol::Sha1::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.digest().bytes()
}

/// The digest of parts that stand one behind the other. The crypt functions get it as a value: there is one of each.
type Hash = fn(&[&[u8]]) -> Vec<u8>;

fn hash<D: Digest>(parts: &[&[u8]]) -> Vec<u8> {
    parts.iter().fold(D::new(), |hash, part| hash.chain_update(part)).finalize().to_vec()
}

/// The first `len` bytes of `piece` put behind itself again and again.
fn repeated(piece: &[u8], len: usize) -> Vec<u8> {
    piece.iter().copied().cycle().take(len).collect()
}

/// One after the other, each time what the number of the round says: how both MD5-crypt and SHA-crypt take their time.
fn rounds(hash: Hash, first: Vec<u8>, rounds: u32, password: &[u8], salt: &[u8]) -> Vec<u8> {
    (0..rounds).fold(first, |last, round| {
        let (start, end) = if round % 2 == 1 { (password, &last[..]) } else { (&last[..], password) };
        let salt = if round % 3 == 0 { &[] } else { salt };
        let middle = if round % 7 == 0 { &[] } else { password };
        hash(&[start, salt, middle, end])
    })
}

/// The MD5-crypt of FreeBSD (`$1$`), and Apache's with another name in it (`$apr1$`), as text.
fn md5_crypt(password: &[u8], magic: &[u8], salt: &[u8]) -> Vec<u8> {
    let inner = hash::<Md5>(&[password, salt, password]);
    let mut first = [password, magic, salt, &repeated(&inner, password.len())].concat();
    let mut bits = password.len();
    while bits > 0 {
        first.push(if bits % 2 == 1 { 0 } else { password.first().copied().unwrap_or(0) });
        bits /= 2;
    }
    let digest = rounds(hash::<Md5>, hash::<Md5>(&[&first]), 1000, password, salt);
    let byte = |at: usize| digest.get(at).copied().unwrap_or(0);
    let mut text = Vec::with_capacity(22);
    for at in 0..5 {
        write_crypt64([byte(at), byte(at + 6), byte(if at == 4 { 5 } else { at + 12 })], 4, &mut text);
    }
    write_crypt64([0, 0, byte(11)], 2, &mut text);
    text
}

/// Ulrich Drepper's SHA-crypt, the digest alone.
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

/// The base 64 of crypt(5): the lowest six bits come first.
fn write_crypt64(bytes: [u8; 3], letters: usize, out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let [high, middle, low] = bytes.map(usize::from);
    let bits = high << 16 | middle << 8 | low;
    out.extend((0..letters).filter_map(|at| LETTERS.get(bits >> (6 * at) & 63)));
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
    use super::*;

    fn is(stored: &str, password: &str) -> Option<bool> {
        Stored::parse(stored.as_bytes()).map(|stored| stored.is(password.as_bytes()))
    }

    /// Made by htpasswd, openssl and libxcrypt.
    #[test]
    fn every_form_knows_its_password_and_no_other() {
        let (long, umlauts, many) = ("a long one of more than sixteen bytes", "pässwort ".repeat(9), "x".repeat(90));
        for (stored, password) in [
            ("{PLAIN}password", "password"),
            ("{PLAIN}", ""),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"),
            ("{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0", "password"),
            ("$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.", "password"),
            ("$apr1$saltsalt$a8ml/vK5HEjiZ5oypDWA7/", ""),
            ("$apr1$saltsalt$eDm5kCFXtRHLujYqP/x.p/", long),
            ("$1$salt$qJH7.N4xYta3aEG/dfqo/0", "password"),
            ("$1$12345678$.zwd6kj2JRvHhCoCrrI1o1", long),
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
        ] {
            assert_eq!(is(stored, password), Some(true), "{stored}");
            assert_eq!(is(stored, &format!("{password} ").replace("xxx", "y")), Some(false), "{stored}");
            assert_eq!(is(stored, &"y".repeat(BYTES_MAX + 1)), Some(false), "{stored}");
        }
    }

    #[test]
    fn what_is_not_understood_is_nobodys_password() {
        for stored in [
            "",
            "password",
            "saltdV8fO8Tk9cA",
            "aaPwJ9XL9Y99E",
            "$",
            "$1$",
            "$apr1$",
            "$apr1$salt$",
            "$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.$",
            "$3$$8846f7eaee8fb117ad06bdd830b7586c",
            "$5$salt",
            "$5$rounds=$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$5$rounds=99999999999$salt$OH4IDuTlsuTYPdED1gsuiRMyTAwNlRWyA6Xr3I4/dQ5",
            "$2b$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIr",
            "$2b$04$abcdefghijklmnopqrst",
            "$2b$31$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$03$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2x$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$2b$04$abcdefghijklm*opqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW",
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
            "{SHA}Zm9vCg==",
            "{SHA}_____Mm5Pz8GgiULbPgzG37mj9g=",
            "{SSHA}Zm9vCg==",
            "{sha}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "{MD5}X03MO1qnZdYdgyfeuILPmQ==",
        ] {
            assert_eq!(Stored::parse(stored.as_bytes()), None, "{stored}");
        }
    }
}
