//! The encoder: deflate by zlib-rs in gzip's frame.
//!
//! What a pause has ended can be read without what follows. An encoder with nothing to do for a while is put to rest:
//! its tables, most of its memory, are given back, and it goes on later with a dictionary of what it read last. Where
//! many are at work, those that come last do so whenever they are called. One set of tables stays for a moment, for the
//! next answer: to make them costs more than a small answer does.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use zlib_rs::crc32::crc32;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Status, Strategy};

use crate::config::Window;
use crate::request::gzip_encoder::{EncodeError, Flush};
use crate::runtime::executor;

/// Bytes that an encoder at rest remembers of what it read: enough for the next event to resemble the last ones.
const HISTORY_BYTES: usize = 4 * 1024;
/// Encoders of one worker that keep their tables between two calls. The others write some 1 % more in as much more time.
const ACTIVE_MAX: u32 = 4;
/// How long tables that nobody needs are kept.
const SPARE_LIFETIME: Duration = Duration::from_millis(250);
/// Bytes of output that are asked for at a time.
const STEP_BYTES: usize = 8 * 1024;
/// Magic number, deflate, no flags, no time, no hints, Unix (RFC 1952 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

thread_local! {
    /// Encoders of this worker that have tables.
    static ACTIVE: Cell<u32> = const { Cell::new(0) };
    static SPARE: RefCell<Option<(DeflateConfig, Deflate)>> = const { RefCell::new(None) };
    /// Spare tables were put away since somebody looked.
    static SPARE_USED: Cell<bool> = const { Cell::new(false) };
    /// Somebody looks.
    static SPARE_TIMER_ON: Cell<bool> = const { Cell::new(false) };
}

/// Drops the spare tables when nobody has used them for a while.
async fn drop_spare() {
    while SPARE_USED.replace(false) {
        executor::sleep(SPARE_LIFETIME).await;
    }
    SPARE.take();
    SPARE_TIMER_ON.set(false);
}

/// Makes one gzip member.
pub struct Encoder {
    config: DeflateConfig,
    /// None before the first byte and at rest.
    tables: Option<Deflate>,
    history: Vec<u8>,
    crc: u32,
    /// Bytes were given that may not have come out.
    has_pending: bool,
    /// Bytes that were read.
    bytes_in: u64,
    /// Bytes that were written.
    bytes_out: u64,
}

impl Encoder {
    /// None only in builds without gzip.
    pub fn new(level: u8, window: Window) -> Option<Self> {
        // The first level of this library writes a fifth more than zlib's. Its second writes less than that, and takes
        // less time for it than zlib's first.
        let level = i32::from(level).max(2);
        let config = DeflateConfig {
            level,
            method: Method::Deflated,
            window_bits: -i32::from(window.bits), // without zlib's frame
            mem_level: i32::from(window.memory),
            strategy: Strategy::Default,
        };
        Some(Self { config, tables: None, history: Vec::new(), crc: 0, has_pending: false, bytes_in: 0, bytes_out: 0 })
    }

    /// Encodes `data`, and appends what comes of it to `out`.
    pub fn encode(&mut self, data: &[u8], then: Flush, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        if self.bytes_in == 0 && self.bytes_out == 0 && (!data.is_empty() || then == Flush::End) {
            out.extend_from_slice(&GZIP_HEADER);
        }
        self.crc = crc32(self.crc, data);
        self.bytes_in += data.len() as u64;
        self.has_pending |= !data.is_empty();
        if self.has_pending || then == Flush::End {
            let flush = match then {
                Flush::More => DeflateFlush::NoFlush,
                Flush::Pause => DeflateFlush::SyncFlush,
                Flush::End => DeflateFlush::Finish,
            };
            self.deflate(data, flush, out)?;
            self.has_pending = then == Flush::More;
        }
        if then == Flush::End {
            self.recycle_tables();
            self.history = Vec::new();
            out.extend_from_slice(&self.crc.to_le_bytes());
            out.extend_from_slice(&(self.bytes_in as u32).to_le_bytes()); // modulo 2^32 (RFC 1952 2.3.1)
        }
        if then != Flush::End {
            self.update_history(data);
        }
        self.bytes_out += (out.len() - before) as u64;
        if self.tables.is_some() && ACTIVE.get() > ACTIVE_MAX {
            self.release_buffers(out)?;
        }
        Ok(())
    }

