//! The encoder: deflate by zlib-rs, in gzip's framing.
//!
//! An idle encoder releases its tables, which are most of its memory, and continues later with its latest input as a
//! dictionary. While more than [`ACTIVE_MAX`] have tables, each further one releases them after every call. One spare set of
//! tables is kept for a moment for the next response: to allocate them takes longer than to compress a small one.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use zlib_rs::crc32::crc32;
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Method, Status, Strategy};

use crate::config::Window;
use crate::request::gzip_encoder::{EncodeError, Flush};
use crate::runtime::executor;

/// Latest input that an encoder without tables keeps: enough for the next of a stream of similar events.
const HISTORY_BYTES: usize = 4 * 1024;
/// Encoders of one worker that keep their tables between calls. For the others output and time grow by about 1 %.
const ACTIVE_MAX: u32 = 4;
/// How long unused spare tables are kept.
const SPARE_LIFETIME: Duration = Duration::from_millis(250);
/// The output buffer grows by this.
const STEP_BYTES: usize = 8 * 1024;
/// Magic number, deflate, no flags, no time, no extra flags, Unix (RFC 1952 2.3).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];

thread_local! {
    /// Encoders of this worker that have tables.
    static ACTIVE: Cell<u32> = const { Cell::new(0) };
    static SPARE: RefCell<Option<(DeflateConfig, Deflate)>> = const { RefCell::new(None) };
    /// Spare tables were stored since `drop_spare` last checked.
    static SPARE_USED: Cell<bool> = const { Cell::new(false) };
    /// `drop_spare` runs.
    static SPARE_TIMER_ON: Cell<bool> = const { Cell::new(false) };
}

/// Drops the spare tables once no tables were stored for [`SPARE_LIFETIME`].
async fn drop_spare() {
    while SPARE_USED.replace(false) {
        executor::sleep(SPARE_LIFETIME).await;
    }
    SPARE.take();
    SPARE_TIMER_ON.set(false);
}

/// Encodes one gzip member.
pub struct Encoder {
    config: DeflateConfig,
    /// None before the first byte and while idle.
    tables: Option<Deflate>,
    history: Vec<u8>,
    crc: u32,
    /// Output may be kept back.
    has_pending: bool,
    bytes_in: u64,
    bytes_out: u64,
}

impl Encoder {
    /// `None` only in builds without gzip.
    pub fn new(level: u8, window: Window) -> Option<Self> {
        // Output of zlib-rs's level 1 is a fifth larger than that of zlib's. Its level 2 is smaller and faster than zlib's 1.
        let level = i32::from(level).max(2);
        let config = DeflateConfig {
            level,
            method: Method::Deflated,
            window_bits: -i32::from(window.bits), // no zlib header
            mem_level: i32::from(window.memory),
            strategy: Strategy::Default,
        };
        Some(Self { config, tables: None, history: Vec::new(), crc: 0, has_pending: false, bytes_in: 0, bytes_out: 0 })
    }

    /// Encodes `data`, and appends the output to `out`.
    pub fn encode(&mut self, data: &[u8], flush: Flush, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        if self.bytes_in == 0 && self.bytes_out == 0 && (!data.is_empty() || flush == Flush::Finish) {
            out.extend_from_slice(&GZIP_HEADER);
        }
        self.crc = crc32(self.crc, data);
        self.bytes_in += data.len() as u64;
        self.has_pending |= !data.is_empty();
        if self.has_pending || flush == Flush::Finish {
            let mode = match flush {
                Flush::None => DeflateFlush::NoFlush,
                Flush::Sync => DeflateFlush::SyncFlush,
                Flush::Finish => DeflateFlush::Finish,
            };
            self.deflate(data, mode, out)?;
            self.has_pending = flush == Flush::None;
        }
        if flush == Flush::Finish {
            self.recycle_tables();
            self.history = Vec::new();
            out.extend_from_slice(&self.crc.to_le_bytes());
            out.extend_from_slice(&(self.bytes_in as u32).to_le_bytes()); // modulo 2^32 (RFC 1952 2.3.1)
        } else {
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
            let (bytes_in, bytes_out) = (deflate.total_in(), deflate.total_out());
            let status = deflate.compress(data, out.get_mut(start..).ok_or(EncodeError)?, flush);
            let produced = (deflate.total_out() - bytes_out) as usize;
            data = data.get((deflate.total_in() - bytes_in) as usize..).ok_or(EncodeError)?;
            out.truncate(start + produced);
            match status {
                Ok(Status::StreamEnd) => return Ok(()),
                Ok(_) if produced == STEP_BYTES => {}
                Ok(_) if data.is_empty() && flush != DeflateFlush::Finish => return Ok(()),
                Ok(_) | Err(_) => return Err(EncodeError),
            }
        }
    }

