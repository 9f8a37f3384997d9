//! Parts of an answer (RFC 9110 14): what `Range` asks for, and how several parts are sent in one body.

use std::io::Write;

/// Bytes that a part costs beside its own; what is asked for may be so much more than the whole.
const PART_OVERHEAD_BYTES: u64 = 256;
const OVERHEAD_BYTES_MAX: u64 = 4096;

/// A part: from where, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRange {
    pub start: u64,
    pub length: u64,
}

/// What of an answer is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// One part or more.
    Ranges(Vec<FileRange>),
    /// None of it is there.
    Unsatisfiable,
}

/// Reads a `Range` field for an answer of `size` bytes, as nginx does. More than `most` parts, parts that come to more
/// than the whole, and a list that can't be answered shorter get the whole.
pub fn parse(field: &[u8], size: u64, most: u32) -> Selection {
    let unit = field.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    let Some(list) = field.get(6..).filter(|list| unit && !list.is_empty()) else { return Selection::Whole };
    let mut parts = Vec::new();
    let mut total: u64 = 0;
    for spec in list.split(|b| *b == b',') {
        let Some((from, end)) = parse_spec(spec, size) else { return Selection::Unsatisfiable };
        if from < end {
            if parts.len() as u64 == u64::from(most) {
                return Selection::Whole;
            }
            total = total.saturating_add(end - from);
            parts.push(FileRange { start: from, length: end - from });
        } else if from == 0 {
            return Selection::Whole;
        }
    }
    let cost = total.saturating_add(parts.len() as u64 * PART_OVERHEAD_BYTES);
    match parts.len() {
        0 => Selection::Unsatisfiable,
        _ if total > size => Selection::Whole,
        1 => Selection::Ranges(parts),
        _ if cost > size.saturating_add(OVERHEAD_BYTES_MAX) => Selection::Whole,
        _ => Selection::Ranges(parts),
    }
}

/// `first-last`, `first-` or `-count` to where it starts and where it ends, with spaces where nginx takes them. The end
/// is not behind that of the answer.
fn parse_spec(spec: &[u8], size: u64) -> Option<(u64, u64)> {
    let dash = spec.iter().position(|b| *b == b'-')?;
    let (first, last) = (parse_number(spec.get(..dash)?), parse_number(spec.get(dash + 1..)?));
    let is_empty = |part: Option<&[u8]>| part.is_some_and(|part| part.iter().all(|b| *b == b' '));
    match (first, last) {
        (Some(first), Some(last)) => Some((first, last.saturating_add(1).min(size))),
        (Some(first), None) if is_empty(spec.get(dash + 1..)) => Some((first, size)),
        (None, Some(count)) if is_empty(spec.get(..dash)) => Some((size.saturating_sub(count), size)),
        _ => None,
    }
}

/// Digits between spaces; more of them than a number has mean a number that is larger than any file.
fn parse_number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|b| *b != b' ')?;
    let end = text.iter().rposition(|b| *b != b' ')?;
    let digits = text.get(start..=end)?;
    digits.iter().all(u8::is_ascii_digit).then_some(())?;
    Some(std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX))
}

/// `Content-Range` of a part.
pub fn content_range(part: FileRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.start + part.length - 1)
}

/// A body of several parts (RFC 9110 14.6), of which the parts themselves are left out.
pub struct Multipart {
    pub boundary: String,
    /// What goes before each part.
    pub heads: Vec<Vec<u8>>,
    pub end: Vec<u8>,
    /// Bytes of all of it, with the parts.
    pub length: u64,
}

