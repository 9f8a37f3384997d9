//! The cookie of `sticky cookie`, which binds a client to a peer.

use std::fmt::Write as _;

use crate::config::template::Template;
use crate::config::{CookieExpiry, StickyCookie};
use crate::http1::digest;
use crate::request::exchange::Exchange;
use crate::request::variables;
use crate::runtime::clock;
use crate::runtime::socket::Addr;

/// Returns the id of a peer without `route=`: a hash as in nginx, which does not reveal the address.
pub(super) fn hashed_id(addr: &Addr) -> String {
    digest::md5(&[addr.to_string().as_bytes()]).iter().fold(String::new(), |mut id, byte| {
        let _ = write!(id, "{byte:02x}");
        id
    })
}

/// Returns the value of `Set-Cookie` for the peer with that id.
pub(super) fn set_cookie(cookie: &StickyCookie, id: &str, exchange: &Exchange) -> String {
    let mut out = format!("{}={id}", cookie.name);
    match cookie.expires {
        None => {}
        Some(CookieExpiry::Max) => out.push_str("; expires=Thu, 31-Dec-37 23:55:55 GMT; max-age=315360000"),
        Some(CookieExpiry::After(age)) => {
            let expires = clock::since_epoch().saturating_add(age);
            let _ = write!(out, "; expires={}; max-age={}", cookie_date(expires.as_secs()), age.as_secs());
        }
    }
    let text = |template: &Option<Template>| {
        let value = template.as_ref().map(|template| variables::value(template, exchange)).unwrap_or_default();
        String::from_utf8(value).ok().filter(|value| !value.is_empty() && !value.contains(';'))
    };
    if let Some(domain) = text(&cookie.domain) {
        let _ = write!(out, "; domain={domain}");
    }
    if let Some(path) = text(&cookie.path) {
        let _ = write!(out, "; path={path}");
    }
    if cookie.secure {
        out.push_str("; secure");
    }
    if cookie.http_only {
        out.push_str("; httponly");
    }
    match text(&cookie.samesite).as_deref() {
        None => {}
        Some(known @ ("lax" | "none")) => drop(write!(out, "; samesite={known}")),
        Some(_) => out.push_str("; samesite=strict"),
    }
    out
}

/// Formats a date as `Sun, 06-Nov-94 08:49:37 GMT`, which all browsers accept; the year has four digits after 2037.
fn cookie_date(secs: u64) -> String {
    /// The end of 2037.
    const TWO_DIGITS_MAX: u64 = 2_145_916_799;
    clock::format(secs, if secs > TWO_DIGITS_MAX { "%a, %d-%b-%Y %T GMT" } else { "%a, %d-%b-%y %T GMT" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn years_have_two_digits_until_2037() {
        assert_eq!(cookie_date(784_111_777), "Sun, 06-Nov-94 08:49:37 GMT");
        assert_eq!(cookie_date(2_145_916_799), "Thu, 31-Dec-37 23:59:59 GMT");
        assert_eq!(cookie_date(2_184_111_777), "Sat, 19-Mar-2039 01:42:57 GMT");
    }

    #[test]
    fn ids_are_those_of_nginx() {
        let addr = Addr::Ip("127.0.0.1:8081".parse().unwrap());
        assert_eq!(hashed_id(&addr), "df2b80dc43705d28db9be6f29fe58da3");
    }
}