    fn deflate(&mut self, mut data: &[u8], flush: DeflateFlush, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let deflate = match &mut self.tables {
            Some(deflate) => deflate,
            None => {
                let mut deflate = take_tables(self.config);
                if !self.history.is_empty() {
                    deflate.set_dictionary(&self.history).map_err(|_| EncodeError)?;
                }
                ACTIVE.set(ACTIVE.get() + 1);
                self.tables.insert(deflate)
            }
        };
        loop {
            let start = out.len();
            out.resize(start + STEP_BYTES, 0);
            let (read, written) = (deflate.total_in(), deflate.total_out());
            let status = deflate.compress(data, out.get_mut(start..).unwrap_or_default(), flush);
            let made = (deflate.total_out() - written) as usize;
            data = data.get((deflate.total_in() - read) as usize..).unwrap_or_default();
            out.truncate(start + made);
            match status {
                Ok(Status::StreamEnd) => return Ok(()),
                Ok(_) if made == STEP_BYTES => {}
                Ok(_) if data.is_empty() && flush != DeflateFlush::Finish => return Ok(()),
                Ok(_) | Err(_) => return Err(EncodeError),
            }
        }
    }

    /// Writes what is held back, and gives the tables back until there is more to encode.
    pub fn release_buffers(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        if self.has_pending {
            self.deflate(&[], DeflateFlush::SyncFlush, out)?;
        }
        self.has_pending = false;
        self.recycle_tables();
        self.bytes_out += (out.len() - before) as u64;
        Ok(())
    }

    /// Bytes that were read, and that were written.
    pub fn byte_counts(&self) -> (u64, u64) {
        (self.bytes_in, self.bytes_out)
    }

    /// Whether there is something to give back.
    pub fn is_active(&self) -> bool {
        self.tables.is_some()
    }

    fn recycle_tables(&mut self) {
        let Some(deflate) = self.tables.take() else { return };
        ACTIVE.set(ACTIVE.get() - 1);
        // None while the thread ends.
        let kept = SPARE.try_with(|spare| spare.replace(Some((self.config, deflate))));
        SPARE_USED.set(true);
        if kept.is_ok() && !SPARE_TIMER_ON.replace(true) {
            executor::spawn_boxed(drop_spare());
        }
    }

    fn update_history(&mut self, data: &[u8]) {
        let fresh = data.get(data.len().saturating_sub(HISTORY_BYTES)..).unwrap_or_default();
        let excess = (self.history.len() + fresh.len()).saturating_sub(HISTORY_BYTES);
        self.history.drain(..excess);
        self.history.extend_from_slice(fresh);
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.recycle_tables();
    }
}

