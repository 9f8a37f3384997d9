//! What `load` and `origin` say to each other: the bytes of bodies and messages, and the WebSocket handshake.
//!
//! Both sides make the same `pattern`, so every byte that comes back through a proxy can be verified.

use std::io;

use base64::{Engine, prelude::BASE64_STANDARD};

/// How many fields a head may have.
pub const FIELDS_MAX: usize = 64;

/// What a GET asks for and how long the answer is.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";
pub const GET_BODY_BYTES: usize = 100;

/// What asks for a file of so many bytes, which are those of [`pattern`].
pub fn get_file(bytes: usize) -> Vec<u8> {
    format!("GET /files/{bytes} HTTP/1.1\r\nHost: bench\r\n\r\n").into_bytes()
}

/// The example of RFC 6455 1.3. A constant key is enough: what counts is that a proxy may check the answer to it.
pub const UPGRADE: &[u8] = b"GET /ws HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
pub const UPGRADE_KEY: &[u8] = b"dGhlIHNhbXBsZSBub25jZQ==";

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (RFC 6455 4.2.2).
pub fn websocket_accept(key: &[u8]) -> String {
    let mut hash = sha1_smol::Sha1::new();
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.digest().bytes())
}

/// Whether `head` is the whole and right answer to [`UPGRADE`]; false if it is only the beginning of one.
pub fn is_switched(head: &[u8]) -> io::Result<bool> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(used) = answer.parse(head).map_err(io::Error::other)? else { return Ok(false) };
    if answer.code != Some(101) {
        return Err(io::Error::other(format!("answered {:?} where 101 was expected", answer.code)));
    }
    let accept = field(answer.headers, "Sec-WebSocket-Accept");
    if accept != Some(websocket_accept(UPGRADE_KEY).as_bytes()) || used != head.len() {
        return Err(io::Error::other("wrong Sec-WebSocket-Accept, or bytes after the 101 that nobody sent"));
    }
    Ok(true)
}

/// Bytes that don't repeat with a short period (a plain linear congruential generator).
pub fn pattern(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// The value of a field, by its name in any case.
pub fn field<'a>(fields: &[httparse::Header<'a>], name: &str) -> Option<&'a [u8]> {
    fields.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn accept_is_that_of_rfc_6455() {
        assert_eq!(super::websocket_accept(super::UPGRADE_KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
