//! Who a client says it is: Basic authentication (RFC 7617).

use crate::http1::base64;
use crate::http1::head::Headers;

/// A user and the password that came along.
#[derive(Debug, PartialEq, Eq)]
pub struct Credentials {
    pub user: Vec<u8>,
    pub password: Vec<u8>,
}

impl Credentials {
    /// Those of the first `Authorization`; none, if it is missing, of another scheme, or broken.
    pub fn from_headers(fields: &Headers) -> Option<Self> {
        Self::parse(fields.first_named(b"authorization")?)
    }

    /// `Basic`, and user, colon and password in base 64.
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
    fn a_user_and_a_password_are_read_or_nothing() {
        let some = |user: &str, password: &str| Some(Credentials { user: user.into(), password: password.into() });
        for (value, expected) in [
            ("Basic dXNlcjpwYXNz", some("user", "pass")),
            ("basic    dXNlcjpwYXNz ", some("user", "pass")),
            ("Basic dXNlcjpwYTpzcw==", some("user", "pa:ss")),
            ("Basic dXNlcjpwYTpzcw", some("user", "pa:ss")),
            ("Basic dXNlcjpwYTpzcw===", some("user", "pa:ss")),
            ("Basic dXNlcjo=", some("user", "")),
            ("Basic OnBhc3M=", some("", "pass")),
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
