//! A strict parser of certificates and revocation lists in DER (RFC 5280), without copies, and the text forms of their
//! names, numbers and dates. It reads only what the verifier and the `$ssl_client_*` variables need.

use std::io::Write;

use crate::runtime::calendar;

/// A certificate. Names, algorithms and keys are DER.
#[derive(Clone, Debug)]
pub struct Certificate<'d> {
    /// TBSCertificate, the part that is signed.
    pub tbs: &'d [u8],
    /// Version 1 has no extensions.
    pub is_v1: bool,
    pub serial: &'d [u8],
    pub issuer: &'d [u8],
    pub subject: &'d [u8],
    /// Seconds since 1970.
    pub not_before: i64,
    pub not_after: i64,
    /// SubjectPublicKeyInfo with its tag and length.
    pub public_key_info: &'d [u8],
    pub key_algorithm: &'d [u8],
    pub public_key: &'d [u8],
    pub extensions: Extensions<'d>,
    pub signature_algorithm: &'d [u8],
    pub signature: &'d [u8],
}

/// The supported extensions.
#[derive(Clone, Debug, Default)]
pub struct Extensions<'d> {
    /// BasicConstraints: `cA`, and `pathLenConstraint`.
    pub basic_constraints: Option<(bool, Option<u32>)>,
    /// The first eight bits of KeyUsage.
    pub key_usage: Option<u8>,
    /// The object identifiers of ExtendedKeyUsage.
    pub ext_key_usages: Option<Vec<&'d [u8]>>,
    /// The tags and values of SubjectAltName.
    pub subject_alt_names: Option<Vec<(u8, &'d [u8])>>,
    /// A critical extension, or NameConstraints, is not supported.
    pub has_unsupported: bool,
}

/// A revocation list (CertificateList).
#[derive(Clone, Debug)]
pub struct RevocationList<'d> {
    pub tbs: &'d [u8],
    pub issuer: &'d [u8],
    pub this_update: i64,
    pub next_update: Option<i64>,
    pub serials: Vec<&'d [u8]>,
    pub signature_algorithm: &'d [u8],
    pub signature: &'d [u8],
}

const BOOLEAN: u8 = 0x01;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;

/// The unread rest of a sequence of DER elements.
#[derive(Clone)]
struct Elements<'d>(&'d [u8]);

impl<'d> Elements<'d> {
    /// Reads the next element: its tag, its content, and all of its bytes.
    fn next(&mut self) -> Option<(u8, &'d [u8], &'d [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&length_byte, rest) = rest.split_first()?;
        let (length, rest) = match length_byte {
            0..=0x7f => (usize::from(length_byte), rest),
            0x81..=0x83 => {
                let (digits, rest) = rest.split_at_checked(usize::from(length_byte & 0x7f))?;
                let length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
                // DER allows only the shortest form.
                (Some(length).filter(|length| *length > 0x7f && digits.first() != Some(&0))?, rest)
            }
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        let whole = self.0.get(..self.0.len() - after.len())?;
        // Tags above 30 have another form, and do not occur.
        (tag & 0x1f != 0x1f).then_some(())?;
        self.0 = after;
        Some((tag, content, whole))
    }

    /// Reads the content of the next element, which must have this tag.
    fn read(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, ..)| *found == tag).map(|(_, content, _)| content)
    }

    /// Reads all bytes of the next element, which must have this tag.
    fn read_whole(&mut self, tag: u8) -> Option<&'d [u8]> {
        self.next().filter(|(found, ..)| *found == tag).map(|(.., whole)| whole)
    }

    /// Reads the content of the next element if it has this tag.
    fn read_optional(&mut self, tag: u8) -> Option<&'d [u8]> {
        if self.0.first() == Some(&tag) { self.read(tag) } else { None }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn expect_end(&self) -> Option<()> {
        self.is_empty().then_some(())
    }
}

/// Returns all bytes of the first element.
pub fn first_element(der: &[u8]) -> Option<&[u8]> {
    Elements(der).next().map(|(.., whole)| whole)
}

/// Reads `der`, which must be one element.
fn read_single(der: &[u8], tag: u8) -> Option<&[u8]> {
    let mut elements = Elements(der);
    let content = elements.read(tag)?;
    elements.expect_end()?;
    Some(content)
}

