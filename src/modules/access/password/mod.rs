//! Password hashes of a password file: `{PLAIN}`, `{SHA}`, `{SSHA}`, and of crypt(5) `$apr1$`, `$1$`, `$2a$`/`$2b$`/`$2y$`
//! (bcrypt), `$5$` and `$6$` (SHA-crypt).
//!
//! DES is left out on purpose: it uses eight characters of a password, and is broken in hours. bcrypt and SHA-crypt need the
//! feature `crypt`.

#[cfg(feature = "crypt")]
pub(crate) mod crypt;
#[cfg(not(feature = "crypt"))]
pub(crate) mod stub;

use crate::http1::base64;
use crate::http1::digest::{SHA1_BYTES, md5, sha1};
#[cfg(feature = "crypt")]
use crate::modules::access::password::crypt::Crypt;
#[cfg(not(feature = "crypt"))]
use crate::modules::access::password::stub::Crypt;

/// Whether this build has bcrypt and SHA-crypt.
pub const HAS_CRYPT: bool = cfg!(feature = "crypt");

/// The schemes to recommend, for an error message.
pub const ADVICE: &str = if HAS_CRYPT { "use apr1, bcrypt or SHA-crypt" } else { "use apr1 (htpasswd -m)" };

/// Longer passwords never match; crypt(3) has the same limit.
pub const PASSWORD_BYTES_MAX: usize = 512;

#[derive(Debug, PartialEq, Eq)]
pub struct PasswordHash<'f> {
    scheme: HashScheme<'f>,
}

