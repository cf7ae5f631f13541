//! Finds an entry of a list by its name in O(1), with a randomly seeded hash: a file cannot choose collisions.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

/// Positions in a list kept elsewhere, findable by name. Costs about 5 to 11 bytes an entry.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    state: RandomState,
    table: HashTable<u32>,
}

impl NameIndex {
    /// Adds position `i`, unless an entry of that name is there: then returns that entry's position.
    pub(crate) fn insert<'a>(
        &mut self,
        name: &str,
        i: u32,
        name_of: impl Fn(u32) -> &'a str,
    ) -> Result<(), u32> {
        let state = &self.state;
        let entry = self.table.entry(
            state.hash_one(name),
            |&other| name_of(other) == name,
            |&other| state.hash_one(name_of(other)),
        );
        match entry {
            hashbrown::hash_table::Entry::Occupied(there) => Err(*there.get()),
            hashbrown::hash_table::Entry::Vacant(free) => {
                free.insert(i);
                Ok(())
            }
        }
    }

    /// The position that was added under `name`.
    pub(crate) fn find<'a>(&self, name: &str, name_of: impl Fn(u32) -> &'a str) -> Option<usize> {
        self.table.find(self.state.hash_one(name), |&i| name_of(i) == name).map(|&i| i as usize)
    }
}