/// The spare tables, or new ones.
fn take_tables(config: DeflateConfig) -> Deflate {
    match SPARE.take() {
        Some((known, mut deflate)) if known == config => {
            deflate.reset();
            deflate
        }
        _ => Deflate::new_with_config(config),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zlib_rs::{Inflate, InflateFlush};

    /// What a receiver can read of `packed`, and whether it is the end of it.
    fn unpack(packed: &[u8]) -> (Vec<u8>, bool) {
        let mut inflate = Inflate::new(true, 16 + 15);
        let mut out = vec![0; 4 << 20];
        let status = inflate.decompress(packed, &mut out, InflateFlush::SyncFlush).unwrap();
        assert_eq!(inflate.total_in(), packed.len() as u64);
        out.truncate(inflate.total_out() as usize);
        (out, status == Status::StreamEnd)
    }

    /// Words of a small language: it can be compressed, but no stretch of it is like the one before.
    fn text(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut out = Vec::new();
        while out.len() < length {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            out.extend_from_slice(format!("word{} ", state >> 22).as_bytes());
        }
        out.truncate(length);
        out
    }

    #[test]
    fn what_went_in_comes_out_at_every_level_and_window() {
        let body = text(70_000);
        for level in 1..=9 {
            for (bits, memory) in [(15, 8), (15, 6), (13, 5), (9, 1)] {
                let mut encoder = Encoder::new(level, Window { bits, memory }).unwrap();
                let mut out = Vec::new();
                for part in body.chunks(40_000) {
                    encoder.encode(part, Flush::More, &mut out).unwrap();
                }
                encoder.encode(&[], Flush::End, &mut out).unwrap();
                assert!(out.len() < body.len() * 6 / 10, "{level} {bits} {memory}: {}", out.len());
                assert_eq!(encoder.byte_counts(), (body.len() as u64, out.len() as u64));
                assert!(unpack(&out) == (body.clone(), true), "{level} {bits} {memory}");
            }
        }
    }

    #[test]
    fn an_empty_body_is_a_whole_member() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(6, Window::default()).unwrap();
        encoder.encode(&[], Flush::Pause, &mut out).unwrap();
        assert_eq!(out, b"");
        encoder.encode(&[], Flush::End, &mut out).unwrap();
        assert_eq!(out, b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
        assert_eq!(unpack(&out), (Vec::new(), true));
    }

    #[test]
    fn a_pause_keeps_nothing_back_and_a_second_one_adds_nothing() {
        let mut encoder = Encoder::new(1, Window::default()).unwrap();
        let mut out = Vec::new();
        let mut sent = Vec::new();
        for size in [1, 100, 8 * 1024, 70_000, 3] {
            sent.extend_from_slice(&text(size));
            encoder.encode(&text(size), Flush::Pause, &mut out).unwrap();
            assert_eq!(unpack(&out), (sent.clone(), false));
            let length = out.len();
            encoder.encode(&[], Flush::Pause, &mut out).unwrap();
            assert_eq!(out.len(), length);
        }
    }

    #[test]
    fn output_of_every_length_is_complete_at_a_pause() {
        // Noise comes out as long as it went in, so that some pause ends exactly with a step of the output.
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for size in STEP_BYTES - 40..STEP_BYTES + 4 {
            let body: Vec<u8> = (0..size).map(|_| noise()).collect();
            let mut encoder = Encoder::new(1, Window::default()).unwrap();
            let mut out = Vec::new();
            encoder.encode(&body, Flush::Pause, &mut out).unwrap();
            assert!(unpack(&out) == (body, false), "{size}");
        }
    }

    #[test]
    fn events_after_a_rest_still_resemble_those_before() {
        let event = |number: usize| format!("data: {{\"id\":{number},\"kind\":\"state_changed\",\"value\":true}}\n\n");
        let (mut encoder, mut sent) = (Encoder::new(1, Window::default()).unwrap(), String::new());
        let mut out = Vec::new();
        let mut length = 0;
        for number in 0..200 {
            length = out.len();
            sent.push_str(&event(number));
            encoder.encode(event(number).as_bytes(), Flush::More, &mut out).unwrap();
            assert!(encoder.is_active());
            encoder.release_buffers(&mut out).unwrap();
            assert!(!encoder.is_active());
        }
        assert!(out.len() - length < event(199).len() / 2, "{}", out.len() - length);
        encoder.encode(&text(100_000), Flush::End, &mut out).unwrap();
        assert!(unpack(&out) == ([sent.as_bytes(), &text(100_000)].concat(), true));
    }

    #[test]
    fn where_many_are_at_work_the_last_rest_between_calls() {
        let body = text(100_000);
        let mut encoders: Vec<_> = (0..20).map(|_| (Encoder::new(1, Window::default()).unwrap(), Vec::new())).collect();
        for part in body.chunks(10_000) {
            for (encoder, out) in &mut encoders {
                encoder.encode(part, Flush::More, out).unwrap();
            }
            let awake = encoders.iter().filter(|(encoder, _)| encoder.is_active()).count();
            assert_eq!(awake as u32, ACTIVE_MAX);
        }
        for (encoder, out) in &mut encoders {
            encoder.encode(&[], Flush::End, out).unwrap();
            assert!(unpack(out) == (body.clone(), true));
        }
        let (first, last) = (encoders[0].1.len(), encoders[19].1.len());
        assert!(last < first + first / 8, "{first} {last}");
        drop(encoders);
        assert_eq!(ACTIVE.get(), 0);
    }

    #[test]
    fn spare_tables_serve_the_next_and_go_after_a_while() {
        let has_spare = || SPARE.with_borrow(Option::is_some);
        let pack = |level: u8| {
            let mut out = Vec::new();
            Encoder::new(level, Window::default()).unwrap().encode(&text(1000), Flush::End, &mut out).unwrap();
            out
        };
        executor::run(async {
            let first = pack(1);
            assert!(has_spare());
            // What another level left behind changes nothing.
            pack(9);
            assert_eq!([pack(1), pack(1)], [first.clone(), first]);
            let mut waits = 0;
            while has_spare() {
                waits += 1;
                assert!(waits < 200);
                executor::sleep(Duration::from_millis(50)).await;
            }
            assert!(!SPARE_TIMER_ON.get());
        })
        .unwrap();
    }
}
