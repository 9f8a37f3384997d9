//! Numbers by names: a hash table, for all that a configuration names.
//!
//! The standard library's is made for keys of every type, and for strangers who choose them. Here whoever writes the
//! configuration chooses them, and what strangers ask for is not kept.

/// Places for each name, so that few names want the same.
const PLACES_EACH: usize = 2;
const PLACES_MIN: usize = 8;

#[derive(Clone, Debug, Default)]
pub struct Numbers {
    names: Vec<(Box<[u8]>, u32)>,
    /// One more than the index of the name that belongs here, or the next one that is free; 0 where there is none.
    places: Vec<u32>,
}

/// FNV-1a.
fn hash(name: &[u8]) -> usize {
    name.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) as usize
}

impl Numbers {
    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub fn get(&self, name: &[u8]) -> Option<u32> {
        self.names.get(self.find(name)?).map(|(_, number)| *number)
    }

    /// The name has this number from now on. Gives back the one that it had.
    pub fn insert(&mut self, name: &[u8], number: u32) -> Option<u32> {
        if let Some((_, old)) = self.find(name).and_then(|index| self.names.get_mut(index)) {
            return Some(std::mem::replace(old, number));
        }
        self.names.push((name.into(), number));
        if self.places.len() < self.names.len() * PLACES_EACH {
            self.places = vec![0; (self.places.len() * 2).max(PLACES_MIN)];
            (0..self.names.len()).for_each(|index| self.place(index));
        } else {
            self.place(self.names.len() - 1);
        }
        None
    }

    /// The number of a name, which is the given one if it had none.
    pub fn get_or_insert(&mut self, name: &[u8], number: u32) -> u32 {
        self.get(name).unwrap_or_else(|| {
            self.insert(name, number);
            number
        })
    }

    /// The places for a name, the best one first. There are as many as a power of two.
    fn places_for(&self, name: &[u8]) -> impl Iterator<Item = usize> + use<> {
        let (first, last) = (hash(name), self.places.len().wrapping_sub(1));
        (0..self.places.len()).map(move |further| first.wrapping_add(further) & last)
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        for place in self.places_for(name) {
            let index = self.places.get(place)?.checked_sub(1)? as usize;
            if self.names.get(index).is_some_and(|(known, _)| **known == *name) {
                return Some(index);
            }
        }
        None
    }

    fn place(&mut self, index: usize) {
        let Some((name, _)) = self.names.get(index) else { return };
        for place in self.places_for(name) {
            if let Some(free @ 0) = self.places.get_mut(place) {
                *free = index as u32 + 1;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_number_they_were_given_last() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.get(b""), None);
        assert_eq!(numbers.get(b"a"), None);
        for number in 0..5000 {
            assert_eq!(numbers.insert(format!("name {number}").as_bytes(), number), None);
        }
        assert_eq!(numbers.insert(b"name 7", 70), Some(7));
        assert_eq!(numbers.get_or_insert(b"name 8", 80), 8);
        assert_eq!(numbers.get_or_insert(b"", 5000), 5000);
        assert_eq!((numbers.len(), numbers.get(b"name 7"), numbers.get(b"")), (5001, Some(70), Some(5000)));
        let is_right = |number: u32| numbers.get(format!("name {number}").as_bytes()) == Some(number);
        assert!((0..5000).all(|number| number == 7 || is_right(number)));
        assert_eq!(numbers.get(b"name 5000"), None);
    }

    #[test]
    fn names_that_want_the_same_place_are_told_apart() {
        let mut numbers = Numbers::default();
        // All of one remainder: with 64 places they stand one behind the other.
        let names = (0..100_000_u32).map(|number| number.to_string()).filter(|name| hash(name.as_bytes()) % 64 == 5);
        let names: Vec<String> = names.take(20).collect();
        for (number, name) in names.iter().enumerate() {
            numbers.insert(name.as_bytes(), number as u32);
        }
        assert!(names.iter().enumerate().all(|(number, name)| numbers.get(name.as_bytes()) == Some(number as u32)));
        assert_eq!(numbers.get(b"none"), None);
    }
}
