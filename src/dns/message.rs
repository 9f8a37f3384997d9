//! DNS messages (RFC 1035) that ask for the addresses of a name.
//!
//! Responses are untrusted: one counts only if its id and question match, and a malformed one is dropped valid. The crate
//! `domain` parses them; it bounds compression pointers, which may only lead backwards. CNAMEs are followed in the order of
//! the records.

use std::net::IpAddr;

use domain::base::iana::{Class, Opcode, Rcode};
use domain::base::message::RecordSection;
use domain::base::{Message, MessageBuilder, ParsedName, Rtype, ToName};
use domain::dep::octseq::Array;
use domain::rdata::{A, Aaaa, Cname};

/// Bytes of a query: the header, the longest name, type and class.
const QUERY_BYTES_MAX: usize = 12 + 255 + 4;
/// Records of a response that are read.
const RECORDS_MAX: usize = 512;
/// Addresses that are taken from a response.
const ADDRS_MAX: usize = 128;

/// A domain name, of at most 255 bytes.
pub type DomainName = domain::base::Name<Array<255>>;

/// The type of the addresses to ask for.
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

/// A question, and the id of its query.
pub struct Question<'n> {
    pub id: u16,
    pub name: &'n DomainName,
    pub rtype: RecordType,
}

/// What a server responds to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum DnsResponse {
    Addresses(ResolvedAddrs),
    /// A response code other than 0.
    Error(u8),
    /// The response does not fit into a datagram.
    Truncated,
}

/// The addresses of a name, or its CNAME.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ResolvedAddrs {
    pub addrs: Vec<IpAddr>,
    /// The target of the last CNAME, if there are no addresses of it.
    pub cname: Option<Box<DomainName>>,
    /// The least TTL of the records, in seconds.
    pub ttl: u32,
}

/// The response code for a name that does not exist.
pub const NXDOMAIN: u8 = 3;

/// Parses the name of a host. `None` if it is no valid domain name.
pub fn parse_name(host: &str) -> Option<DomainName> {
    // A backslash would begin an escape.
    let is_printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'\\';
    DomainName::from_chars(host.chars()).ok().filter(|_| host.bytes().all(is_printable))
}

