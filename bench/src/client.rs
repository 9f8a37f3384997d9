//! Requests of clients, and checks of the responses.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::message;

/// The limit for a proxy to respond.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a tunnel on a new connection.
///
/// # Errors
/// Of the connection, or an unexpected response.
pub fn tunnel(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, RESPONSE_TIMEOUT)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    open_tunnel(&mut stream)?;
    Ok(stream)
}

/// Sends a GET on a new connection and checks the response.
///
/// # Errors
/// Of the connection, or an unexpected response.
pub fn get(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, RESPONSE_TIMEOUT)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
    stream.write_all(message::GET)?;
    let body = message::pattern(message::GET_BODY_BYTES);
    let (mut received, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_response(&received, &body)? {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => received.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

/// Turns a connection into a tunnel by an upgrade.
///
/// # Errors
/// Of the connection, or an unexpected response.
pub fn open_tunnel(stream: &mut (impl Read + Write)) -> io::Result<()> {
    stream.write_all(message::UPGRADE)?;
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::other("connection closed in the WebSocket handshake"));
        }
        head.extend_from_slice(&buffer[..count]);
        if message::is_switched(&head)? {
            return Ok(());
        }
    }
}

/// Returns whether the response to a GET is complete.
///
/// # Errors
/// An unexpected response.
pub fn is_response(received: &[u8], body: &[u8]) -> io::Result<bool> {
    let Some(used) = head_length(received, body.len())? else { return Ok(false) };
    match &received[used..] {
        received if received == body => Ok(true),
        received if body.starts_with(received) => Ok(false),
        _ => Err(io::Error::other("the body differs from the one expected")),
    }
}

/// Returns the length of the head of a response, if it is complete; its body must have `body_bytes`.
///
/// # Errors
/// An unexpected response.
pub fn head_length(received: &[u8], body_bytes: usize) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; message::HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(used) = response.parse(received).map_err(io::Error::other)? else { return Ok(None) };
    let length = message::header(response.headers, "Content-Length");
    if response.code != Some(200) || length != Some(body_bytes.to_string().as_bytes()) {
        return Err(io::Error::other(format!("expected 200 with {body_bytes} bytes, got {:?}", response.code)));
    }
    Ok(Some(used))
}
