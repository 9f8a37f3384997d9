//! `geo [$address] $name { ... }`: a value found by an address, of networks (the smallest counts) or of ranges.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use super::build::{Draft, Walk, arg, invalid};
use super::syntax::{Directive, Error, Word};
use crate::cidr::Cidr;
use crate::template::{Template, Variable};

type Set = Result<(), Error>;

/// Networks or ranges of one block.
const ENTRIES_MAX: usize = 500_000;
/// What is no IPv4 or IPv6 address is looked for as this one, as in nginx.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::BROADCAST);

/// A compiled `geo`.
#[derive(Debug)]
pub struct Geo {
    pub name: String,
    /// Where the address is taken from; none: it is the client's.
    pub source: Option<Template>,
    /// Who may tell for whom it asks.
    pub proxies: Vec<Cidr>,
    pub recursive: bool,
    /// Each value once; tables have its place here.
    values: Vec<Box<[u8]>>,
    table: Table,
    default: u32,
}

#[derive(Debug)]
enum Table {
    Networks {
        /// By bits of the mask, and network.
        v4: BTreeMap<(u8, u32), u32>,
        v6: BTreeMap<(u8, u128), u32>,
    },
    /// First address to last address and value; none touches another.
    Ranges(BTreeMap<u32, (u32, u32)>),
}

impl Geo {
    /// The value of an address; none: it is none of IP.
    pub fn find(&self, ip: Option<IpAddr>) -> &[u8] {
        let found = match (&self.table, ip.unwrap_or(NO_ADDRESS).to_canonical()) {
            (Table::Networks { v4, .. }, IpAddr::V4(ip)) => {
                (0..=32u8).rev().find_map(|bits| v4.get(&(bits, ip.to_bits() & v4_mask(bits))))
            }
            (Table::Networks { v6, .. }, IpAddr::V6(ip)) => {
                (0..=128u8).rev().find_map(|bits| v6.get(&(bits, ip.to_bits() & v6_mask(bits))))
            }
            (Table::Ranges(ranges), IpAddr::V4(ip)) => find_range(ranges, ip.to_bits()),
            (Table::Ranges(ranges), IpAddr::V6(_)) => find_range(ranges, Ipv4Addr::BROADCAST.to_bits()),
        };
        self.values.get(*found.unwrap_or(&self.default) as usize).map_or(&[], |value| value)
    }

    fn entries(&self) -> usize {
        match &self.table {
            Table::Networks { v4, v6 } => v4.len() + v6.len(),
            Table::Ranges(ranges) => ranges.len(),
        }
    }
}

