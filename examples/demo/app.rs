//! The application: two WebSockets. `/ws/echo` says every message back, `/ws/chat` says it to everybody.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::channel::{self, Receiver, Sender};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::{TcpListener, TcpStream};

use crate::websocket::{self, CLOSE, End, TEXT, encode, next_message};

/// Bytes of a head.
const HEAD_BYTES_MAX: u64 = 8 * 1024;
/// Messages that wait for one client; a chat client that lets more of them wait is dropped.
const WAITING_MAX: usize = 64;

/// Everybody in the chat: frames that are put in here are sent.
type Room = Arc<Mutex<Vec<Sender<Vec<u8>>>>>;

/// Serves connections for ever.
pub(crate) async fn accept(listener: TcpListener) {
    let room = Room::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => smol::spawn(serve(stream, room.clone())).detach(),
            Err(_) => drop(smol::Timer::after(Duration::from_millis(100)).await), // out of descriptors
        }
    }
}

/// One request, or one WebSocket.
async fn serve(mut stream: TcpStream, room: Room) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.clone());
    let (reply, path) = answer(&read_head(&mut reader).await?);
    let room = (path.as_deref() == Some("/ws/chat")).then_some(room);
    let (sender, receiver) = channel::bounded(WAITING_MAX);
    if let Some(room) = &room {
        room.lock().unwrap_or_else(PoisonError::into_inner).push(sender.clone());
    }
    stream.write_all(reply.as_bytes()).await?;
    if path.is_none() {
        return stream.close().await;
    }
    let ((), sent) = smol::future::zip(converse(reader, sender, room), send(stream, receiver)).await;
    sent
}

/// A head up to and with its empty line; nothing if it is too big or breaks off.
pub(crate) async fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut limited = reader.take(HEAD_BYTES_MAX);
    while limited.read_until(b'\n', &mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            return Ok(head);
        }
    }
    Ok(Vec::new())
}

/// The answer to a request, and the path of the WebSocket that it opens (RFC 6455 4.2).
fn answer(head: &[u8]) -> (String, Option<String>) {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let complete = request.parse(head).is_ok_and(|status| status.is_complete());
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let field = |name: &str| {
        let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok()).unwrap_or_default()
    };
    let has = |name, token| field(name).split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
    let key = field("Sec-WebSocket-Key");
    let has_key = data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
    let upgrades = has("Connection", "upgrade") && has("Upgrade", "websocket") && has_key;
    match (method, path) {
        _ if !complete => (refusal("400 Bad Request", "this is no request\n"), None),
        ("GET", "/ws/echo" | "/ws/chat") if upgrades && field("Sec-WebSocket-Version") == "13" => {
            let reply = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                websocket::accept_key(key)
            );
            (reply, Some(path.to_owned()))
        }
        ("GET", "/ws/echo" | "/ws/chat") => {
            let status = "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
            (refusal(status, "this is a WebSocket\n"), None)
        }
        _ => (refusal("404 Not Found", "nothing is here\n"), None),
    }
}

fn refusal(status: &str, text: &str) -> String {
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

/// Reads messages, and says them back or, in a `room`, the texts to all. At the end [`send`] ends too.
async fn converse(mut reader: BufReader<TcpStream>, sender: Sender<Vec<u8>>, room: Option<Room>) {
    let end = loop {
        match (next_message(&mut reader, &sender).await, &room) {
            (Ok((TEXT, message)), Some(room)) => tell(room, &encode(TEXT, &message, None)),
            (Ok(_), Some(_)) => break websocket::UNACCEPTABLE,
            (Ok((opcode, message)), None) => drop(sender.send(encode(opcode, &message, None)).await),
            (Err(end), _) => break end,
        }
    };
    if let End::Close(code) = end {
        let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
        let _ = sender.send(encode(CLOSE, &payload, None)).await;
    }
    sender.close();
}

/// Says it to everybody. One who does not read must not hold up the others, and leaves; so does one who is gone.
fn tell(room: &Room, frame: &[u8]) {
    room.lock().unwrap_or_else(PoisonError::into_inner).retain(|member| {
        let told = member.try_send(frame.to_vec()).is_ok();
        if !told {
            member.close();
        }
        told
    });
}

/// Sends frames until there will be none.
async fn send(mut stream: TcpStream, frames: Receiver<Vec<u8>>) -> io::Result<()> {
    let mut sent = Ok(());
    while let (Ok(()), Ok(frame)) = (&sent, frames.recv().await) {
        sent = stream.write_all(&frame).await;
    }
    frames.close();
    let _ = stream.shutdown(Shutdown::Both);
    sent
}
