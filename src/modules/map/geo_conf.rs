//! `geo [$address] $name { ... }`: maps an address to a value, by networks (the longest prefix wins) or by ranges.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::config::arguments::{arg, invalid_value};
use crate::config::builder::{BlockBuilder, Builder};
use crate::config::parser::{Directive, Error, Result, Word};
use crate::config::template::Template;
use crate::runtime::cidr::Cidr;

/// The limit of networks or ranges per block.
const ENTRIES_MAX: usize = 500_000;
/// Looked up in place of a value that is not an IP address, as in nginx.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// A compiled `geo`.
#[derive(Debug)]
pub struct Geo {
    pub name: String,
    /// The variable with the address. None: the client address.
    pub source: Option<Template>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Vec<Cidr>,
    pub recursive: bool,
    /// Distinct values; the table has indices of them.
    values: Vec<Box<[u8]>>,
    table: Table,
    default: u32,
}

#[derive(Debug)]
enum Table {
    Networks(Networks),
    /// Sorted and disjoint.
    Ranges(Vec<Range>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    first: u32,
    last: u32,
    value: u32,
}

/// The sort key of a network: the prefix length, then its first address in the last bytes.
type Network = [u8; 17];
/// Added to the prefix length of IPv4 networks, to keep them apart from IPv6.
const V4_BITS: u8 = 129;

fn network_key(bits: u8, first: u128) -> Network {
    let mut network = [bits; 17];
    network.iter_mut().skip(1).zip(first.to_be_bytes()).for_each(|(to, from)| *to = from);
    network
}

/// Networks of both families, with the indices of their values.
#[derive(Debug, Default)]
struct Networks(Vec<(Network, u32)>);

impl Networks {
    /// Sorts the list for the search. Of several entries for a network the last one counts.
    fn sort(&mut self) {
        self.0.sort_by_key(|(network, _)| *network);
        self.0.dedup_by(|later, last| {
            let is_same = later.0 == last.0;
            if is_same {
                last.1 = later.1;
            }
            is_same
        });
    }

    /// Returns the value of the smallest network that contains `ip`, an address of `len` bits.
    fn lookup(&self, ip: u128, len: u8, bits_added: u8) -> Option<u32> {
        (0..=len).rev().find_map(|bits| {
            let first = ip & u128::MAX.checked_shl((len - bits).into()).unwrap_or(0);
            let network = network_key(bits_added + bits, first);
            let at = self.0.binary_search_by_key(&network, |(network, _)| *network).ok()?;
            self.0.get(at).map(|(_, value)| *value)
        })
    }
}

impl Geo {
    /// Returns the value for an address. None: the value looked up is not an IP address.
    pub fn lookup(&self, ip: Option<IpAddr>) -> &[u8] {
        let found = match (&self.table, ip.unwrap_or(NO_ADDRESS).to_canonical()) {
            (Table::Networks(networks), IpAddr::V4(ip)) => networks.lookup(ip.to_bits().into(), 32, V4_BITS),
            (Table::Networks(networks), IpAddr::V6(ip)) => networks.lookup(ip.to_bits(), 128, 0),
            (Table::Ranges(ranges), IpAddr::V4(ip)) => find_range(ranges, ip.to_bits()),
            (Table::Ranges(ranges), IpAddr::V6(_)) => find_range(ranges, Ipv4Addr::BROADCAST.to_bits()),
        };
        self.values.get(found.unwrap_or(self.default) as usize).map_or(&[], |value| value)
    }

    /// Lists all values that the variable may have.
    pub(crate) fn possible_values(&self) -> impl Iterator<Item = &[u8]> {
        self.values.iter().map(|value| &**value)
    }