fn v4_mask(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn v6_mask(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

fn find_range(ranges: &BTreeMap<u32, (u32, u32)>, ip: u32) -> Option<&u32> {
    ranges.range(..=ip).next_back().filter(|(_, (last, _))| *last >= ip).map(|(_, (_, value))| value)
}

/// Puts a range in, into a wider one if there is one; false, if it reaches over the end of another.
fn add_range(ranges: &mut BTreeMap<u32, (u32, u32)>, first: u32, last: u32, value: u32) -> bool {
    let outer =
        ranges.range(..=first).next_back().map(|(start, end)| (*start, *end)).filter(|(_, (end, _))| *end >= first);
    match outer {
        Some((_, (end, _))) if end < last => return false,
        None if ranges.range(first..=last).next().is_some() => return false,
        Some((start, (end, old))) => {
            ranges.remove(&start);
            if start < first {
                ranges.insert(start, (first - 1, old));
            }
            if last < end {
                ranges.insert(last + 1, (end, old));
            }
        }
        None => {}
    }
    ranges.insert(first, (last, value));
    true
}

/// `192.0.2.0-192.0.2.255`
fn parse_range(text: &str) -> Option<(u32, u32)> {
    let (first, last) = text.split_once('-')?;
    let addr = |text: &str| text.parse::<Ipv4Addr>().ok().map(Ipv4Addr::to_bits);
    let (first, last) = (addr(first)?, addr(last)?);
    (first <= last).then_some((first, last))
}

/// A block that is being read.
struct Reading {
    geo: Geo,
    known: HashMap<Box<[u8]>, u32>,
    default_seen: bool,
}

pub(super) fn geo(walk: &mut Walk, _: &mut Draft, directive: &Directive) -> Set {
    let (source, target) = match directive.args.as_slice() {
        [source, target] => (Some(walk.template(source)?), target),
        _ => (None, arg(directive, 0)?),
    };
    let number = walk.geos.len() as u32;
    let name = walk.new_name(target, &Variable::Geo(number))?;
    let table = Table::Networks { v4: BTreeMap::new(), v6: BTreeMap::new() };
    let values = vec![Box::default()];
    let geo = Geo { name, source, proxies: Vec::new(), recursive: false, values, table, default: 0 };
    let mut reading = Reading { geo, known: HashMap::new(), default_seen: false };
    for entry in directive.block.as_deref().unwrap_or_default() {
        reading.entry(walk, entry)?;
    }
    walk.geos.push(reading.geo);
    Ok(())
}

impl Reading {
    fn entry(&mut self, walk: &mut Walk, entry: &Directive) -> Set {
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
                        Cidr::parse(&value.text).ok_or_else(|| invalid(entry, value, "an address or a range"))?;
                    self.geo.proxies.push(range);
                    Ok(())
                }
                "delete" => self.delete(walk, entry, value),
                "default" if std::mem::replace(&mut self.default_seen, true) => {
                    Err(Error::new(&key.at, "conflicting parameter \"default\""))
                }
                "default" => {
                    self.geo.default = self.value(value);
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

    /// Whether addresses or ranges of them stand here is said before the first one.
    fn use_ranges(&mut self, key: &Word) -> Set {
        if self.geo.entries() > 0 {
            return Err(Error::new(&key.at, "\"ranges\" must be the first directive inside \"geo\" block"));
        }
        self.geo.table = Table::Ranges(BTreeMap::new());
        Ok(())
    }

    fn add(&mut self, key: &Word, value: &Word) -> Set {
        if self.geo.entries() >= ENTRIES_MAX {
            return Err(Error::new(&key.at, format!("more than {ENTRIES_MAX} entries in a geo")));
        }
        let value = self.value(value);
        match (&mut self.geo.table, parse_range(&key.text), Cidr::parse(&key.text)) {
            (Table::Ranges(ranges), Some((first, last)), _) => {
                if !add_range(ranges, first, last, value) {
                    return Err(Error::new(&key.at, format!("range \"{}\" overlaps another one", key.text)));
                }
            }
            (Table::Ranges(_), ..) => return Err(wrong_key(key, "a range like 192.0.2.0-192.0.2.255")),
            (Table::Networks { v4, .. }, _, Some(Cidr::V4 { net, mask })) => {
                v4.insert((mask.count_ones() as u8, net), value);
            }
            (Table::Networks { v6, .. }, _, Some(Cidr::V6 { net, mask })) => {
                v6.insert((mask.count_ones() as u8, net), value);
            }
            (Table::Networks { .. }, ..) => return Err(wrong_key(key, "an address or a network like 192.0.2.0/24")),
        }
        Ok(())
    }

    fn delete(&mut self, walk: &mut Walk, entry: &Directive, what: &Word) -> Set {
        let gone = match (&mut self.geo.table, parse_range(&what.text), Cidr::parse(&what.text)) {
            (Table::Ranges(ranges), Some((first, last)), _) => {
                let is_there = ranges.get(&first).is_some_and(|(end, _)| *end == last);
                is_there && ranges.remove(&first).is_some()
            }
            (Table::Networks { v4, .. }, _, Some(Cidr::V4 { net, mask })) => {
                v4.remove(&(mask.count_ones() as u8, net)).is_some()
            }
            (Table::Networks { v6, .. }, _, Some(Cidr::V6 { net, mask })) => {
                v6.remove(&(mask.count_ones() as u8, net)).is_some()
            }
            _ => return Err(invalid(entry, what, "an address, a network or a range as it was written")),
        };
        if !gone {
            walk.note(&entry.name, "there is nothing to delete");
        }
        Ok(())
    }

    /// The place of a value.
    fn value(&mut self, word: &Word) -> u32 {
        let text: Box<[u8]> = word.text.as_bytes().into();
        if let Some(place) = self.known.get(&text) {
            return *place;
        }
        let place = self.geo.values.len() as u32;
        self.geo.values.push(text.clone());
        self.known.insert(text, place);
        place
    }
}

fn wrong_key(key: &Word, expected: &str) -> Error {
    Error::new(&key.at, format!("invalid network \"{}\"", key.text)).hint(format!("{expected} is expected"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u32, u32, u32)]) -> Option<Vec<(u32, u32, u32)>> {
        let mut ranges = BTreeMap::new();
        let added = all.iter().all(|(first, last, value)| add_range(&mut ranges, *first, *last, *value));
        added.then(|| ranges.into_iter().map(|(first, (last, value))| (first, last, value)).collect())
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