#[derive(Debug, PartialEq, Eq)]
enum HashScheme<'f> {
    Plain(&'f [u8]),
    Sha1 { digest: Vec<u8>, salt: Vec<u8> },
    Md5 { magic: &'static [u8], salt: &'f [u8], digest: &'f [u8] },
    Crypt(Crypt),
}

impl<'f> PasswordHash<'f> {
    /// Parses the second column of a password file. `None`: an unsupported scheme, or a malformed hash.
    pub fn parse(text: &'f [u8]) -> Option<Self> {
        let scheme = if let Some(plain) = text.strip_prefix(b"{PLAIN}") {
            HashScheme::Plain(plain)
        } else if let Some(code) = text.strip_prefix(b"{SHA}") {
            let digest = base64::decode(code).filter(|digest| digest.len() == SHA1_BYTES)?;
            HashScheme::Sha1 { digest, salt: Vec::new() }
        } else if let Some(code) = text.strip_prefix(b"{SSHA}") {
            let mut digest = base64::decode(code).filter(|digest| digest.len() >= SHA1_BYTES)?;
            let salt = digest.split_off(SHA1_BYTES);
            HashScheme::Sha1 { digest, salt }
        } else {
            Self::parse_crypt(text)?
        };
        Some(Self { scheme })
    }

    /// Parses `$id$...`.
    fn parse_crypt(text: &'f [u8]) -> Option<HashScheme<'f>> {
        let parts: Vec<&[u8]> = text.strip_prefix(b"$")?.splitn(5, |b| *b == b'$').collect();
        match *parts.as_slice() {
            [id @ (b"apr1" | b"1"), salt, digest] if digest.len() == 22 => {
                let magic: &[u8] = if id == b"1" { b"$1$" } else { b"$apr1$" };
                Some(HashScheme::Md5 { magic, salt: salt.get(..8).unwrap_or(salt), digest })
            }
            _ => Crypt::parse(text, &parts).map(HashScheme::Crypt),
        }
    }

    /// Whether [`PasswordHash::matches`] takes milliseconds to seconds, as slow hashes do on purpose.
    pub fn is_slow(&self) -> bool {
        !matches!(self.scheme, HashScheme::Plain(_) | HashScheme::Sha1 { .. })
    }

    /// Whether `password` has this hash. The time does not depend on how much of it is correct.
    pub fn matches(&self, password: &[u8]) -> bool {
        if password.len() > PASSWORD_BYTES_MAX {
            return false;
        }
        match &self.scheme {
            HashScheme::Plain(plain) => constant_time_eq(password, plain),
            HashScheme::Sha1 { digest, salt } => constant_time_eq(&sha1(&[password, salt]), digest),
            HashScheme::Md5 { magic, salt, digest } => constant_time_eq(&md5_crypt(password, magic, salt), digest),
            HashScheme::Crypt(crypt) => crypt.matches(password),
        }
    }
}

/// Compares in a time that depends on the lengths alone.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |bits, (a, b)| std::hint::black_box(bits | (a ^ b)));
    a.len() == b.len() && std::hint::black_box(differences) == 0
}

/// Returns FreeBSD's MD5-crypt (`$1$`), or Apache's, which differs in `magic` alone (`$apr1$`), as text.
fn md5_crypt(password: &[u8], magic: &[u8], salt: &[u8]) -> Vec<u8> {
    let inner = md5(&[password, salt, password]);
    let mut first = [password, magic, salt].concat();
    first.extend(inner.iter().cycle().take(password.len()));
    let mut bits = password.len();
    while bits > 0 {
        first.push(if bits % 2 == 1 { 0 } else { password.first().copied().unwrap_or(0) });
        bits /= 2;
    }
    let digest = (0..1000).fold(md5(&[&first]), |last, round| {
        let (start, end) = if round % 2 == 1 { (password, &last[..]) } else { (&last[..], password) };
        let salt = if round % 3 == 0 { &[] } else { salt };
        let middle = if round % 7 == 0 { &[] } else { password };
        md5(&[start, salt, middle, end])
    });
    let byte = |at: usize| digest.get(at).copied().unwrap_or(0);
    let mut text = Vec::with_capacity(22);
    for at in 0..5 {
        write_crypt64([byte(at), byte(at + 6), byte(if at == 4 { 5 } else { at + 12 })], 4, &mut text);
    }
    write_crypt64([0, 0, byte(11)], 2, &mut text);
    text
}

/// Appends the base64 of crypt(5): the lowest six bits come first.
fn write_crypt64(bytes: [u8; 3], letters: usize, out: &mut Vec<u8>) {
    const LETTERS: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let [high, middle, low] = bytes.map(usize::from);
    let bits = high << 16 | middle << 8 | low;
    out.extend((0..letters).filter_map(|at| LETTERS.get(bits >> (6 * at) & 63)));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(stored: &str, password: &str) -> Option<bool> {
        PasswordHash::parse(stored.as_bytes()).map(|hash| hash.matches(password.as_bytes()))
    }

    pub(super) fn assert_matches(cases: &[(&str, &str)]) {
        for (stored, password) in cases {
            assert_eq!(matches(stored, password), Some(true), "{stored}");
            assert_eq!(matches(stored, &format!("{password} ").replace("xxx", "y")), Some(false), "{stored}");
            assert_eq!(matches(stored, &"y".repeat(PASSWORD_BYTES_MAX + 1)), Some(false), "{stored}");
        }
    }

    pub(super) fn assert_unsupported(cases: &[&str]) {
        for stored in cases {
            assert_eq!(PasswordHash::parse(stored.as_bytes()), None, "{stored}");
        }
    }

    /// Made by htpasswd, openssl and libxcrypt.
    #[test]
    fn every_hash_matches_its_password_and_no_other() {
        let long = "a long one of more than sixteen bytes";
        assert_matches(&[
            ("{PLAIN}password", "password"),
            ("{PLAIN}", ""),
            ("{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "password"),
            ("{SSHA}yI6cZwQadOA1e+/f+T+H3eCQQhRzYWx0", "password"),
            ("$apr1$salt$Xxd1irWT9ycqoYxGFn4cb.", "password"),
            ("$apr1$saltsalt$a8ml/vK5HEjiZ5oypDWA7/", ""),
            ("$apr1$saltsalt$eDm5kCFXtRHLujYqP/x.p/", long),
            ("$1$salt$qJH7.N4xYta3aEG/dfqo/0", "password"),
            ("$1$12345678$.zwd6kj2JRvHhCoCrrI1o1", long),
        ]);
    }

    #[test]
    fn unsupported_and_malformed_hashes_are_rejected() {
        assert_unsupported(&[
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
            "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7",
            "{SHA}Zm9vCg==",
            "{SHA}_____Mm5Pz8GgiULbPgzG37mj9g=",
            "{SSHA}Zm9vCg==",
            "{sha}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
            "{MD5}X03MO1qnZdYdgyfeuILPmQ==",
        ]);
    }
}
