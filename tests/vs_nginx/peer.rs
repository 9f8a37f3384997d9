//! An upstream that responds with its name and the request line, or echoes behind a 101.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

/// Starts an upstream, which ends with the test.
pub(crate) fn start(name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(name, stream));
        }
    });
    addr
}

fn serve(name: &str, mut stream: TcpStream) {
    let mut unread = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        while let Some(end) = unread.windows(4).position(|part| part == b"\r\n\r\n") {
            let head: Vec<u8> = unread.drain(..end + 4).collect();
            let mut body = body_length(&head);
            while unread.len() < body {
                match stream.read(&mut buffer) {
                    Ok(count @ 1..) => unread.extend_from_slice(&buffer[..count]),
                    _ => body = 0,
                }
            }
            unread.drain(..body);
            if head.windows(7).any(|part| part == b"Upgrade") {
                let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
                let _ = stream.write_all(format!("{head}X-Name: {name}\r\n\r\n").as_bytes());
                let _ = stream.write_all(&unread);
                while let Ok(count @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..count]);
                }
                return;
            }
            // Without the version: nginx sends 1.0 by default.
            let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
            let line = line.strip_suffix(b" HTTP/1.1").or(line.strip_suffix(b" HTTP/1.0")).unwrap_or(line);
            let body = [name.as_bytes(), b": ", line].concat();
            let status = if line.windows(8).any(|part| part == b"/missing") { "404 Not Found" } else { "200 OK" };
            let head =
                format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => unread.extend_from_slice(&buffer[..count]),
            _ => return,
        }
    }
}

fn body_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    length.and_then(|length| length.parse().ok()).unwrap_or(0)
}
