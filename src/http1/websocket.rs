//! WebSocket (RFC 6455): tracks frame boundaries, so that a local frame can be inserted between two others (5.2), and
//! computes `Sec-WebSocket-Accept` (4.2.2).
//!
//! Only frame lengths are parsed: 16 bytes of state per direction, and a few instructions per frame.

use crate::http1::{base64, digest};

/// Tracks the position in a stream of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameScanner {
    /// Bytes left of the payload and its masking key; the partial value while the length is read.
    remaining: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Between two frames.
    Boundary,
    /// The byte with the length is next.
    Length,
    /// This many bytes of the extended payload length are left.
    ExtendedLength {
        bytes: u8,
        masked: bool,
    },
    Payload,
    /// The bytes are not WebSocket frames.
    Unknown,
}

/// The GUID that a server appends to the key.
const ACCEPT_GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &[u8]) -> String {
    base64::encode(&digest::sha1(&[key, ACCEPT_GUID]))
}

/// Bytes of a masking key.
const MASKING_KEY_BYTES: u64 = 4;

impl FrameScanner {
    /// The start of a stream of frames.
    pub const START: Self = Self { remaining: 0, stage: Stage::Boundary };
    /// A stream of an unknown protocol.
    pub const UNKNOWN: Self = Self { remaining: 0, stage: Stage::Unknown };

    /// Whether the position is between two frames.
    pub fn is_at_boundary(self) -> bool {
        self.stage == Stage::Boundary
    }

    /// Advances over the next bytes of the stream.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            bytes = match self.stage {
                Stage::Unknown => return,
                Stage::Payload => {
                    let skipped = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(bytes.len());
                    self.remaining -= skipped as u64;
                    if self.remaining == 0 {
                        self.stage = Stage::Boundary;
                    }
                    bytes.get(skipped..).unwrap_or_default()
                }
                Stage::Boundary => {
                    // Opcodes 3 to 7 and 11 to 15 are reserved.
                    self.stage = if matches!(first & 15, 0..=2 | 8..=10) { Stage::Length } else { Stage::Unknown };
                    rest
                }
                Stage::Length => {
                    self.read_length(*first);
                    rest
                }
                Stage::ExtendedLength { bytes: left, masked } => {
                    self.remaining = self.remaining << 8 | u64::from(*first);
                    match left {
                        1 => self.begin_payload(masked),
                        _ => self.stage = Stage::ExtendedLength { bytes: left - 1, masked },
                    }
                    rest
                }
            };
        }
    }

    fn read_length(&mut self, byte: u8) {
        let masked = byte & 128 != 0;
        self.remaining = 0;
        match byte & 127 {
            126 => self.stage = Stage::ExtendedLength { bytes: 2, masked },
            127 => self.stage = Stage::ExtendedLength { bytes: 8, masked },
            short => {
                self.remaining = short.into();
                self.begin_payload(masked);
            }
        }
    }

    fn begin_payload(&mut self, masked: bool) {
        self.remaining = self.remaining.saturating_add(if masked { MASKING_KEY_BYTES } else { 0 });
        self.stage = if self.remaining == 0 { Stage::Boundary } else { Stage::Payload };
    }

    /// Returns the bytes left in the frame, to continue in another process; `None` inside a frame header.
    pub fn remaining_bytes(self) -> Option<u64> {
        match self.stage {
            Stage::Boundary => Some(0),
            Stage::Payload => Some(self.remaining),
            _ => None,
        }
    }

    /// Restores the state from [`FrameScanner::remaining_bytes`].
    pub fn from_remaining_bytes(left: Option<u64>) -> Self {
        match left {
            Some(0) => Self::START,
            Some(left) => Self { remaining: left, stage: Stage::Payload },
            None => Self::UNKNOWN,
        }
    }
}

/// Returns a Close frame with status 1001, "going away" (RFC 6455 7.4.1); masked with `key` when sent to an upstream.
pub fn going_away_frame(key: Option<[u8; 4]>) -> Vec<u8> {
    let [high, low] = 1001u16.to_be_bytes();
    match key {
        None => vec![0x88, 2, high, low],
        Some([a, b, c, d]) => vec![0x88, 0x82, a, b, c, d, high ^ a, low ^ b],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, masked: bool, payload: usize) -> Vec<u8> {
        let mask = if masked { 128 } else { 0 };
        let mut frame = vec![0x80 | opcode];
        match payload {
            0..126 => frame.push(mask | payload as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        frame.resize(frame.len() + payload + if masked { 4 } else { 0 }, 0xaa);
        frame
    }

    #[test]
    fn frames_end_where_they_end_however_they_are_split() {
        let sizes = [0, 1, 125, 126, 127, 300, 65535, 65536];
        let kinds = [(1, false), (2, true), (0, true), (9, false), (8, true)];
        let all: Vec<Vec<u8>> =
            sizes.iter().flat_map(|size| kinds.map(|(opcode, masked)| frame(opcode, masked, *size))).collect();
        let stream = all.concat();
        let ends: Vec<usize> = all
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        for step in [1, 2, 3, 7, 64, 65536, usize::MAX] {
            let mut frames = FrameScanner::START;
            let mut at = 0;
            while at < stream.len() {
                let next = at.saturating_add(step).min(stream.len());
                frames.advance(&stream[at..next]);
                at = next;
                assert_eq!(frames.is_at_boundary(), ends.contains(&at), "{at} in steps of {step}");
            }
        }
    }

    #[test]
    fn other_protocols_have_no_frame_boundary() {
        let mut frames = FrameScanner::START;
        frames.advance(b"SSH-2.0");
        assert!(!frames.is_at_boundary());
        let mut unknown = FrameScanner::UNKNOWN;
        unknown.advance(&frame(1, false, 3));
        assert!(!unknown.is_at_boundary());
        assert_eq!(FrameScanner::from_remaining_bytes(FrameScanner::START.remaining_bytes()), FrameScanner::START);
    }

    #[test]
    fn an_overflowing_length_is_saturated() {
        let mut frames = FrameScanner::START;
        frames.advance(&[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3]);
        assert!(!frames.is_at_boundary());
    }

    #[test]
    fn the_close_frame_has_status_1001() {
        assert_eq!(going_away_frame(None), [0x88, 2, 3, 0xe9]);
        assert_eq!(going_away_frame(Some([1, 2, 3, 4])), [0x88, 0x82, 1, 2, 3, 4, 2, 0xeb]);
        assert_eq!(size_of::<FrameScanner>(), 16);
    }
}
