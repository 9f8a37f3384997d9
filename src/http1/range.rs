//! Range requests (RFC 9110 14): parses `Range`, and frames several ranges in one body.

use std::io::Write;

/// Framing bytes of one part. The requested ranges with their framing may exceed the whole by `OVERHEAD_BYTES_MAX`.
const PART_OVERHEAD_BYTES: u64 = 256;
const OVERHEAD_BYTES_MAX: u64 = 4096;

/// A range of bytes of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileRange {
    pub start: u64,
    pub length: u64,
}

/// The part of a representation that is sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Selection {
    Whole,
    /// One range or more.
    Ranges(Vec<FileRange>),
    /// No requested range exists.
    Unsatisfiable,
}

/// Parses a `Range` header for a representation of `size` bytes, as nginx does. The whole is sent for more than
/// `ranges_max` ranges, for ranges that sum up to more than the whole, and for a list whose framing would exceed the
/// saving.
pub fn parse(header: &[u8], size: u64, ranges_max: u32) -> Selection {
    let unit = header.get(..6).is_some_and(|unit| unit.eq_ignore_ascii_case(b"bytes="));
    let Some(list) = header.get(6..).filter(|list| unit && !list.is_empty()) else { return Selection::Whole };
    let mut ranges = Vec::new();
    let mut total: u64 = 0;
    for spec in list.split(|b| *b == b',') {
        let Some((start, end)) = parse_spec(spec, size) else { return Selection::Unsatisfiable };
        if start < end {
            if ranges.len() as u64 == u64::from(ranges_max) {
                return Selection::Whole;
            }
            total = total.saturating_add(end - start);
            ranges.push(FileRange { start, length: end - start });
        } else if start == 0 {
            return Selection::Whole;
        }
    }
    let cost = total.saturating_add(ranges.len() as u64 * PART_OVERHEAD_BYTES);
    match ranges.len() {
        0 => Selection::Unsatisfiable,
        _ if total > size => Selection::Whole,
        1 => Selection::Ranges(ranges),
        _ if cost > size.saturating_add(OVERHEAD_BYTES_MAX) => Selection::Whole,
        _ => Selection::Ranges(ranges),
    }
}

/// Parses `first-last`, `first-` or `-count` to start and end, with spaces where nginx accepts them. The end is at
/// most `size`.
fn parse_spec(spec: &[u8], size: u64) -> Option<(u64, u64)> {
    let dash = spec.iter().position(|b| *b == b'-')?;
    let (first, last) = (parse_number(spec.get(..dash)?), parse_number(spec.get(dash + 1..)?));
    let is_empty = |range: Option<&[u8]>| range.is_some_and(|range| range.iter().all(|b| *b == b' '));
    match (first, last) {
        (Some(first), Some(last)) => Some((first, last.saturating_add(1).min(size))),
        (Some(first), None) if is_empty(spec.get(dash + 1..)) => Some((first, size)),
        (None, Some(count)) if is_empty(spec.get(..dash)) => Some((size.saturating_sub(count), size)),
        _ => None,
    }
}

/// Parses digits between spaces. A number too large for 64 bits is saturated: it is larger than any file.
fn parse_number(text: &[u8]) -> Option<u64> {
    let start = text.iter().position(|b| *b != b' ')?;
    let end = text.iter().rposition(|b| *b != b' ')?;
    let digits = text.get(start..=end)?;
    digits.iter().all(u8::is_ascii_digit).then_some(())?;
    Some(std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX))
}

/// Formats `Content-Range` for a range.
pub fn content_range(range: FileRange, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.start + range.length - 1)
}

/// The framing of a multipart/byteranges body (RFC 9110 14.6).
pub struct Multipart {
    pub boundary: String,
    /// The bytes before each range.
    pub heads: Vec<Vec<u8>>,
    pub end: Vec<u8>,
    /// Bytes of the whole body, ranges included.
    pub length: u64,
}

impl Multipart {
    pub fn new(ranges: &[FileRange], size: u64, content_type: &[u8]) -> Self {
        let boundary = format!("{:020}", fastrand::u64(..));
        let head = |range: &FileRange| {
            let mut head = format!("\r\n--{boundary}\r\n").into_bytes();
            if !content_type.is_empty() {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(content_type);
                head.extend_from_slice(b"\r\n");
            }
            let _ = write!(head, "Content-Range: {}\r\n\r\n", content_range(*range, size));
            head
        };
        let heads: Vec<_> = ranges.iter().map(head).collect();
        let end = format!("\r\n--{boundary}--\r\n").into_bytes();
        let counts = ranges.iter().map(|range| range.length);
        let length = heads.iter().map(|head| head.len() as u64).chain(counts).sum::<u64>() + end.len() as u64;
        Self { boundary, heads, end, length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(header: &str, size: u64) -> Selection {
        parse(header.as_bytes(), size, 16)
    }

    fn ranges(ranges: &[(u64, u64)]) -> Selection {
        Selection::Ranges(ranges.iter().map(|(start, count)| FileRange { start: *start, length: *count }).collect())
    }

    #[test]
    fn ranges_are_parsed_as_in_nginx() {
        for (header, expected) in [
            ("bytes=0-0", ranges(&[(0, 1)])),
            ("bytes=3-5", ranges(&[(3, 3)])),
            ("bytes=7-", ranges(&[(7, 3)])),
            ("bytes=-2", ranges(&[(8, 2)])),
            ("bytes=-99", ranges(&[(0, 10)])),
            ("bytes=8-99", ranges(&[(8, 2)])),
            ("BYTES= 0 - 1 ", ranges(&[(0, 2)])),
            ("bytes=0-99999999999999999999", ranges(&[(0, 10)])),
            ("bytes=5-6,0-1", ranges(&[(5, 2), (0, 2)])),
            ("bytes=0-1, 3-20 , 30-40", ranges(&[(0, 2), (3, 7)])),
            ("bytes=5-3,0-1", ranges(&[(0, 2)])),
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
            assert_eq!(select(header, 10), expected, "{header}");
        }
        assert_eq!(select("bytes=0-", 0), Selection::Whole);
        assert_eq!(select("bytes=-1", 0), Selection::Whole);
    }

    #[test]
    fn too_many_ranges_get_the_whole() {
        let list = |count: usize| format!("bytes={}0-0", "0-0,".repeat(count - 1));
        assert_eq!(select(&list(16), 10_000), ranges(&[(0, 1); 16]));
        assert_eq!(select(&list(17), 10_000), Selection::Whole);
        assert_eq!(parse(list(2).as_bytes(), 10_000, 1), Selection::Whole);
        assert_eq!(parse(list(40).as_bytes(), 10_000, 1000), ranges(&[(0, 1); 40]));
        assert_eq!(parse(list(60).as_bytes(), 10_000, 1000), Selection::Whole, "the heads would be more than the file");
    }

    #[test]
    fn each_range_of_a_multipart_body_has_a_head() {
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