/// The bytes of a BIT STRING without unused bits.
fn bit_string_bytes(content: &[u8]) -> Option<&[u8]> {
    content.split_first().filter(|(unused, _)| **unused == 0).map(|(_, bits)| bits)
}

/// The bytes of an INTEGER, which DER allows only in the shortest form.
fn integer_bytes(content: &[u8]) -> Option<&[u8]> {
    match content {
        [] | [0, 0..=0x7f, ..] | [0xff, 0x80..=0xff, ..] => None,
        _ => Some(content),
    }
}

/// Reads a UTCTime or a GeneralizedTime as seconds since 1970.
fn read_time(elements: &mut Elements<'_>) -> Option<i64> {
    let (tag, text, _) = elements.next()?;
    let digits = text.strip_suffix(b"Z").filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let number = |at: usize, len: usize| {
        let digits = digits.get(at..at + len)?;
        Some(digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0')))
    };
    let (year, at) = match (tag, digits.len()) {
        // Years from 50 on are 19xx (RFC 5280 4.1.2.5.1).
        (UTC_TIME, 12) => (number(0, 2).map(|year| if year < 50 { year + 2000 } else { year + 1900 })?, 2),
        (GENERALIZED_TIME, 14) => (number(0, 4)?, 4),
        _ => return None,
    };
    let pair = |n: usize| number(at + 2 * n, 2);
    let (month, day, hour, minute, second) = (pair(0)?, pair(1)?, pair(2)?, pair(3)?, pair(4)?);
    let is_valid = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    is_valid.then(|| calendar::days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

impl<'d> Certificate<'d> {
    /// Parses a certificate. `None` if it is malformed.
    pub fn parse(der: &'d [u8]) -> Option<Self> {
        let mut outer = Elements(read_single(der, SEQUENCE)?);
        let tbs = outer.read_whole(SEQUENCE)?;
        let signature_algorithm = outer.read(SEQUENCE)?;
        let signature = bit_string_bytes(outer.read(BIT_STRING)?)?;
        outer.expect_end()?;
        let mut inner = Elements(read_single(tbs, SEQUENCE)?);
        let version = match inner.read_optional(0xa0) {
            None => 0,
            Some(version) => match read_single(version, INTEGER)? {
                [version @ 0..=2] => *version,
                _ => return None,
            },
        };
        let serial = integer_bytes(inner.read(INTEGER)?)?;
        (inner.read(SEQUENCE)? == signature_algorithm).then_some(())?;
        let issuer = inner.read_whole(SEQUENCE)?;
        let mut validity = Elements(inner.read(SEQUENCE)?);
        let (not_before, not_after) = (read_time(&mut validity)?, read_time(&mut validity)?);
        let subject = inner.read_whole(SEQUENCE)?;
        let public_key_info = inner.read_whole(SEQUENCE)?;
        let mut key_parts = Elements(read_single(public_key_info, SEQUENCE)?);
        let (key_algorithm, public_key) = (key_parts.read(SEQUENCE)?, bit_string_bytes(key_parts.read(BIT_STRING)?)?);
        key_parts.expect_end()?;
        // Unique identifiers of version 2 are ignored.
        inner.read_optional(0x81);
        inner.read_optional(0x82);
        let extensions = match inner.read_optional(0xa3) {
            Some(list) if version == 2 => Extensions::parse(read_single(list, SEQUENCE)?)?,
            Some(_) => return None,
            None => Extensions::default(),
        };
        inner.expect_end()?;
        Some(Self {
            tbs,
            is_v1: version == 0,
            serial,
            issuer,
            subject,
            not_before,
            not_after,
            public_key_info,
            key_algorithm,
            public_key,
            extensions,
            signature_algorithm,
            signature,
        })
    }

    /// Whether subject and issuer are the same.
    pub fn is_self_issued(&self) -> bool {
        self.subject == self.issuer
    }

    /// Appends the serial number in hexadecimal.
    pub fn write_serial(&self, out: &mut Vec<u8>) {
        let significant = self.serial.iter().position(|b| *b != 0).and_then(|at| self.serial.get(at..)).unwrap_or(&[0]);
        for byte in significant {
            let _ = write!(out, "{byte:02X}");
        }
    }

    /// The last common name of the subject.
    pub fn common_name(&self) -> Option<String> {
        let last = attributes(self.subject).filter(|attribute| attribute.id == COMMON_NAME).last()?;
        Some(last.text())
    }
}

impl<'d> Extensions<'d> {
    fn parse(list: &'d [u8]) -> Option<Self> {
        let mut found = Self::default();
        let mut list = Elements(list);
        while !list.is_empty() {
            let mut extension = Elements(list.read(SEQUENCE)?);
            let id = extension.read(OBJECT_IDENTIFIER)?;
            let critical = read_boolean(&mut extension)?;
            let value = extension.read(OCTET_STRING)?;
            extension.expect_end()?;
            found.insert(id, critical, value)?;
        }
        Some(found)
    }

    /// Inserts an extension. `None` if it is malformed or a duplicate (RFC 5280 4.2), about which two readers would disagree.
    fn insert(&mut self, id: &[u8], critical: bool, value: &'d [u8]) -> Option<()> {
        match id {
            // 2.5.29.19, 15, 37, 17
            [0x55, 0x1d, 19] if self.basic_constraints.is_none() => {
                self.basic_constraints = Some(parse_basic_constraints(value)?)
            }
            [0x55, 0x1d, 15] if self.key_usage.is_none() => {
                let (_, usage) = read_single(value, BIT_STRING)?.split_first()?;
                self.key_usage = Some(usage.first().copied().unwrap_or(0));
            }
            [0x55, 0x1d, 37] if self.ext_key_usages.is_none() => {
                let mut list = Elements(read_single(value, SEQUENCE)?);
                let purposes = self.ext_key_usages.insert(Vec::new());
                while !list.is_empty() {
                    purposes.push(list.read(OBJECT_IDENTIFIER)?);
                }
            }
            [0x55, 0x1d, 17] if self.subject_alt_names.is_none() => {
                let mut list = Elements(read_single(value, SEQUENCE)?);
                let names = self.subject_alt_names.insert(Vec::new());
                while !list.is_empty() {
                    let (tag, name, _) = list.next()?;
                    names.push((tag, name));
                }
            }
            [0x55, 0x1d, 15 | 17 | 19 | 37] => return None,
            // NameConstraints are not applied, so a certificate that has them must not be accepted.
            [0x55, 0x1d, 30] => self.has_unsupported = true,
            // Policies constrain nothing where no policy is required.
            [0x55, 0x1d, 32] => {}
            _ => self.has_unsupported |= critical,
        }
        Some(())
    }
}

/// Reads an optional BOOLEAN, which is false by default. DER allows one form of each value (X.690 11.1).
fn read_boolean(elements: &mut Elements<'_>) -> Option<bool> {
    match elements.read_optional(BOOLEAN) {
        None | Some([0]) => Some(false),
        Some([0xff]) => Some(true),
        Some(_) => None,
    }
}

fn parse_basic_constraints(value: &[u8]) -> Option<(bool, Option<u32>)> {
    let mut parts = Elements(read_single(value, SEQUENCE)?);
    let ca = read_boolean(&mut parts)?;
    let path_len = match parts.read_optional(INTEGER) {
        // One to three bytes, not negative.
        Some(digits @ ([0..=0x7f] | [0..=0x7f, _] | [0..=0x7f, _, _])) if integer_bytes(digits).is_some() => {
            Some(digits.iter().fold(0, |n, digit| n << 8 | u32::from(*digit)))
        }
        Some(_) => return None,
        None => None,
    };
    parts.expect_end()?;
    Some((ca, path_len))
}

impl<'d> RevocationList<'d> {
    /// Parses a list. `None` if it is malformed or has a critical extension.
    pub fn parse(der: &'d [u8]) -> Option<Self> {
        let mut outer = Elements(read_single(der, SEQUENCE)?);
        let tbs = outer.read_whole(SEQUENCE)?;
        let signature_algorithm = outer.read(SEQUENCE)?;
        let signature = bit_string_bytes(outer.read(BIT_STRING)?)?;
        outer.expect_end()?;
        let mut inner = Elements(read_single(tbs, SEQUENCE)?);
        inner.read_optional(INTEGER);
        (inner.read(SEQUENCE)? == signature_algorithm).then_some(())?;
        let issuer = inner.read_whole(SEQUENCE)?;
        let this_update = read_time(&mut inner)?;
        let has_next = matches!(inner.0.first(), Some(&(UTC_TIME | GENERALIZED_TIME)));
        let next_update = if has_next { Some(read_time(&mut inner)?) } else { None };
        let mut serials = Vec::new();
        let mut revoked = Elements(inner.read_optional(SEQUENCE).unwrap_or_default());
        while !revoked.is_empty() {
            let mut entry = Elements(revoked.read(SEQUENCE)?);
            serials.push(integer_bytes(entry.read(INTEGER)?)?);
            read_time(&mut entry)?;
            if let Some(extensions) = entry.read_optional(SEQUENCE) {
                (!has_critical(extensions)?).then_some(())?;
            }
        }
        if let Some(extensions) = inner.read_optional(0xa0) {
            (!has_critical(read_single(extensions, SEQUENCE)?)?).then_some(())?;
        }
        inner.expect_end()?;
        Some(Self { tbs, issuer, this_update, next_update, serials, signature_algorithm, signature })
    }
}

fn has_critical(list: &[u8]) -> Option<bool> {
    let mut list = Elements(list);
    let mut critical = false;
    while !list.is_empty() {
        let mut extension = Elements(list.read(SEQUENCE)?);
        extension.read(OBJECT_IDENTIFIER)?;
        critical |= read_boolean(&mut extension)?;
    }
    Some(critical)
}

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 4, 3];

/// Object identifiers and short names of attributes.
const ATTRIBUTES: [(&[u8], &str); 14] = [
    (COMMON_NAME, "CN"),
    (&[0x55, 4, 4], "SN"),
    (&[0x55, 4, 5], "serialNumber"),
    (&[0x55, 4, 6], "C"),
    (&[0x55, 4, 7], "L"),
    (&[0x55, 4, 8], "ST"),
    (&[0x55, 4, 9], "street"),
    (&[0x55, 4, 10], "O"),
    (&[0x55, 4, 11], "OU"),
    (&[0x55, 4, 12], "title"),
    (&[0x55, 4, 42], "GN"),
    (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1], "emailAddress"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1], "UID"),
    (&[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25], "DC"),
];

