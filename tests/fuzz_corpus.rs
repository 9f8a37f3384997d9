//! Runs the fuzz targets on their corpora and on mutations of these, which are the same in each run.
//!
//! `tests/corpus/TARGET/` holds one input per file, and is the seed corpus of `fuzz/`. Inputs that found a bug are added there.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets what it does not expect fails")]

mod random;
#[expect(unreachable_pub, reason = "fuzz/ calls them from another crate")]
mod targets;

use std::fs;
use std::path::Path;

use crate::random::Random;

impl Random {
    /// Selects a part of `bytes`.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let len = self.below(16.min(bytes.len() - start) + 1);
        start..start + len
    }

    /// Changes `bytes` in one place, maybe with a part of `others`.
    fn mutate(&mut self, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
        const ODD: [&[u8]; 20] = [
            b"\r\n",
            b"\n",
            b"\r",
            b"\0",
            b" ",
            b"\t",
            b":",
            b";",
            b",",
            b"\"",
            b"{",
            b"}",
            b"\xff",
            b"%2e%2e/",
            b"%00",
            b"../",
            b"\r\n\r\n",
            b"0\r\n\r\n",
            b"FFFFFFFF",
            b"$",
        ];
        let range = self.range(bytes);
        match self.below(7) {
            0 if !bytes.is_empty() => {
                let at = self.below(bytes.len());
                bytes[at] ^= 1 << self.below(8);
            }
            1 => drop(bytes.drain(range)),
            2 => {
                let piece = bytes[range].to_vec();
                let at = self.below(bytes.len() + 1);
                drop(bytes.splice(at..at, piece));
            }
            3 => {
                let other = &others[self.below(others.len())];
                let piece = other[self.range(other)].to_vec();
                drop(bytes.splice(range, piece));
            }
            4 => bytes.truncate(range.end),
            5 => {
                let piece = bytes[range.clone()].repeat(1 + self.below(40));
                drop(bytes.splice(range, piece));
            }
            _ => drop(bytes.splice(range.start..range.start, ODD[self.below(ODD.len())].iter().copied())),
        }
    }
}

/// Calls `target` with each input of a corpus, and with `count` mutations.
fn replay(parser: &str, count: usize, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(parser);
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let inputs: Vec<Vec<u8>> = names.iter().map(|name| fs::read(name).unwrap()).collect();
    inputs.iter().for_each(|input| target(input));
    let mut random = Random(0x5001_6a7e_0000_0001);
    for _ in 0..count {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(4) {
            random.mutate(&mut input, &inputs);
        }
        input.truncate(600);
        target(&input);
    }
}

#[test]
fn requests() {
    replay("request", 4000, targets::request);
}

#[test]
fn responses() {
    replay("response", 4000, targets::response);
}

#[test]
fn chunks() {
    replay("chunked", 6000, targets::chunked);
}

#[test]
fn proxy_protocol_headers() {
    replay("proxy_protocol", 6000, targets::proxy_protocol);
}

#[test]
fn request_targets() {
    replay("target", 40_000, targets::target);
}

#[test]
fn authorizations() {
    replay("authorization", 20_000, targets::authorization);
}

#[test]
fn stored_passwords() {
    replay("password", 20_000, targets::password);
}

#[test]
fn configurations() {
    replay("config", 3000, targets::config);
}

#[test]
fn dns_responses() {
    replay("dns", 40_000, targets::dns);
}

#[test]
fn expressions() {
    replay("pattern", 20_000, targets::pattern);
}

#[test]
fn frames_of_websockets() {
    replay("frames", 4000, targets::frames);
}

#[test]
fn ranges() {
    replay("range", 40_000, targets::range);
}

#[test]
fn handovers() {
    replay("handover", 4000, targets::handover);
}

#[test]
#[cfg(feature = "tls")]
fn certificates() {
    replay("x509", 20_000, targets::x509);
}
