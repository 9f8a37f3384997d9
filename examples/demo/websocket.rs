//! WebSocket (RFC 6455), strictly: the response to a key, frames, and the messages that they make up.

use std::io;

use smol::channel::Sender;
use smol::io::{AsyncReadExt, BufReader};
use smol::net::TcpStream;

/// Largest message, all fragments together.
pub(crate) const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Opcodes (5.2). Those from `CLOSE` on are control frames.
const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

pub(crate) struct Frame {
    /// Whether this is the last frame of its message (FIN).
    pub(crate) last: bool,
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

/// Why a WebSocket ended.
pub(crate) enum End {
    /// The connection is broken.
    Broken,
    /// A Close frame has to be sent, with this code (7.4.1) or without one.
    Close(Option<u16>),
}

const PROTOCOL_ERROR: End = End::Close(Some(1002));
pub(crate) const UNACCEPTABLE: End = End::Close(Some(1003));
const INVALID_TEXT: End = End::Close(Some(1007));
const TOO_BIG: End = End::Close(Some(1009));

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self::Broken
    }
}

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (4.2.2).
pub(crate) fn accept_key(key: &str) -> String {
    let digest = smolgate::http1::digest::sha1(&[key.as_bytes(), b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"]);
    data_encoding::BASE64.encode(&digest)
}

/// Reads a client's next message and its opcode, put together from fragments (5.4). Pongs for pings between the fragments
/// go to `pongs`.
pub(crate) async fn next_message(
    reader: &mut BufReader<TcpStream>,
    pongs: &Sender<Vec<u8>>,
) -> Result<(u8, Vec<u8>), End> {
    let mut opcode = None;
    let mut message = Vec::new();
    loop {
        let frame = read_frame(reader, true).await?;
        match (frame.opcode, opcode) {
            (PING, _) => pongs.send(encode(PONG, &frame.payload, None)).await.map_err(|_| End::Broken)?,
            (PONG, _) => {}
            (CLOSE, _) => return Err(close_response(&frame.payload)),
            (CONTINUATION, Some(_)) | (TEXT | BINARY, None) => {
                let opcode = *opcode.get_or_insert(frame.opcode);
                message.extend_from_slice(&frame.payload);
                match frame.last {
                    _ if message.len() > MESSAGE_BYTES_MAX => return Err(TOO_BIG),
                    true if opcode == TEXT && std::str::from_utf8(&message).is_err() => return Err(INVALID_TEXT),
                    true => return Ok((opcode, message)),
                    false => {}
                }
            }
            _ => return Err(PROTOCOL_ERROR),
        }
    }
}

/// Returns the response to a Close frame: its own code, if an endpoint may send that (7.4).
fn close_response(payload: &[u8]) -> End {
    match payload {
        [] => End::Close(None),
        [high, low, reason @ ..] => match u16::from_be_bytes([*high, *low]) {
            _ if std::str::from_utf8(reason).is_err() => INVALID_TEXT,
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => End::Close(Some(code)),
            _ => PROTOCOL_ERROR,
        },
        _ => PROTOCOL_ERROR,
    }
}

/// Reads a frame (5.2). A client's frames must be `masked`, a server's must not.
pub(crate) async fn read_frame(reader: &mut BufReader<TcpStream>, masked: bool) -> Result<Frame, End> {
    let [first, second] = read_array(reader).await?;
    let (last, reserved, opcode) = (first & 0x80 != 0, first & 0x70, first & 0x0f);
    let (has_mask, short) = (second & 0x80 != 0, second & 0x7f);
    let is_control = opcode >= CLOSE;
    let is_known = matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG);
    if !is_known || reserved != 0 || has_mask != masked || (is_control && (!last || short > 125)) {
        return Err(PROTOCOL_ERROR);
    }
    let (length, length_min): (u64, u64) = match short {
        126 => (u16::from_be_bytes(read_array(reader).await?).into(), 126),
        127 => (u64::from_be_bytes(read_array(reader).await?), 1 << 16),
        short => (short.into(), 0),
    };
    if length < length_min {
        return Err(PROTOCOL_ERROR); // not the shortest encoding
    }
    let length = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES_MAX).ok_or(TOO_BIG)?;
    let mask = if masked { read_array(reader).await? } else { [0; 4] };
    let mut payload = vec![0; length];
    reader.read_exact(&mut payload).await?;
    apply_mask(mask, &mut payload);
    Ok(Frame { last, opcode, payload })
}

async fn read_array<const N: usize>(reader: &mut BufReader<TcpStream>) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// Masks or unmasks (5.3).
fn apply_mask(mask: [u8; 4], payload: &mut [u8]) {
    payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
}

/// Writes a whole message as one frame; a client passes a random mask.
pub(crate) fn encode(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mask_bit = if mask.is_some() { 0x80 } else { 0 };
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ ..=125 => frame.push(mask_bit | length as u8),
        length @ ..=0xffff => {
            frame.push(mask_bit | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(mask_bit | 127);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(mask.as_ref().map_or(&[], |mask| mask.as_slice()));
    let start = frame.len();
    frame.extend_from_slice(payload);
    apply_mask(mask.unwrap_or_default(), frame.get_mut(start..).unwrap_or_default());
    frame
}