/// An attribute of a distinguished name.
struct NameAttribute<'d> {
    /// The attribute is in the same set as the previous one.
    is_multi_valued: bool,
    id: &'d [u8],
    tag: u8,
    value: &'d [u8],
}

fn attributes(name: &[u8]) -> impl Iterator<Item = NameAttribute<'_>> {
    let mut sets = Elements(read_single(name, SEQUENCE).unwrap_or_default());
    let mut all = Vec::new();
    while let Some(set) = sets.read_optional(SET) {
        let mut set = Elements(set);
        let mut is_multi_valued = false;
        while let Some(pair) = set.read_optional(SEQUENCE) {
            let mut pair = Elements(pair);
            if let (Some(id), Some((tag, value, _))) = (pair.read(OBJECT_IDENTIFIER), pair.next()) {
                all.push(NameAttribute { is_multi_valued, id, tag, value });
                is_multi_valued = true;
            }
        }
    }
    all.into_iter()
}

impl NameAttribute<'_> {
    fn text(&self) -> String {
        let units =
            |size: usize| self.value.chunks(size).map(|unit| unit.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
        match self.tag {
            // BMPString, UniversalString, TeletexString
            0x1e => {
                let units: Vec<u16> = units(2).filter_map(|unit| u16::try_from(unit).ok()).collect();
                String::from_utf16_lossy(&units)
            }
            0x1c => units(4).map(|unit| char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER)).collect(),
            0x14 => self.value.iter().map(|b| char::from(*b)).collect(),
            _ => String::from_utf8_lossy(self.value).into_owned(),
        }
    }

    /// Appends the short name of the type, or its object identifier.
    fn write_type(&self, out: &mut Vec<u8>) {
        if let Some((_, name)) = ATTRIBUTES.iter().find(|(id, _)| *id == self.id) {
            return out.extend_from_slice(name.as_bytes());
        }
        let mut arc = 0u64;
        let mut first = true;
        for byte in self.id {
            arc = arc << 7 & (u64::MAX >> 1) | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                let _ = match (first, arc) {
                    (true, _) => write!(out, "{}.{}", (arc / 40).min(2), arc - 40 * (arc / 40).min(2)),
                    (false, _) => write!(out, ".{arc}"),
                };
                (arc, first) = (0, false);
            }
        }
    }
}

