//! The messages between `load` and `origin`: requests, bodies, and the WebSocket handshake.
//!
//! Both sides generate the same `pattern`, so that every byte that comes through a proxy is verified.

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD};

/// The maximum of headers in a head.
pub const HEADERS_MAX: usize = 64;

/// A GET, and the length of its response body.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
pub const GET_BODY_BYTES: usize = 100;

/// Formats the request for a file of this size, with the bytes of [`pattern`].
pub fn get_file(bytes: usize) -> Vec<u8> {
    format!("GET /files/{bytes} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// The example of RFC 6455 1.3. A constant key is enough for proxies that check the response.
pub const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
pub const UPGRADE_KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 4.2.2).
pub fn websocket_accept(key: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.digest().bytes())
}

/// Returns whether `head` is a complete response to [`UPGRADE`]; false if it is incomplete, an error if it is another one.
pub fn is_switched(head: &[u8]) -> io::Result<bool> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(used) = response.parse(head).map_err(io::Error::other)? else { return Ok(false) };
    if response.code != Some(101) {
        return Err(io::Error::other(format!("expected 101, got {:?}", response.code)));
    }
    let accept = header(response.headers, "Sec-WebSocket-Accept");
    if accept != Some(websocket_accept(UPGRADE_KEY).as_bytes()) || used != head.len() {
        return Err(io::Error::other("wrong Sec-WebSocket-Accept, or unexpected bytes after the 101"));
    }
    Ok(true)
}

/// Generates bytes without a short period (a plain linear congruential generator).
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Returns the value of a header, by its name in any case.
pub fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn accept_is_that_of_rfc_6455() {
        assert_eq!(super::websocket_accept(super::UPGRADE_KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