    fn len(&self) -> usize {
        match &self.table {
            Table::Networks(networks) => networks.0.len(),
            Table::Ranges(ranges) => ranges.len(),
        }
    }
}

fn find_range(ranges: &[Range], ip: u32) -> Option<u32> {
    let at = ranges.partition_point(|range| range.last < ip);
    ranges.get(at).filter(|range| range.first <= ip).map(|range| range.value)
}

/// Inserts a range, splitting a wider one that contains it. Returns false if it overlaps the end of another.
fn add_range(ranges: &mut Vec<Range>, new: Range) -> bool {
    let at = ranges.partition_point(|range| range.last < new.first);
    match ranges.get(at).copied().filter(|old| old.first <= new.last) {
        Some(old) if old.first > new.first || old.last < new.last => return false,
        Some(old) => {
            ranges.remove(at);
            if new.last < old.last {
                ranges.insert(at, Range { first: new.last + 1, ..old });
            }
            ranges.insert(at, new);
            if old.first < new.first {
                ranges.insert(at, Range { last: new.first - 1, ..old });
            }
        }
        None => ranges.insert(at, new),
    }
    true
}

/// `192.0.2.0-192.0.2.255`
fn parse_range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-')?;
    let addr = |text: &str| text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    let (first, last) = (addr(first)?, addr(last)?);
    (first <= last).then_some((first, last))
}

/// A block under construction.
struct GeoBuilder {
    geo: Geo,
    value_indices: HashMap<String, u32>,
}

pub(crate) fn geo(builder: &mut Builder, _: &mut BlockBuilder, directive: &Directive) -> Result {
    let (source, target) = match directive.args.as_slice() {
        [source, target] => (Some(builder.template(source)?), target),
        _ => (None, arg(directive, 0)),
    };
    let name = builder.defined_variable_name(target)?;
    let table = Table::Networks(Networks::default());
    let values = vec![Box::default()];
    let geo = Geo { name, source, proxies: Vec::new(), recursive: false, values, table, default: 0 };
    let mut reading = GeoBuilder { geo, value_indices: HashMap::new() };
    for entry in directive.block.as_deref().unwrap_or_default() {
        reading.read_entry(builder, entry)?;
    }
    if let Table::Networks(networks) = &mut reading.geo.table {
        networks.sort();
    }
    builder.config.geos.push(reading.geo);
    Ok(())
}

impl GeoBuilder {
    fn read_entry(&mut self, builder: &mut Builder, entry: &Directive) -> Result {
        let key = &entry.name;
        match (key.text.as_str(), entry.args.as_slice()) {
            ("ranges", []) => self.use_ranges(key),
            ("proxy_recursive", []) => {
                self.geo.recursive = true;
                Ok(())
            }
            ("volatile", []) => Ok(()),
            (name, [value]) if entry.block.is_none() => match name {
                "proxy" => {
                    let range =
                        Cidr::parse(&value.text).ok_or_else(|| invalid_value(entry, value, "an address or a range"))?;
                    self.geo.proxies.push(range);
                    Ok(())
                }
                "delete" => self.delete(builder, entry, value),
                "default" => {
                    self.geo.default = self.value_index(value);
                    Ok(())
                }
                _ => self.add(key, value),
            },
            _ => {
                let error = Error::new(&key.at, "invalid number of the geo parameters");
                Err(error.hint("an address and a value are expected"))
            }
        }
    }

    /// `ranges` must precede the first entry.
    fn use_ranges(&mut self, key: &Word) -> Result {
        if self.geo.len() > 0 {
            return Err(Error::new(&key.at, "\"ranges\" must be the first directive inside \"geo\" block"));
        }
        self.geo.table = Table::Ranges(Vec::new());
        Ok(())
    }

    fn add(&mut self, key: &Word, value: &Word) -> Result {
        if self.geo.len() >= ENTRIES_MAX {
            return Err(Error::new(&key.at, format!("more than {ENTRIES_MAX} entries in a geo")));
        }
        let value = self.value_index(value);
        match (&mut self.geo.table, parse_range(&key.text), parse_network(&key.text)) {
            (Table::Ranges(ranges), Some((first, last)), _) => {
                if !add_range(ranges, Range { first, last, value }) {
                    return Err(key.error("range \"{}\" overlaps another one"));
                }
            }
            (Table::Ranges(_), ..) => return Err(invalid_key(key, "a range such as 192.0.2.0-192.0.2.255")),
            (Table::Networks(networks), _, Some(network)) => networks.0.push((network, value)),
            (Table::Networks(_), ..) => return Err(invalid_key(key, "an address or a network such as 192.0.2.0/24")),
        }
        Ok(())
    }

