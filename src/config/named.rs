//! Things by their names. All kinds of them have the same map, from names to numbers.

use crate::numbers::Numbers;

#[derive(Clone, Debug)]
pub struct Named<T> {
    numbers: Numbers,
    things: Vec<T>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { numbers: Numbers::default(), things: Vec::new() }
    }
}

impl<T> Named<T> {
    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    pub fn get(&self, name: &[u8]) -> Option<&T> {
        self.things.get(self.numbers.get(name)? as usize)
    }

    /// The name stands for this one from now on. Whether it stood for none before.
    pub(super) fn insert(&mut self, name: &[u8], thing: T) -> bool {
        let number = self.things.len() as u32;
        self.things.push(thing);
        self.numbers.insert(name, number).is_none()
    }
}
