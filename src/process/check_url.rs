//! `--check URL`: one request, for the health check of a container, whose image has no program for that.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::values;
use crate::dns;
use crate::runtime::io_error;

/// The limit for each step.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of a status line up to the status: `HTTP/1.1 200`.
const STATUS_END: usize = 12;

/// Requests a URL. The error says why the response is not one of 200 to 399.
pub fn check(url: &str) -> Result<(), String> {
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic());
    let rest = url.strip_prefix("http://").filter(|_| is_plain).ok_or("a URL with http:// is expected")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = values::host_port(authority).unwrap_or_default();
    let addrs = dns::resolve_blocking(host, port.unwrap_or(80));
    if host.is_empty() || addrs.is_empty() {
        return Err(format!("\"{authority}\" is no address or known host"));
    }
    let path = if path.is_empty() { "/" } else { path };
    match status(&addrs, authority, path) {
        Ok(Some(200..=399)) => Ok(()),
        Ok(Some(status)) => Err(format!("the response has status {status}")),
        Ok(None) => Err("the response is not HTTP".to_owned()),
        Err(error) => Err(io_error::describe(&error)),
    }
}

/// Connects to the first address that accepts the connection.
fn connect(addrs: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    for addr in addrs {
        result = TcpStream::connect_timeout(addr, TIMEOUT);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn status(addrs: &[SocketAddr], authority: &str, path: &str) -> io::Result<Option<u16>> {
    let mut stream = connect(addrs)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: smolgate\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = [0; STATUS_END];
    stream.read_exact(&mut line)?;
    let text = line.strip_prefix(b"HTTP/1.").and_then(|rest| std::str::from_utf8(rest.get(2..)?).ok());
    Ok(text.and_then(|status| status.parse().ok()))
}
