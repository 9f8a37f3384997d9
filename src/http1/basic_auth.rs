//! The credentials of a request: Basic authentication (RFC 7617).

use crate::http1::base64;
use crate::http1::head::Headers;

/// A user name and a password.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

impl Credentials {
    /// Returns those of the first `Authorization`; `None` if it is missing, of another scheme, or malformed.
    pub fn from_headers(headers: &Headers) -> Option<Self> {
        Self::parse(headers.first_named(b"authorization")?)
    }

    /// Parses `Basic` and base64 of `user:password`.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (scheme, token) = value.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let mut user = base64::decode(token.trim_ascii())?;
        let colon = user.iter().position(|b| *b == b':')?;
        let password = user.split_off(colon + 1);
        user.truncate(colon);
        Some(Self { user, password })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_parsed_or_none() {
        let credentials =
            |user: &str, password: &str| Some(Credentials { user: user.into(), password: password.into() });
        for (value, expected) in [
            ("Basic dXNlcjpwYXNz", credentials("user", "pass")),
            ("basic    dXNlcjpwYXNz ", credentials("user", "pass")),
            ("Basic dXNlcjpwYTpzcw==", credentials("user", "pa:ss")),
            ("Basic dXNlcjpwYTpzcw", credentials("user", "pa:ss")),
            ("Basic dXNlcjpwYTpzcw===", credentials("user", "pa:ss")),
            ("Basic dXNlcjo=", credentials("user", "")),
            ("Basic OnBhc3M=", credentials("", "pass")),
            ("Basic dXNlcg==", None),
            ("Basic ", None),
            ("Basic =", None),
            ("Basic", None),
            ("", None),
            ("Bearer dXNlcjpwYXNz", None),
            ("Basic dXNlcjpw YXNz", None),
            ("Basic dXNl_jpwYXNz", None),
        ] {
            assert_eq!(Credentials::parse(value.as_bytes()), expected, "{value}");
        }
    }
}