    /// Flushes, and releases the tables until there is more to encode.
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

    /// Returns the bytes of input and of output.
    pub fn byte_counts(&self) -> (u64, u64) {
        (self.bytes_in, self.bytes_out)
    }

    /// Whether there are tables to release.
    pub fn is_active(&self) -> bool {
        self.tables.is_some()
    }

    fn recycle_tables(&mut self) {
        let Some(deflate) = self.tables.take() else { return };
        ACTIVE.set(ACTIVE.get() - 1);
        // Fails while the thread ends.
        let stored = SPARE.try_with(|spare| spare.replace(Some((self.config, deflate))));
        SPARE_USED.set(true);
        if stored.is_ok() && !SPARE_TIMER_ON.replace(true) {
            executor::spawn_boxed(drop_spare());
        }
    }

    fn update_history(&mut self, data: &[u8]) {
        let latest = data.last_chunk::<HISTORY_BYTES>().map_or(data, |latest| latest);
        let excess = (self.history.len() + latest.len()).saturating_sub(HISTORY_BYTES);
        self.history.drain(..excess);
        self.history.extend_from_slice(latest);
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.recycle_tables();
    }
}

/// Returns the spare tables, or new ones.
fn take_tables(config: DeflateConfig) -> Deflate {
    match SPARE.take() {
        Some((spare_config, mut deflate)) if spare_config == config => {
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

    /// What a receiver can decode of `compressed`, and whether it has ended.
    fn decode(compressed: &[u8]) -> (Vec<u8>, bool) {
        let mut inflate = Inflate::new(true, 16 + 15);
        let mut out = vec![0; 4 << 20];
        let status = inflate.decompress(compressed, &mut out, InflateFlush::SyncFlush).unwrap();
        assert_eq!(inflate.total_in(), compressed.len() as u64);
        out.truncate(inflate.total_out() as usize);
        (out, status == Status::StreamEnd)
    }

    /// Pseudo-random words: compressible, but without repeated passages.
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
    fn output_decodes_to_the_input_at_every_level_and_window() {
        let body = text(70_000);
        for level in 1..=9 {
            for (bits, memory) in [(15, 8), (15, 6), (13, 5), (9, 1)] {
                let mut encoder = Encoder::new(level, Window { bits, memory }).unwrap();
                let mut out = Vec::new();
                for part in body.chunks(40_000) {
                    encoder.encode(part, Flush::None, &mut out).unwrap();
                }
                encoder.encode(&[], Flush::Finish, &mut out).unwrap();
                assert!(out.len() < body.len() * 6 / 10, "{level} {bits} {memory}: {}", out.len());
                assert_eq!(encoder.byte_counts(), (body.len() as u64, out.len() as u64));
                assert!(decode(&out) == (body.clone(), true), "{level} {bits} {memory}");
            }
        }
    }

    #[test]
    fn an_empty_body_is_a_whole_member() {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(6, Window::default()).unwrap();
        encoder.encode(&[], Flush::Sync, &mut out).unwrap();
        assert_eq!(out, b"");
        encoder.encode(&[], Flush::Finish, &mut out).unwrap();
        assert_eq!(out, b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0");
        assert_eq!(decode(&out), (Vec::new(), true));
    }

    #[test]
    fn a_sync_keeps_nothing_back_and_a_second_one_adds_nothing() {
        let mut encoder = Encoder::new(1, Window::default()).unwrap();
        let mut out = Vec::new();
        let mut sent = Vec::new();
        for size in [1, 100, 8 * 1024, 70_000, 3] {
            sent.extend_from_slice(&text(size));
            encoder.encode(&text(size), Flush::Sync, &mut out).unwrap();
            assert_eq!(decode(&out), (sent.clone(), false));
            let length = out.len();
            encoder.encode(&[], Flush::Sync, &mut out).unwrap();
            assert_eq!(out.len(), length);
        }
    }

    #[test]
    fn output_of_every_length_is_complete_at_a_sync() {
        // Noise is not compressed, so that for some size the output ends exactly with a step.
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for size in STEP_BYTES - 40..STEP_BYTES + 4 {
            let body: Vec<u8> = (0..size).map(|_| noise()).collect();
            let mut encoder = Encoder::new(1, Window::default()).unwrap();
            let mut out = Vec::new();
            encoder.encode(&body, Flush::Sync, &mut out).unwrap();
            assert!(decode(&out) == (body, false), "{size}");
        }
    }

    #[test]
    fn history_survives_the_release_of_tables() {
        let event = |number: usize| format!("data: {{\"id\":{number},\"kind\":\"state_changed\",\"value\":true}}\n\n");
        let (mut encoder, mut sent) = (Encoder::new(1, Window::default()).unwrap(), String::new());
        let mut out = Vec::new();
        let mut length = 0;
        for number in 0..200 {
            length = out.len();
            sent.push_str(&event(number));
            encoder.encode(event(number).as_bytes(), Flush::None, &mut out).unwrap();
            assert!(encoder.is_active());
            encoder.release_buffers(&mut out).unwrap();
            assert!(!encoder.is_active());
        }
        assert!(out.len() - length < event(199).len() / 2, "{}", out.len() - length);
        encoder.encode(&text(100_000), Flush::Finish, &mut out).unwrap();
        assert!(decode(&out) == ([sent.as_bytes(), &text(100_000)].concat(), true));
    }

    #[test]
    fn encoders_above_the_maximum_release_their_tables_after_each_call() {
        let body = text(100_000);
        let mut encoders: Vec<_> = (0..20).map(|_| (Encoder::new(1, Window::default()).unwrap(), Vec::new())).collect();
        for part in body.chunks(10_000) {
            for (encoder, out) in &mut encoders {
                encoder.encode(part, Flush::None, out).unwrap();
            }
            let active = encoders.iter().filter(|(encoder, _)| encoder.is_active()).count();
            assert_eq!(active as u32, ACTIVE_MAX);
        }
        for (encoder, out) in &mut encoders {
            encoder.encode(&[], Flush::Finish, out).unwrap();
            assert!(decode(out) == (body.clone(), true));
        }
        let (first, last) = (encoders[0].1.len(), encoders[19].1.len());
        assert!(last < first + first / 8, "{first} {last}");
        drop(encoders);
        assert_eq!(ACTIVE.get(), 0);
    }

    #[test]
    fn spare_tables_are_reused_and_dropped_after_a_while() {
        let has_spare = || SPARE.with_borrow(Option::is_some);
        let encode = |level: u8| {
            let mut out = Vec::new();
            Encoder::new(level, Window::default()).unwrap().encode(&text(1000), Flush::Finish, &mut out).unwrap();
            out
        };
        executor::run(async {
            let first = encode(1);
            assert!(has_spare());
            // Spare tables of another level are not used.
            encode(9);
            assert_eq!([encode(1), encode(1)], [first.clone(), first]);
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
