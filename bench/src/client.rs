//! What clients of a proxy ask, and what must come back.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::message;

/// How long a proxy may be silent before we give it up.
pub const SILENCE: Duration = Duration::from_secs(10);

/// A connection that has become a tunnel.
///
/// # Errors
/// What was wrong with the connection or with the answer.
pub fn tunnel(to: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    open_tunnel(&mut stream)?;
    Ok(stream)
}

/// Makes a connection of its own for one GET.
///
/// # Errors
/// What was wrong with the connection or with the answer.
pub fn get(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, SILENCE)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.write_all(message::GET)?;
    let body = message::pattern(message::GET_BODY_BYTES);
    let (mut came, mut buffer) = (Vec::new(), [0; 4096]);
    while !is_response(&came, &body)? {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => came.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(())
}

/// Turns a connection into a tunnel.
///
/// # Errors
/// What was wrong with the answer.
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

/// Whether the whole answer to a GET has come.
///
/// # Errors
/// It is another one.
pub fn is_response(came: &[u8], body: &[u8]) -> io::Result<bool> {
    let Some(used) = head_length(came, body.len())? else { return Ok(false) };
    match &came[used..] {
        came if came == body => Ok(true),
        came if body.starts_with(came) => Ok(false),
        _ => Err(io::Error::other("the body differs from the one expected")),
    }
}

/// How long the head of an answer is, if it has come; its body must have so many bytes.
///
/// # Errors
/// It is another one.
pub fn head_length(came: &[u8], body_bytes: usize) -> io::Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; message::FIELDS_MAX];
    let mut answer = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(used) = answer.parse(came).map_err(io::Error::other)? else { return Ok(None) };
    let length = message::field(answer.headers, "Content-Length");
    if answer.code != Some(200) || length != Some(body_bytes.to_string().as_bytes()) {
        return Err(io::Error::other(format!("expected 200 with {body_bytes} bytes, got {:?}", answer.code)));
    }
    Ok(Some(used))
}
