//! The application: two WebSockets. `/ws/echo` sends every message back, `/ws/chat` sends it to all members of the chat.

use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::channel::{self, Receiver, Sender};
use smol::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use smol::net::{TcpListener, TcpStream};

use crate::websocket::{self, CLOSE, End, TEXT, encode, next_message};

/// Largest request head.
const HEAD_BYTES_MAX: u64 = 8 * 1024;
/// Messages queued for one client; a chat client that falls further behind is disconnected.
const QUEUED_MAX: usize = 64;

/// The members of the chat: the queues of frames to send.
type Chat = Arc<Mutex<Vec<Sender<Vec<u8>>>>>;

/// Accepts connections until the program ends.
pub(crate) async fn accept(listener: TcpListener) {
    let chat = Chat::default();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => smol::spawn(serve(stream, chat.clone())).detach(),
            Err(_) => drop(smol::Timer::after(Duration::from_millis(100)).await), // out of descriptors
        }
    }
}

/// Serves one request or one WebSocket.
async fn serve(mut stream: TcpStream, chat: Chat) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.clone());
    let (response, path) = respond(&read_head(&mut reader).await?);
    let chat = (path.as_deref() == Some("/ws/chat")).then_some(chat);
    let (sender, receiver) = channel::bounded(QUEUED_MAX);
    if let Some(chat) = &chat {
        chat.lock().unwrap_or_else(PoisonError::into_inner).push(sender.clone());
    }
    stream.write_all(response.as_bytes()).await?;
    if path.is_none() {
        return stream.close().await;
    }
    let ((), sent) = smol::future::zip(receive(reader, sender, chat), send(stream, receiver)).await;
    sent
}

/// Reads a head with its empty line; the result is empty if the head is too large or truncated.
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

/// Returns the response to a request, and the path of the WebSocket that it opens (RFC 6455 4.2).
fn respond(head: &[u8]) -> (String, Option<String>) {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    let complete = request.parse(head).is_ok_and(|status| status.is_complete());
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let header = |name: &str| {
        let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        found.and_then(|header| std::str::from_utf8(header.value).ok()).unwrap_or_default()
    };
    let has = |name, token| header(name).split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
    let key = header("Sec-WebSocket-Key");
    let has_key = data_encoding::BASE64.decode(key.as_bytes()).is_ok_and(|nonce| nonce.len() == 16);
    let upgrades = has("Connection", "upgrade") && has("Upgrade", "websocket") && has_key;
    match (method, path) {
        _ if !complete => (error_response("400 Bad Request", "malformed request\n"), None),
        ("GET", "/ws/echo" | "/ws/chat") if upgrades && header("Sec-WebSocket-Version") == "13" => {
            let response = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                websocket::accept_key(key)
            );
            (response, Some(path.to_owned()))
        }
        ("GET", "/ws/echo" | "/ws/chat") => {
            let status = "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
            (error_response(status, "this is a WebSocket endpoint\n"), None)
        }
        _ => (error_response("404 Not Found", "not found\n"), None),
    }
}

fn error_response(status: &str, text: &str) -> String {
    let length = text.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

/// Reads messages; queues each for its sender or, in a `chat`, for all members. Closes the queue at the end, which ends
/// [`send`].
async fn receive(mut reader: BufReader<TcpStream>, sender: Sender<Vec<u8>>, chat: Option<Chat>) {
    let end = loop {
        match (next_message(&mut reader, &sender).await, &chat) {
            (Ok((TEXT, message)), Some(chat)) => broadcast(chat, &encode(TEXT, &message, None)),
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

/// Queues a frame for all members. A member whose queue is full or closed is removed: it must not delay the others.
fn broadcast(chat: &Chat, frame: &[u8]) {
    chat.lock().unwrap_or_else(PoisonError::into_inner).retain(|member| {
        let queued = member.try_send(frame.to_vec()).is_ok();
        if !queued {
            member.close();
        }
        queued
    });
}

/// Sends frames until the queue is closed.
async fn send(mut stream: TcpStream, frames: Receiver<Vec<u8>>) -> io::Result<()> {
    let mut sent = Ok(());
    while let (Ok(()), Ok(frame)) = (&sent, frames.recv().await) {
        sent = stream.write_all(&frame).await;
    }
    frames.close();
    let _ = stream.shutdown(Shutdown::Both);
    sent
}