impl Multipart {
    pub fn new(parts: &[FileRange], size: u64, content_type: &[u8]) -> Self {
        let boundary = format!("{:020}", fastrand::u64(..));
        let head = |part: &FileRange| {
            let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
            if !content_type.is_empty() {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(content_type);
                head.extend_from_slice(b"\r\n");
            }
            let _ = write!(head, "Content-Range: {}\r\n\r\n", content_range(*part, size));
            head
        };
        let heads: Vec<_> = parts.iter().map(head).collect();
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        let counts = parts.iter().map(|part| part.length);
        let length = heads.iter().map(|head| head.len() as u64).chain(counts).sum::<u64>() + end.len() as u64;
        Self { boundary, heads, end, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(field: &str, size: u64) -> Selection {
        parse(field.as_bytes(), size, 16)
    }

    fn parts(parts: &[(u64, u64)]) -> Selection {
        Selection::Ranges(parts.iter().map(|(from, count)| FileRange { start: *from, length: *count }).collect())
    }

    #[test]
    fn ranges_are_read_as_nginx_reads_them() {
        for (field, expected) in [
            ("bytes=0-0", parts(&[(0, 1)])),
            ("bytes=3-5", parts(&[(3, 3)])),
            ("bytes=7-", parts(&[(7, 3)])),
            ("bytes=-2", parts(&[(8, 2)])),
            ("bytes=-99", parts(&[(0, 10)])),
            ("bytes=8-99", parts(&[(8, 2)])),
            ("BYTES= 0 - 1 ", parts(&[(0, 2)])),
            ("bytes=0-99999999999999999999", parts(&[(0, 10)])),
            ("bytes=5-6,0-1", parts(&[(5, 2), (0, 2)])),
            ("bytes=0-1, 3-20 , 30-40", parts(&[(0, 2), (3, 7)])),
            ("bytes=5-3,0-1", parts(&[(0, 2)])),
            ("bytes=0-5,0-5", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes", Selection::Whole),
            ("lines=0-1", Selection::Whole),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=5-3", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=-", Selection::Unsatisfiable),
            ("bytes=1", Selection::Unsatisfiable),
            ("bytes=0-1,", Selection::Unsatisfiable),
            ("bytes=,0-1", Selection::Unsatisfiable),
            ("bytes=0-1,x", Selection::Unsatisfiable),
            ("bytes=0-1;", Selection::Unsatisfiable),
            ("bytes=+1-2", Selection::Unsatisfiable),
            ("bytes=1 1-2", Selection::Unsatisfiable),
            ("bytes=99999999999999999999-", Selection::Unsatisfiable),
        ] {
            assert_eq!(wanted(field, 10), expected, "{field}");
        }
        assert_eq!(wanted("bytes=0-", 0), Selection::Whole);
        assert_eq!(wanted("bytes=-1", 0), Selection::Whole);
    }

    #[test]
    fn many_ranges_get_the_whole() {
        let list = |count: usize| format!("bytes={}0-0", "0-0,".repeat(count - 1));
        assert_eq!(wanted(&list(16), 10_000), parts(&[(0, 1); 16]));
        assert_eq!(wanted(&list(17), 10_000), Selection::Whole);
        assert_eq!(parse(list(2).as_bytes(), 10_000, 1), Selection::Whole);
        assert_eq!(parse(list(40).as_bytes(), 10_000, 1000), parts(&[(0, 1); 40]));
        assert_eq!(parse(list(60).as_bytes(), 10_000, 1000), Selection::Whole, "the heads would be more than the file");
    }

    #[test]
    fn several_parts_have_heads_of_their_own() {
        let all = [FileRange { start: 0, length: 2 }, FileRange { start: 9, length: 1 }];
        let multipart = Multipart::new(&all, 10, b"text/plain");
        let boundary = &multipart.boundary;
        let head = |range: &str| {
            format!("\r\n--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\r\n")
                .into_bytes()
        };
        assert_eq!(multipart.heads, [head("0-1"), head("9-9")]);
        assert_eq!(multipart.end, format!("\r\n--{boundary}--\r\n").into_bytes());
        assert_eq!((boundary.len(), multipart.length), (20, 73 + 10 + 2 + 73 + 10 + 1 + 28));
    }
}
