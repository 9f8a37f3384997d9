//! The parsers on their corpus and on mutations of it: nothing panics, and what comes in two pieces means what it means
//! in one.
//!
//! `tests/corpus/PARSER/` holds the inputs, one a file. The mutations are the same in each run. An input that once did
//! harm goes there as a new file.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that meets what it does not expect fails")]

mod random;

use std::fs;
use std::path::Path;

use smolgate::body::Decoder;
use smolgate::config::{self, ErrorLog, Folders, Source};
use smolgate::credentials::Credentials;
use smolgate::head::{Framing, Limits, Names, Request, Response, Scan};
use smolgate::password::Stored;
use smolgate::proxy_protocol;
use smolgate::target;

use crate::random::Random;

/// Small, so that small inputs pass them.
const LIMITS: Limits = Limits { line_bytes_max: 120, head_bytes_max: 400 };

/// What became of an input: refused, not whole yet, or understood as this.
type Outcome = Result<Option<String>, ()>;

impl Random {
    /// A piece of `bytes`.
    fn range(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let start = self.below(bytes.len() + 1);
        let len = self.below(16.min(bytes.len() - start) + 1);
        start..start + len
    }

    /// Changes `bytes` at one place; `others` may lend a piece.
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

/// Gives `try_one` each input of a corpus, and `count` mutations of them all.
fn replay(parser: &str, count: usize, try_one: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(parser);
    let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let inputs: Vec<Vec<u8>> = names.iter().map(|name| fs::read(name).unwrap()).collect();
    inputs.iter().for_each(|input| try_one(input));
    let mut random = Random(0x5001_6a7e_0000_0001);
    for _ in 0..count {
        let mut input = inputs[random.below(inputs.len())].clone();
        for _ in 0..=random.below(4) {
            random.mutate(&mut input, &inputs);
        }
        input.truncate(600);
        try_one(&input);
    }
}

/// Whether an input means the same in one piece and in two, wherever it is cut.
fn in_pieces(input: &[u8], read: impl Fn(&[&[u8]]) -> Outcome) {
    let whole = read(&[input]);
    for at in 0..=input.len() {
        let (one, two) = input.split_at(at);
        assert_eq!(read(&[one, two]), whole, "cut at {at}: {}", input.escape_ascii());
    }
}

/// A head that comes in pieces: scanned after each of them, and parsed when it is whole.
fn head(mut scan: Scan, pieces: &[&[u8]], parse: impl Fn(&[u8]) -> Result<String, ()>) -> Outcome {
    let mut bytes = Vec::new();
    for piece in pieces {
        bytes.extend_from_slice(piece);
        if let Some((start, end)) = scan.find_end(&bytes, LIMITS).map_err(drop)? {
            return parse(&bytes[start..end]).map(|understood| Some(format!("{end} {understood}")));
        }
    }
    Ok(None)
}

#[test]
fn requests() {
    let parse = |head: &[u8]| Request::parse(head, Names::Plain).map(|request| format!("{request:?}")).map_err(drop);
    replay("request", 4000, |input| in_pieces(input, |pieces| head(Scan::request(), pieces, parse)));
}

#[test]
fn responses() {
    let parse = |head: &[u8]| Response::parse(head).map(|response| format!("{response:?}")).map_err(drop);
    replay("response", 4000, |input| in_pieces(input, |pieces| head(Scan::response(), pieces, parse)));
}

#[test]
fn chunks() {
    let read = |pieces: &[&[u8]]| {
        let mut decoder = Decoder::new(Framing::Chunked);
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() && !decoder.is_done() {
                let step = decoder.read(rest).map_err(drop)?;
                assert!(step.used > 0, "it stands still");
                body.extend_from_slice(step.data);
                used += step.used;
                rest = &rest[step.used..];
            }
        }
        Ok(decoder.is_done().then(|| format!("{used} {}", body.escape_ascii())))
    };
    replay("chunked", 6000, |input| in_pieces(input, read));
}

#[test]
fn introductions() {
    let read = |pieces: &[&[u8]]| {
        let mut bytes = Vec::new();
        for piece in pieces {
            bytes.extend_from_slice(piece);
            if let Some((addresses, used)) = proxy_protocol::parse(&bytes).map_err(drop)? {
                assert!(used <= bytes.len(), "it is longer than its bytes");
                return Ok(Some(format!("{used} {addresses:?}")));
            }
        }
        assert!(bytes.len() < 4096, "it never ends");
        Ok(None)
    };
    replay("proxy_protocol", 6000, |input| in_pieces(input, read));
}

#[test]
fn targets() {
    replay("target", 40_000, |input| {
        if let Ok(name) = target::host_name(input) {
            let known = |c: char| c.is_ascii_alphanumeric() || "-._~[]:".contains(c);
            assert!(name.chars().all(known), "a host {name:?}");
        }
        // A request line holds nothing else.
        if !input.iter().all(u8::is_ascii_graphic) {
            return;
        }
        let path = target::parse(input, true).ok().map(|target| target.path.into_owned());
        if let Some(path) = target::normalize(input, false) {
            let climbs = path.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b".."));
            assert!(path.starts_with(b"/") && !climbs, "{} of {}", path.escape_ascii(), input.escape_ascii());
        }
        for path in path.into_iter().chain(target::normalize(input, true).map(std::borrow::Cow::into_owned)) {
            let safe = path.starts_with(b"/") && !path.contains(&0) && !path.windows(2).any(|pair| pair == b"//");
            let climbs = path.split(|b| *b == b'/').any(|segment| matches!(segment, b"." | b".."));
            assert!(safe && !climbs, "{} of {}", path.escape_ascii(), input.escape_ascii());
            let mut encoded = Vec::new();
            target::encode_path(&path, &mut encoded);
            assert_eq!(target::normalize(&encoded, true).as_deref(), Some(&path[..]), "{}", input.escape_ascii());
        }
    });
}

#[test]
fn authorizations() {
    replay("authorization", 20_000, |input| {
        if let Some(Credentials { user, password }) = Credentials::parse(input) {
            assert!(!user.contains(&b':') && user.len() + password.len() < input.len());
        }
    });
}

#[test]
fn stored_passwords() {
    replay("password", 20_000, |input| {
        // The slow ones would take hours.
        if let Some(stored) = Stored::parse(input).filter(|stored| !stored.is_slow()) {
            assert!(!stored.is(b"another") && !stored.is(input));
        }
    });
}

#[test]
fn configurations() {
    replay("config", 3000, |input| {
        // Nothing of this machine is to be read.
        let text = String::from_utf8_lossy(input).replace("include", "exclude");
        let folders = Folders { prefix: "/nonexistent".to_owned() };
        match config::load(Source::Text("corpus", text), "", folders, ErrorLog::default_to(None)) {
            Ok(config) => drop(format!("{config:?}")),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    });
}
