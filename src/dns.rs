//! Messages of the domain name system (RFC 1035), as far as is needed to ask for the addresses of a name.
//!
//! What comes may come from anybody. A message is an answer if its id and its question are ours, and what of it can't be
//! read makes all of it no answer. Pointers in names lead backwards; aliases are followed in the order of the records, of
//! which so many are looked at.

use std::net::IpAddr;

/// Bytes of a name without the empty label at its end, and of one of its labels (RFC 1035 2.3.4).
const NAME_BYTES_MAX: usize = 254;
const LABEL_BYTES_MAX: usize = 63;
/// A length from here on is the high byte of a pointer.
const POINTER: u8 = 0xc0;
/// Records of an answer that are looked at.
const RECORDS_MAX: u16 = 512;
/// Addresses that are taken of an answer.
const ADDRS_MAX: usize = 128;

/// In the second word of a message (RFC 1035 4.1.1): it is an answer; what kind of question it is for, where 0 is the one
/// that everybody asks; it was cut; it wants an answer that the server may have to look for; the response code.
const ANSWER: u16 = 0x8000;
const OPCODE: u16 = 0x7800;
const TRUNCATED: u16 = 0x0200;
const RECURSION: u16 = 0x0100;
const CODE: u16 = 0x000f;

/// The class of the Internet, and types of records.
const INTERNET: u16 = 1;
const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;

/// A name as messages have it: each label after its length, without the empty one at the end. In small letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Vec<u8>);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ipv4,
    Ipv6,
}

impl Kind {
    fn code(self) -> u16 {
        match self {
            Self::Ipv4 => A,
            Self::Ipv6 => AAAA,
        }
    }
}

/// One question.
pub struct Question<'n> {
    pub id: u16,
    pub name: &'n Name,
    pub kind: Kind,
}

/// What a server says to it.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    Found(Found),
    /// A response code: there is no answer.
    Refused(u8),
    /// It does not fit into a datagram.
    Truncated,
}

/// Addresses, or what to ask for instead.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub addrs: Vec<IpAddr>,
    /// The name stands for this one, of which no address was told.
    pub alias: Option<Name>,
    /// Seconds that this may be believed.
    pub ttl: u32,
}

/// There is no such name.
pub const NO_NAME: u8 = 3;

/// The name of a host; `None` if it can't be one.
pub fn name(host: &str) -> Option<Name> {
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    let mut name = Name(Vec::new());
    for label in host.strip_suffix('.').unwrap_or(host).split('.') {
        name.add(label.as_bytes()).filter(|()| label.bytes().all(is_printable))?;
    }
    Some(name)
}

impl Name {
    fn add(&mut self, label: &[u8]) -> Option<()> {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || self.0.len() + 1 + label.len() > NAME_BYTES_MAX {
            return None;
        }
        self.0.push(label.len() as u8);
        self.0.extend(label.iter().map(u8::to_ascii_lowercase));
        Some(())
    }
}

impl Question<'_> {
    /// The message that asks.
    pub fn write(&self) -> Vec<u8> {
        let mut message = [self.id, RECURSION, 1, 0, 0, 0].map(u16::to_be_bytes).concat();
        message.extend_from_slice(&self.name.0);
        message.push(0);
        message.extend([self.kind.code(), INTERNET].map(u16::to_be_bytes).concat());
        message
    }

    /// What a message answers; `None` if it is no answer to this.
    pub fn read(&self, bytes: &[u8]) -> Option<Answer> {
        let mut message = Reader { bytes, at: 0 };
        let [id, flags, questions, answers, _, _] = message.words()?;
        if id != self.id || flags & (ANSWER | OPCODE) != ANSWER || questions != 1 {
            return None;
        }
        if message.name()? != *self.name || message.words()? != [self.kind.code(), INTERNET] {
            return None;
        }
        match flags & CODE {
            0 if flags & TRUNCATED != 0 => Some(Answer::Truncated),
            0 => self.gather(&mut message, answers).map(Answer::Found),
            code => Some(Answer::Refused(code as u8)),
        }
    }

    /// What the records say of the name, or of what it stands for.
    fn gather(&self, message: &mut Reader<'_>, records: u16) -> Option<Found> {
        let mut found = Found { ttl: u32::MAX, ..Found::default() };
        let mut alias: Option<Name> = None;
        for _ in 0..records.min(RECORDS_MAX) {
            let owner = message.name()?;
            let [kind, class, high, low, length] = message.words()?;
            let mut data = message.part(length.into())?;
            if class != INTERNET || owner != *alias.as_ref().unwrap_or(self.name) {
                continue;
            }
            let addr: Option<IpAddr> = match (kind, self.kind) {
                (CNAME, _) => {
                    alias = Some(data.name()?);
                    None
                }
                (A, Kind::Ipv4) => Some(data.bytes::<4>()?.into()),
                (AAAA, Kind::Ipv6) => Some(data.bytes::<16>()?.into()),
                _ => continue,
            };
            if data.at != data.bytes.len() {
                return None;
            }
            found.ttl = found.ttl.min(u32::from(high) << 16 | u32::from(low));
            found.addrs.extend(addr.filter(|_| found.addrs.len() < ADDRS_MAX));
        }
        found.alias = alias.filter(|_| found.addrs.is_empty());
        Some(found)
    }
}