/// Appends a name as RFC 2253 writes it: the last set first, separated by commas.
pub fn write_rfc2253_name(name: &[u8], out: &mut Vec<u8>) {
    let all: Vec<NameAttribute<'_>> = attributes(name).collect();
    let mut sets: Vec<&[NameAttribute<'_>]> = all.chunk_by(|_, next| next.is_multi_valued).collect();
    sets.reverse();
    for (index, set) in sets.iter().enumerate() {
        for (position, attribute) in set.iter().enumerate() {
            match (index, position) {
                (0, 0) => {}
                (_, 0) => out.push(b','),
                _ => out.push(b'+'),
            }
            attribute.write_type(out);
            out.push(b'=');
            write_rfc2253_value(&attribute.text(), out);
        }
    }
}

/// Appends a value escaped by RFC 2253 2.4, other bytes than ASCII in hexadecimal.
fn write_rfc2253_value(text: &str, out: &mut Vec<u8>) {
    let last = text.len().saturating_sub(1);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => out.extend_from_slice(&[b'\\', byte]),
            b'#' | b' ' if at == 0 => out.extend_from_slice(&[b'\\', byte]),
            b' ' if at == last => out.extend_from_slice(b"\\ "),
            0x20..=0x7e => out.push(byte),
            _ => drop(write!(out, "\\{byte:02X}")),
        }
    }
}

