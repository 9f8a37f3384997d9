//! Messages of the domain name system (RFC 1035), as far as is needed to ask for the addresses of a name.
//!
//! An answer may be forged. A message is one if its id and its question are ours, and if all of it can be read (by the crate
//! `domain`, whose names have pointers that lead backwards, and only so many). Aliases are followed in the order of the
//! records, of which 512 are looked at.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message::RecordSection;
use domain::base::{Message, MessageBuilder, ParsedName, Rtype, ToName};
use domain::dep::octseq::Array;
use domain::rdata::{A, Aaaa, Cname};

/// Bytes of a question: a head of 12, the longest name, its type and class.
const QUESTION_BYTES_MAX: usize = 12 + 255 + 4;
/// Records of an answer that are looked at.
const RECORDS_MAX: usize = 512;
/// Addresses that are taken of an answer.
const ADDRS_MAX: usize = 128;

/// A name, of at most 255 bytes.
pub type DomainName = domain::base::Name<Array<255>>;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordType {
    A,
    Aaaa,
}

impl RecordType {
    fn to_rtype(self) -> Rtype {
        match self {
            Self::A => Rtype::A,
            Self::Aaaa => Rtype::AAAA,
        }
    }
}

/// One question.
pub struct Question<'n> {
    pub id: u16,
    pub name: &'n DomainName,
    pub rtype: RecordType,
}

/// What a server says to it.
#[derive(Debug, PartialEq, Eq)]
pub enum Response {
    Addresses(Addresses),
    /// A response code: there is no answer.
    Error(u8),
    /// It does not fit into a datagram.
    Truncated,
}

/// Addresses, or what to ask for instead.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    pub addrs: Vec<IpAddr>,
    /// The name stands for this one, of which no address was told.
    pub cname: Option<Box<DomainName>>,
    /// Seconds that this may be believed.
    pub ttl: u32,
}

/// There is no such name.
pub const NXDOMAIN: u8 = 3;

/// The name of a host; `None` if it can't be one.
pub fn parse_name(host: &str) -> Option<DomainName> {
    // A backslash begins an escape, which a host has no use for.
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    DomainName::from_chars(host.chars()).ok().filter(|_| host.bytes().all(is_printable))
}

impl Question<'_> {
    /// The message that asks.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut message = MessageBuilder::from_target(Array::<QUESTION_BYTES_MAX>::new()).ok()?;
        message.header_mut().set_id(self.id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((self.name, self.rtype.to_rtype())).ok()?;
        Some(message.finish().as_ref().to_vec())
    }

    /// What a message answers; `None` if it is no answer to this.
    pub fn parse_response(&self, bytes: &[u8]) -> Option<Response> {
        let message = Message::from_slice(bytes).ok()?;
        let header = message.header();
        if !header.qr() || header.opcode() != Opcode::QUERY || header.id() != self.id {
            return None;
        }
        let asked = message.sole_question().ok()?;
        if asked.qname() != self.name || asked.qtype() != self.rtype.to_rtype() || asked.qclass() != Class::IN {
            return None;
        }
        match header.rcode() {
            Rcode::NOERROR if header.tc() => Some(Response::Truncated),
            Rcode::NOERROR => self.gather(message.answer().ok()?).map(Response::Addresses),
            code => Some(Response::Error(code.to_int())),
        }
    }

    /// What the records say of the name, or of what it stands for.
    fn gather(&self, records: RecordSection<'_, [u8]>) -> Option<Addresses> {
        let mut found = Addresses { ttl: u32::MAX, ..Addresses::default() };
        let mut cname: Option<DomainName> = None;
        for record in records.take(RECORDS_MAX) {
            let record = record.ok()?;
            if record.class() != Class::IN || record.owner() != *cname.as_ref().unwrap_or(self.name) {
                continue;
            }
            let addr: Option<IpAddr> = match (record.rtype(), self.rtype) {
                (Rtype::CNAME, _) => {
                    let target = record.to_record::<Cname<ParsedName<&[u8]>>>().ok()??;
                    cname = Some(target.data().cname().try_to_name().ok()?);
                    None
                }
                (Rtype::A, RecordType::A) => Some(record.to_record::<A>().ok()??.data().addr().into()),
                (Rtype::AAAA, RecordType::Aaaa) => Some(record.to_record::<Aaaa>().ok()??.data().addr().into()),
                _ => continue,
            };
            found.ttl = found.ttl.min(record.ttl().as_secs());
            found.addrs.extend(addr.filter(|_| found.addrs.len() < ADDRS_MAX));
        }
        found.cname = cname.filter(|_| found.addrs.is_empty()).map(Box::new);
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: u16 = 0x1234;

    fn ask<T>(host: &str, rtype: RecordType, with: impl FnOnce(&Question<'_>) -> T) -> T {
        with(&Question { id: ID, name: &parse_name(host).unwrap(), rtype })
    }

    /// The answer to a question for `a.test`, of type 1.
    fn answer(flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [ID, 0x8180 | flags, 1, records.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
        bytes.extend_from_slice(b"\x01a\x04test\0\0\x01\0\x01");
        records.iter().for_each(|record| bytes.extend_from_slice(record));
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Response> {
        ask("a.test", RecordType::A, |question| question.parse_response(bytes))
    }

    fn found(addrs: &[[u8; 4]], cname: Option<&str>, ttl: u32) -> Option<Response> {
        let addrs = addrs.iter().map(|addr| IpAddr::from(*addr)).collect();
        Some(Response::Addresses(Addresses {
            addrs,
            cname: cname.map(|cname| Box::new(parse_name(cname).unwrap())),
            ttl,
        }))
    }

    const ADDR: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    /// `a.test` stands for `b.test`.
    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x0e";

    #[test]
    fn a_question_is_written_and_only_its_own_answer_read() {
        let written = ask("a.test", RecordType::Aaaa, |question| question.encode().unwrap());
        assert_eq!(written, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x1c\0\x01");
        let good = answer(0, &[ADDR]);
        assert_eq!(read(&good), found(&[[10, 0, 0, 1]], None, 60));
        assert_eq!(
            ask("A.Test.", RecordType::A, |question| question.parse_response(&good)),
            found(&[[10, 0, 0, 1]], None, 60)
        );
        assert_eq!(ask("b.test", RecordType::A, |question| question.parse_response(&good)), None);
        assert_eq!(ask("a.test", RecordType::Aaaa, |question| question.parse_response(&good)), None);
        for (at, what) in [(0, "the id"), (2, "a question"), (5, "no question"), (23, "the class")] {
            let mut bad = good.clone();
            bad[at] = if at == 2 { 0x01 } else { bad[at] ^ 1 };
            assert_eq!(read(&bad), None, "{what}");
        }
        assert_eq!(read(&answer(0x0200, &[])), Some(Response::Truncated));
        for code in 1..=15 {
            assert_eq!(read(&answer(code, &[ADDR])), Some(Response::Error(code as u8)));
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
        assert!(matches!(many, Some(Response::Addresses(found)) if found.addrs.len() == ADDRS_MAX));
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
            assert!(parse_name(host).is_none(), "{host}");
        }
        assert!(parse_name("a_b-c.test").is_some());
    }
}