    fn delete(&mut self, builder: &mut Builder, entry: &Directive, what: &Word) -> Result {
        let before = self.geo.len();
        match (&mut self.geo.table, parse_range(&what.text), parse_network(&what.text)) {
            (Table::Ranges(ranges), Some(deleted), _) => ranges.retain(|range| (range.first, range.last) != deleted),
            (Table::Networks(networks), _, Some(deleted)) => networks.0.retain(|(network, _)| *network != deleted),
            _ => return Err(invalid_value(entry, what, "an address, a network or a range, written as in its entry,")),
        }
        if self.geo.len() == before {
            builder.note(&entry.name, "no such entry to delete");
        }
        Ok(())
    }

    /// Returns the index of a value, which is added if it is new.
    fn value_index(&mut self, word: &Word) -> u32 {
        let next = self.geo.values.len() as u32;
        let index = *self.value_indices.entry(word.text.clone()).or_insert(next);
        if index == next {
            self.geo.values.push(word.text.as_bytes().into());
        }
        index
    }
}

fn parse_network(text: &str) -> Option<Network> {
    match Cidr::parse(text)? {
        Cidr::V4 { net, mask } => Some(network_key(V4_BITS + mask.count_ones() as u8, net.into())),
        Cidr::V6 { net, mask } => Some(network_key(mask.count_ones() as u8, net)),
        Cidr::Unix => None,
    }
}

fn invalid_key(key: &Word, expected: &str) -> Error {
    key.error("invalid network \"{}\"").hint_formatted("{} is expected", expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u32, u32, u32)]) -> Option<Vec<(u32, u32, u32)>> {
        let mut ranges = Vec::new();
        let mut new = all.iter().map(|(first, last, value)| Range { first: *first, last: *last, value: *value });
        let added = new.all(|range| add_range(&mut ranges, range));
        added.then(|| ranges.iter().map(|range| (range.first, range.last, range.value)).collect())
    }

    #[test]
    fn a_range_goes_into_a_wider_one_and_over_no_end() {
        const MAX: u32 = u32::MAX;
        for (all, expected) in [
            (&[(1, 5, 1)][..], Some(&[(1, 5, 1)][..])),
            (&[(0, 9, 1), (3, 5, 2)], Some(&[(0, 2, 1), (3, 5, 2), (6, 9, 1)])),
            (&[(0, 9, 1), (0, 5, 2)], Some(&[(0, 5, 2), (6, 9, 1)])),
            (&[(0, 9, 1), (5, 9, 2)], Some(&[(0, 4, 1), (5, 9, 2)])),
            (&[(0, 9, 1), (0, 9, 2)], Some(&[(0, 9, 2)])),
            (&[(5, 9, 1), (0, 4, 2)], Some(&[(0, 4, 2), (5, 9, 1)])),
            (&[(0, MAX, 1), (MAX, MAX, 2)], Some(&[(0, MAX - 1, 1), (MAX, MAX, 2)])),
            (&[(0, MAX, 1), (0, 0, 2)], Some(&[(0, 0, 2), (1, MAX, 1)])),
            (&[(3, 5, 1), (0, 9, 2)], None),
            (&[(3, 5, 1), (0, 3, 2)], None),
            (&[(3, 5, 1), (5, 6, 2)], None),
        ] {
            assert_eq!(ranges(all).as_deref(), expected, "{all:?}");
        }
    }

    #[test]
    fn ranges_are_read_strictly() {
        assert_eq!(parse_range("0.0.0.1-0.0.1.0"), Some((1, 256)));
        for bad in ["", "-", "0.0.0.1", "0.0.0.2-0.0.0.1", "::1-::2", "0.0.0.1-0.0.0.2-", "0.0.0.1 - 0.0.0.2"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
