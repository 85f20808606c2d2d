//! From the index on a frame to what it belongs to.
//!
//! We allot the indices that others write to us. They are few (links × lanes) and change rarely
//! while every frame asks, so they lie sorted in one piece of memory.

/// A map from receiver indices.
#[derive(Clone, Debug)]
pub struct Table<T> {
    entries: Vec<(u32, T)>,
    unknown: u64,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), unknown: 0 }
    }
}

impl<T> Table<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts an index in force; returns what it meant before.
    pub fn install(&mut self, index: u32, value: T) -> Option<T> {
        match self.place(index) {
            Ok(at) => Some(std::mem::replace(&mut self.entries[at].1, value)),
            Err(at) => {
                self.entries.insert(at, (index, value));
                None
            }
        }
    }

    /// Takes an index out of force.
    pub fn withdraw(&mut self, index: u32) -> Option<T> {
        self.place(index).ok().map(|at| self.entries.remove(at).1)
    }

    /// What an index on a received frame means. Counts those that mean nothing.
    pub fn find(&mut self, index: u32) -> Option<&T> {
        if let Ok(at) = self.place(index) {
            return Some(&self.entries[at].1);
        }
        self.unknown += 1;
        None
    }

    /// How many frames came with an index that means nothing.
    pub fn unknown(&self) -> u64 {
        self.unknown
    }

    /// Everything in force, by index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.entries.iter().map(|(index, value)| (*index, value))
    }

    fn place(&self, index: u32) -> Result<usize, usize> {
        self.entries.binary_search_by_key(&index, |(index, _)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_means_what_was_installed_last_and_unknown_ones_are_counted() {
        let mut table = Table::new();
        assert_eq!(table.install(7, 'a'), None);
        assert_eq!(table.install(3, 'b'), None);
        assert_eq!(table.install(7, 'c'), Some('a'));
        assert_eq!(table.find(7), Some(&'c'));
        assert_eq!(table.iter().map(|(index, _)| index).collect::<Vec<_>>(), [3, 7]);
        assert_eq!(table.withdraw(7), Some('c'));
        assert_eq!(table.find(7), None);
        assert_eq!(table.unknown(), 1);
    }
}