impl Question<'_> {
    /// Encodes a query.
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut message = MessageBuilder::from_target(Array::<QUERY_BYTES_MAX>::new()).ok()?;
        message.header_mut().set_id(self.id);
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((self.name, self.rtype.to_rtype())).ok()?;
        Some(message.finish().as_ref().to_vec())
    }

    /// Parses a message. `None` if it is malformed or no response to this query.
    pub fn parse_response(&self, bytes: &[u8]) -> Option<DnsResponse> {
        let message = Message::from_slice(bytes).ok()?;
        let header = message.header();
        if !header.qr() || header.opcode() != Opcode::QUERY || header.id() != self.id {
            return None;
        }
        let question = message.sole_question().ok()?;
        if question.qname() != self.name || question.qtype() != self.rtype.to_rtype() || question.qclass() != Class::IN
        {
            return None;
        }
        match header.rcode() {
            Rcode::NOERROR if header.tc() => Some(DnsResponse::Truncated),
            Rcode::NOERROR => self.collect(message.answer().ok()?).map(DnsResponse::Addresses),
            code => Some(DnsResponse::Error(code.to_int())),
        }
    }

    /// Collects the addresses of the name, or of the CNAMEs it leads to.
    fn collect(&self, records: RecordSection<'_, [u8]>) -> Option<ResolvedAddrs> {
        let mut found = ResolvedAddrs { ttl: u32::MAX, ..ResolvedAddrs::default() };
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

    fn with_question<T>(host: &str, rtype: RecordType, with: impl FnOnce(&Question<'_>) -> T) -> T {
        with(&Question { id: ID, name: &parse_name(host).unwrap(), rtype })
    }

    /// A response to an A query for `a.test`.
    fn response(flags: u16, records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [ID, 0x8180 | flags, 1, records.len() as u16, 0, 0].map(u16::to_be_bytes).concat();
        bytes.extend_from_slice(b"\x01a\x04test\0\0\x01\0\x01");
        records.iter().for_each(|record| bytes.extend_from_slice(record));
        bytes
    }

    fn read(bytes: &[u8]) -> Option<DnsResponse> {
        with_question("a.test", RecordType::A, |question| question.parse_response(bytes))
    }

    fn found(addrs: &[[u8; 4]], cname: Option<&str>, ttl: u32) -> Option<DnsResponse> {
        let addrs = addrs.iter().map(|addr| IpAddr::from(*addr)).collect();
        Some(DnsResponse::Addresses(ResolvedAddrs {
            addrs,
            cname: cname.map(|cname| Box::new(parse_name(cname).unwrap())),
            ttl,
        }))
    }

    const ADDR: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
    /// `a.test` is an alias of `b.test`.
    const ALIAS: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x04\x01b\xc0\x0e";

    #[test]
    fn a_query_accepts_only_its_own_response() {
        let written = with_question("a.test", RecordType::Aaaa, |question| question.encode().unwrap());
        assert_eq!(written, b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\x04test\0\0\x1c\0\x01");
        let good = response(0, &[ADDR]);
        assert_eq!(read(&good), found(&[[10, 0, 0, 1]], None, 60));
        assert_eq!(
            with_question("A.Test.", RecordType::A, |question| question.parse_response(&good)),
            found(&[[10, 0, 0, 1]], None, 60)
        );
        assert_eq!(with_question("b.test", RecordType::A, |question| question.parse_response(&good)), None);
        assert_eq!(with_question("a.test", RecordType::Aaaa, |question| question.parse_response(&good)), None);
        for (at, what) in [(0, "the id"), (2, "a question"), (5, "no question"), (23, "the class")] {
            let mut bad = good.clone();
            bad[at] = if at == 2 { 0x01 } else { bad[at] ^ 1 };
            assert_eq!(read(&bad), None, "{what}");
        }
        assert_eq!(read(&response(0x0200, &[])), Some(DnsResponse::Truncated));
        for code in 1..=15 {
            assert_eq!(read(&response(code, &[ADDR])), Some(DnsResponse::Error(code as u8)));
        }
    }

    #[test]
    fn cnames_are_followed_within_a_response() {
        let addr_of_b = b"\xc0\x24\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x02";
        assert_eq!(read(&response(0, &[])), found(&[], None, u32::MAX));
        assert_eq!(read(&response(0, &[ALIAS])), found(&[], Some("b.test"), 5));
        assert_eq!(read(&response(0, &[ALIAS, addr_of_b])), found(&[[10, 0, 0, 2]], None, 5), "the least TTL counts");
        assert_eq!(read(&response(0, &[addr_of_b])), None, "a pointer into its own record");
        assert_eq!(read(&response(0, &[ALIAS, ADDR])), found(&[], Some("b.test"), 5), "an address of another name");
        let to_itself: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x0c";
        assert_eq!(read(&response(0, &[to_itself; 3])), found(&[], Some("a.test"), 5));
        let many = read(&response(0, &[ADDR; 600]));
        assert!(matches!(many, Some(DnsResponse::Addresses(found)) if found.addrs.len() == ADDRS_MAX));
    }

    #[test]
    fn malformed_responses_are_dropped() {
        let loops: &[u8] = b"\xc0\x18\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let forward: &[u8] = b"\xc0\xff\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let reserved: &[u8] = b"\x80\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let short: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x00";
        let long: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\xff\xff\x0a\0\0\x01";
        let wide: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x05\x0a\0\0\x01\x02";
        let alias_loops: &[u8] = b"\xc0\x0c\0\x05\0\x01\0\0\0\x05\0\x02\xc0\x24";
        for record in [loops, forward, reserved, short, long, wide, alias_loops] {
            assert_eq!(read(&response(0, &[record])), None, "{record:x?}");
        }
        let mut counts = response(0, &[ADDR]);
        counts[6] = 0xff;
        assert_eq!(read(&counts), None, "more records in the header than in the message");
        let valid = response(0, &[ALIAS, ADDR]);
        for end in 0..valid.len() {
            assert_eq!(read(&valid[..end]), None, "cut at {end}");
        }
        // No value of any byte leads to a panic or an endless loop.
        for at in 0..valid.len() {
            for byte in 0..=255 {
                let mut changed = valid.clone();
                changed[at] = byte;
                let _ = read(&changed);
            }
        }
    }

    #[test]
    fn invalid_names() {
        let label = "a".repeat(64);
        let long = ["a".repeat(63).as_str(); 4].join(".");
        for host in ["", "a..b", &label, &long, ".a"] {
            assert!(parse_name(host).is_none(), "{host}");
        }
        assert!(parse_name("a_b-c.test").is_some());
    }
}