/// What is read of a message, from its start to where the part that is read ends.
struct Reader<'m> {
    bytes: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    fn bytes<const COUNT: usize>(&mut self) -> Option<[u8; COUNT]> {
        let bytes = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += COUNT;
        Some(bytes)
    }

    /// Numbers of two bytes.
    fn words<const COUNT: usize>(&mut self) -> Option<[u16; COUNT]> {
        let mut words = [0; COUNT];
        for word in &mut words {
            *word = u16::from_be_bytes(self.bytes()?);
        }
        Some(words)
    }

    /// The next so many bytes, which this steps over.
    fn part(&mut self, length: usize) -> Option<Self> {
        let at = self.at;
        self.at += length;
        Some(Self { bytes: self.bytes.get(..self.at)?, at })
    }

    fn rest(&self) -> &'m [u8] {
        self.bytes.get(self.at..).unwrap_or_default()
    }

    /// A name, of which the rest may be another one that stands before it (RFC 1035 4.1.4).
    fn name(&mut self) -> Option<Name> {
        let mut name = Name(Vec::new());
        // Where what is read now begins: each pointer leads to before that, so that they end.
        let mut start = self.at;
        let mut after = None;
        loop {
            let [length] = self.bytes()?;
            if length == 0 {
                break;
            }
            if length >= POINTER {
                let [low] = self.bytes()?;
                after = after.or(Some(self.at));
                self.at = u16::from_be_bytes([length - POINTER, low]).into();
                if self.at >= start {
                    return None;
                }
                start = self.at;
                continue;
            }
            // A length that no label has is none here either.
            name.add(self.part(length.into())?.rest())?;
        }
        self.at = after.unwrap_or(self.at);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn ask<T>(host: &str, kind: Kind, with: impl FnOnce(&Question<'_>) -> T) -> T {
        with(&Question { id: ID, name: &name(host).unwrap(), kind })
    }

    /// The answer to a question for `a.test`, of type 1.
    fn answer(flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [ID, 0x8180 | flags, 1, records.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
        bytes.extend_from_slice(b"\x01a\x04test\0\0\x01\0\x01");
        records.iter().for_each(|record| bytes.extend_from_slice(record));
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Answer> {
        ask("a.test", Kind::Ipv4, |question| question.read(bytes))
    }

    fn found(addrs: &[[u8; 4]], alias: Option<&str>, ttl: u32) -> Option<Answer> {
        let addrs = addrs.iter().map(|addr| IpAddr::from(*addr)).collect();
        Some(Answer::Found(Found { addrs, alias: alias.map(|alias| name(alias).unwrap()), ttl }))
    }

    const ADDR: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    /// `a.test` stands for `b.test`.
    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x0e";

    #[test]
    fn a_question_is_written_and_only_its_own_answer_read() {
        let written = ask("a.test", Kind::Ipv6, |question| question.write());
        assert_eq!(written, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x1c\0\x01");
        let good = answer(0, &[ADDR]);
        assert_eq!(read(&good), found(&[[10, 0, 0, 1]], None, 60));
        assert_eq!(ask("A.Test.", Kind::Ipv4, |question| question.read(&good)), found(&[[10, 0, 0, 1]], None, 60));
        assert_eq!(ask("b.test", Kind::Ipv4, |question| question.read(&good)), None);
        assert_eq!(ask("a.test", Kind::Ipv6, |question| question.read(&good)), None);
        for (at, what) in [(0, "the id"), (2, "a question"), (5, "no question"), (23, "the class")] {
            let mut bad = good.clone();
            bad[at] = if at == 2 { 0x01 } else { bad[at] ^ 1 };
            assert_eq!(read(&bad), None, "{what}");
        }
        assert_eq!(read(&answer(0x0200, &[])), Some(Answer::Truncated));
        for code in 1..=15 {
            assert_eq!(read(&answer(code, &[ADDR])), Some(Answer::Refused(code as u8)));
        }
    }

    #[test]
    fn aliases_are_followed_as_far_as_they_are_told() {
        let of_b = b"\xc0\x24\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x02";
        assert_eq!(read(&answer(0, &[])), found(&[], None, u32::MAX));
        assert_eq!(read(&answer(0, &[ALIAS])), found(&[], Some("b.test"), 5));
        assert_eq!(read(&answer(0, &[ALIAS, of_b])), found(&[[10, 0, 0, 2]], None, 5), "the least time counts");
        assert_eq!(read(&answer(0, &[of_b])), None, "the pointer leads into the record itself");
        assert_eq!(read(&answer(0, &[ALIAS, ADDR])), found(&[], Some("b.test"), 5), "an address of another name");
        let to_itself: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x0c";
        assert_eq!(read(&answer(0, &[to_itself; 3])), found(&[], Some("a.test"), 5));
        let many = read(&answer(0, &[ADDR; 600]));
        assert!(matches!(many, Some(Answer::Found(found)) if found.addrs.len() == ADDRS_MAX));
    }

    #[test]
    fn hostile_bytes_are_no_answer() {
        let loops: &[u8] = b"\xc0\x18\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let forward: &[u8] = b"\xc0\xff\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let reserved: &[u8] = b"\x80\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let short: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x00";
        let long: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\x0a\0\0\x01";
        let wide: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x05\x0a\0\0\x01\x02";
        let alias_loops: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x24";
        for record in [loops, forward, reserved, short, long, wide, alias_loops] {
            assert_eq!(read(&answer(0, &[record])), None, "{record:x?}");
        }
        let mut counts = answer(0, &[ADDR]);
        counts[6] = 0xff;
        assert_eq!(read(&counts), None, "more records are counted than there are");
        let whole = answer(0, &[ALIAS, ADDR]);
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None, "cut at {end}");
        }
        // Whatever a byte becomes, reading ends and does no harm.
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = byte;
                let _ = read(&changed);
            }
        }
    }

    #[test]
    fn names_that_are_none() {
        let label = "a".repeat(64);
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for host in ["", "a..b", &label, &long, ".a"] {
            assert!(name(host).is_none(), "{host}");
        }
        assert!(name("a_b-c.test").is_some());
    }
}