/// Appends a name in the old form of OpenSSL: `/C=DE/CN=name`.
pub fn write_legacy_name(name: &[u8], out: &mut Vec<u8>) {
    for attribute in attributes(name) {
        out.push(if attribute.is_multi_valued { b'+' } else { b'/' });
        attribute.write_type(out);
        out.push(b'=');
        for byte in attribute.text().bytes() {
            match byte {
                0x20..=0x7e => out.push(byte),
                _ => drop(write!(out, "\\x{byte:02X}")),
            }
        }
    }
}

/// Appends a time as `Jan  2 03:04:05 2030 GMT`.
pub fn write_time(seconds: i64, out: &mut Vec<u8>) {
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = calendar::civil_from_days(day);
    let name = calendar::month_name(month);
    let _ = write!(out, "{name} {day:2} {:02}:{:02}:{:02} {year} GMT", second / 3600, second / 60 % 60, second % 60);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(edit: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        edit(&mut params);
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_certificate_is_parsed() {
        let der = certificate(|params| {
            params.not_before = rcgen::date_time_ymd(2024, 2, 29);
            params.not_after = rcgen::date_time_ymd(2061, 12, 31);
            params.serial_number = Some(rcgen::SerialNumber::from(vec![0x12, 0xab]));
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(2));
            params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            params.distinguished_name.push(rcgen::DnType::CountryName, "DE");
            params.distinguished_name.push(rcgen::DnType::CommonName, "a, b #\u{e9} ");
        });
        let certificate = Certificate::parse(&der).unwrap();
        assert!(!certificate.is_v1 && certificate.is_self_issued());
        assert_eq!(certificate.extensions.basic_constraints, Some((true, Some(2))));
        assert_eq!(certificate.extensions.subject_alt_names.as_ref().unwrap()[..], [(0x82, &b"a.example"[..])]);
        assert_eq!(certificate.extensions.ext_key_usages.as_ref().unwrap().len(), 1);
        assert_eq!(written(|out| certificate.write_serial(out)), "12AB");
        assert_eq!(written(|out| write_time(certificate.not_before, out)), "Feb 29 00:00:00 2024 GMT");
        assert_eq!(written(|out| write_time(certificate.not_after, out)), "Dec 31 00:00:00 2061 GMT");
        let name = written(|out| write_rfc2253_name(certificate.subject, out));
        assert!(name.contains("CN=a\\, b #\\C3\\A9\\ "), "{name}");
        let name = written(|out| write_legacy_name(certificate.subject, out));
        assert!(name.contains("/C=DE") && name.contains("/CN=a, b #\\xC3\\xA9 "), "{name}");
    }

    #[test]
    fn truncated_and_changed_certificates_do_not_panic() {
        let der = certificate(|_| {});
        for end in 0..der.len() {
            assert!(Certificate::parse(&der[..end]).is_none(), "cut at {end}");
        }
        for at in 0..der.len() {
            for bit in [1, 0x80, 0xff] {
                let mut changed = der.clone();
                changed[at] ^= bit;
                if let Some(certificate) = Certificate::parse(&changed) {
                    written_lossy(&certificate);
                }
                let _ = RevocationList::parse(&changed);
            }
        }
    }

    fn written_lossy(certificate: &Certificate<'_>) {
        let mut out = Vec::new();
        write_rfc2253_name(certificate.subject, &mut out);
        write_legacy_name(certificate.issuer, &mut out);
        certificate.write_serial(&mut out);
        write_time(certificate.not_after, &mut out);
        let _ = certificate.common_name();
    }

    #[test]
    fn lengths_have_one_encoding() {
        assert_eq!(read_single(&[4, 1, 9], 4), Some(&[9][..]));
        for malformed in
            [&[4, 0x81, 1, 9][..], &[4, 0x80, 9], &[4, 0x82, 0, 1, 9], &[4, 2, 9], &[4, 1, 9, 0], &[0x1f, 1, 9]]
        {
            assert_eq!(read_single(malformed, malformed[0]), None, "{malformed:?}");
        }
    }

    #[test]
    fn malformed_and_duplicate_extensions_are_rejected() {
        let extension = |id: u8, value: &[u8]| {
            let value = [&[OCTET_STRING, value.len() as u8], value].concat();
            [&[SEQUENCE, 5 + value.len() as u8, OBJECT_IDENTIFIER, 3, 0x55, 0x1d, id], &value[..]].concat()
        };
        let ca = |content: &[u8]| extension(19, &[&[SEQUENCE, content.len() as u8], content].concat());
        let parsed = |der: &[u8]| Extensions::parse(der).map(|found| (found.basic_constraints, found.key_usage));
        assert_eq!(parsed(&ca(&[])), Some((Some((false, None)), None)));
        assert_eq!(parsed(&ca(&[1, 1, 0xff, 2, 1, 3])), Some((Some((true, Some(3))), None)));
        assert_eq!(parsed(&ca(&[1, 1, 0xff, 2, 2, 1, 0])), Some((Some((true, Some(256))), None)));
        assert_eq!(parsed(&extension(15, &[BIT_STRING, 2, 5, 0xa0])), Some((None, Some(0xa0))));
        assert_eq!(parsed(&extension(15, &[BIT_STRING, 1, 0])), Some((None, Some(0))));
        for malformed in [
            // A BOOLEAN of two bytes, of none, and other than 0 and 0xff; a negative path length, and one of no bytes.
            ca(&[1, 2, 0, 0]),
            ca(&[1, 0]),
            ca(&[1, 1, 1]),
            ca(&[1, 1, 0xff, 2, 1, 0x80]),
            ca(&[1, 1, 0xff, 2, 0]),
            // A duplicate extension.
            [ca(&[]), ca(&[1, 1, 0xff])].concat(),
            [extension(15, &[BIT_STRING, 2, 0, 0x04]), extension(15, &[BIT_STRING, 2, 0, 0x80])].concat(),
            [extension(17, &[SEQUENCE, 0]), extension(17, &[SEQUENCE, 0])].concat(),
            [extension(37, &[SEQUENCE, 0]), extension(37, &[SEQUENCE, 0])].concat(),
        ] {
            assert_eq!(parsed(&malformed), None, "{malformed:?}");
        }
    }

    #[test]
    fn both_forms_of_time_are_parsed() {
        for (tag, text, expected) in [
            (UTC_TIME, &b"700101000000Z"[..], Some(0)),
            (UTC_TIME, b"491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, b"20000229120000Z", Some(951_825_600)),
            (GENERALIZED_TIME, b"20001329120000Z", None),
            (UTC_TIME, b"7001010000Z", None),
            (UTC_TIME, b"700101000000+", None),
        ] {
            let der = [&[tag, text.len() as u8], text].concat();
            assert_eq!(read_time(&mut Elements(&der)), expected, "{text:?}");
        }
    }
}
