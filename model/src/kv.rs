//! Bookkeeping of the paged caches: which blocks hold which sequence's positions. Holds no keys or values.
//!
//! A block has [`KV_BLOCK`] positions. Each group of caches has blocks and tables of its own, so that where layers see
//! only a window, the blocks behind it are free again. Blocks are counted, so that sequences may share a common
//! beginning; a shared block is never written, since backends cannot copy blocks.
//!
//! Where layers keep a state, a sequence has one block for it, which it shares with none. A state cannot go back: such a
//! sequence that is cut has nothing left, its fork begins empty, and both are read again from their first token.

use crate::{Error, ErrorKind, Result};
use graph::{BlockTable, Blocks, CacheGroup, FREED, GroupId, KV_BLOCK};

/// A sequence of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(u32);

/// One sequence's positions.
#[derive(Debug, Default)]
struct Sequence {
    /// For each group: block `tables[group][p / KV_BLOCK]` holds position `p`, or is [`FREED`].
    tables: Vec<Vec<u32>>,
    /// Positions stored.
    len: usize,
    /// Where its states stand: the positions that they have read. `None` after a step that failed under way.
    read: Option<usize>,
}

/// The blocks of one group of caches.
#[derive(Debug)]
struct Pool {
    group: CacheGroup,
    /// Sequences that use each block.
    users: Vec<u32>,
    /// Blocks that nobody uses, lowest last.
    free: Vec<u32>,
}

impl Pool {
    fn new(group: CacheGroup, n_blocks: usize) -> Self {
        let n = u32::try_from(n_blocks).unwrap_or(FREED);
        Self { group, users: vec![0; n as usize], free: (0..n).rev().collect() }
    }

    /// The first block that a token at `position` sees something of.
    fn first_seen(&self, position: usize) -> usize {
        // Contexts are shorter than 2³² positions.
        let position = u32::try_from(position).unwrap_or(u32::MAX - 1);
        *self.group.needs(position).start()
    }

    /// The entry of a table that holds position `len`.
    fn entry(&self, len: usize) -> usize {
        self.group.table_len(len + 1) - 1
    }

    fn share(&mut self, table: &[u32]) {
        for &block in table.iter().filter(|&&block| block != FREED) {
            self.users[block as usize] += 1;
        }
    }

    fn give_back(&mut self, block: u32) {
        if block == FREED {
            return;
        }
        self.users[block as usize] -= 1;
        if self.users[block as usize] == 0 {
            self.free.push(block);
        }
    }
}

/// The blocks of all groups, and the sequences in them.
#[derive(Debug)]
pub struct Pages {
    pools: Vec<Pool>,
    sequences: Vec<Option<Sequence>>,
}

impl Pages {
    /// All blocks are free: for each group its number of them.
    pub fn new(groups: &[CacheGroup], blocks: &Blocks) -> Self {
        let pool = |(id, group): (usize, &CacheGroup)| Pool::new(*group, blocks.of(GroupId(id)));
        Self { pools: groups.iter().enumerate().map(pool).collect(), sequences: Vec::new() }
    }

    /// Blocks of a group that nobody uses.
    pub fn n_free(&self, group: GroupId) -> usize {
        self.pools.get(group.0).map_or(0, |pool| pool.free.len())
    }

    /// An empty sequence.
    pub fn add(&mut self) -> SeqId {
        let slot = self.sequences.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        let tables = vec![Vec::new(); self.pools.len()];
        self.sequences[slot] = Some(Sequence { tables, len: 0, read: Some(0) });
        SeqId(slot as u32)
    }

    /// Frees a sequence's blocks; its id may be given out again.
    pub fn remove(&mut self, seq: SeqId) -> Result<()> {
        self.truncate(seq, 0)?;
        self.sequences[seq.0 as usize] = None;
        Ok(())
    }

    /// Positions stored of a sequence.
    pub fn len(&self, seq: SeqId) -> Result<usize> {
        Ok(self.get(seq)?.len)
    }

    /// The block tables of a sequence, for [`graph::Step::tables`].
    pub fn table(&self, seq: SeqId) -> Result<BlockTable> {
        Ok(BlockTable::Groups(self.get(seq)?.tables.clone()))
    }

    /// Gives the sequence blocks for `n` more positions, and returns the first of these positions. All or nothing:
    /// where blocks are lacking, nothing changes.
    pub fn grow(&mut self, seq: SeqId, n: usize) -> Result<usize> {
        let sequence = self
            .sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| unknown(seq))?;
        let first = sequence.len;
        let fewest = self.pools.iter().map(|pool| pool.free.len()).min().unwrap_or(0);
        let end = first.checked_add(n).ok_or_else(|| full(n, fewest))?;
        let wanted = |pool: &Pool, table: &Vec<u32>| pool.group.table_len(end) - table.len();
        for (pool, table) in self.pools.iter().zip(&sequence.tables) {
            if wanted(pool, table) > pool.free.len() {
                return Err(match pool.group {
                    CacheGroup::Positions { .. } => full(n, pool.free.len()),
                    CacheGroup::States => no_state(pool.users.len()),
                });
            }
        }
        for (pool, table) in self.pools.iter_mut().zip(&mut sequence.tables) {
            let rest = pool.free.len() - wanted(pool, table);
            for block in pool.free.drain(rest..).rev() {
                pool.users[block as usize] = 1;
                table.push(block);
            }
        }
        sequence.len = end;
        Ok(first)
    }

    /// A step over all positions of the sequence has run: its states stand there.
    pub fn ran(&mut self, seq: SeqId) -> Result<()> {
        let sequence = self.get_mut(seq)?;
        sequence.read = Some(sequence.len);
        Ok(())
    }

    /// A step of the sequence failed under way: nobody knows where its states stand.
    pub fn failed(&mut self, seq: SeqId) -> Result<()> {
        self.get_mut(seq)?.read = None;
        Ok(())
    }

    /// Frees the blocks of which the next token of a sequence sees nothing. It can then no longer be cut to where they
    /// would be seen again.
    pub fn free_unseen(&mut self, seq: SeqId) -> Result<()> {
        let sequence = self
            .sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| unknown(seq))?;
        for (pool, table) in self.pools.iter_mut().zip(&mut sequence.tables) {
            let seen = pool.first_seen(sequence.len).min(table.len());
            for block in &mut table[..seen] {
                pool.give_back(std::mem::replace(block, FREED));
            }
        }
        Ok(())
    }

    /// Forgets the positions from `len` on, and returns how many are left. These are fewer than `len` where `len` lies
    /// inside a shared block, since the sequence could not write on there; and none where what the next token sees was
    /// freed, or a state stands behind `len`.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize> {
        let sequence = self.get(seq)?;
        if len >= sequence.len {
            return Ok(sequence.len);
        }
        let mut len = len;
        if self.has_states() && sequence.read != Some(len) {
            len = 0;
        }
        let shared = |(pool, table): (&Pool, &Vec<u32>)| {
            let block = table[pool.entry(len)];
            block != FREED && pool.users[block as usize] > 1
        };
        let pools = || self.pools.iter().zip(&sequence.tables);
        if !len.is_multiple_of(KV_BLOCK) && pools().any(shared) {
            len -= len % KV_BLOCK;
        }
        if !pools().all(|(pool, table)| holds(pool, table, len)) {
            len = 0;
        }
        let Some(sequence) = self.sequences[seq.0 as usize].as_mut() else {
            return Err(unknown(seq));
        };
        for (pool, table) in self.pools.iter_mut().zip(&mut sequence.tables) {
            for block in table.drain(pool.group.table_len(len)..).rev() {
                pool.give_back(block);
            }
        }
        sequence.len = len;
        if len == 0 {
            sequence.read = Some(0);
        }
        Ok(len)
    }

    /// A new sequence that shares the whole blocks of `seq`'s first `len` positions. How many positions it has is
    /// [`Pages::len`] of it: `len` rounded down to whole blocks, or none where what its next token sees was freed or a layer
    /// keeps a state.
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId> {
        let source = self.get(seq)?;
        let mut n_blocks = len.min(source.len) / KV_BLOCK;
        let mut pools = self.pools.iter().zip(&source.tables);
        let whole = pools.all(|(pool, table)| holds(pool, table, n_blocks * KV_BLOCK));
        if !whole || self.has_states() {
            n_blocks = 0;
        }
        let tables: Vec<Vec<u32>> =
            source.tables.iter().map(|table| table[..n_blocks].to_vec()).collect();
        for (pool, table) in self.pools.iter_mut().zip(&tables) {
            pool.share(table);
        }
        let fork = self.add();
        let len = n_blocks * KV_BLOCK;
        self.sequences[fork.0 as usize] = Some(Sequence { tables, len, read: Some(len) });
        Ok(fork)
    }

    fn has_states(&self) -> bool {
        self.pools.iter().any(|pool| pool.group == CacheGroup::States)
    }

    fn get_mut(&mut self, seq: SeqId) -> Result<&mut Sequence> {
        let sequence = self.sequences.get_mut(seq.0 as usize).and_then(Option::as_mut);
        sequence.ok_or_else(|| unknown(seq))
    }

    fn get(&self, seq: SeqId) -> Result<&Sequence> {
        self.sequences.get(seq.0 as usize).and_then(Option::as_ref).ok_or_else(|| unknown(seq))
    }
}

/// Whether a table has every block that a token at position `len` sees of those before it.
fn holds(pool: &Pool, table: &[u32], len: usize) -> bool {
    let seen = pool.first_seen(len)..pool.group.table_len(len);
    table.get(seen).is_none_or(|blocks| blocks.iter().all(|&block| block != FREED))
}

fn unknown(seq: SeqId) -> Error {
    Error::new(ErrorKind::Usage, format!("sequence {} is not in the cache", seq.0))
}

fn full(n: usize, n_free: usize) -> Error {
    let what = format!(
        "KV cache: {n} more positions do not fit, {n_free} blocks of {KV_BLOCK} positions are free"
    );
    Error::new(ErrorKind::CacheFull, what)
}

fn no_state(n: usize) -> Error {
    let what = format!("KV cache: {n} sequences have a state each, and there is room for no more");
    Error::new(ErrorKind::CacheFull, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No block in two places without being counted there, none lost.
    fn check(pages: &Pages) {
        for (g, pool) in pages.pools.iter().enumerate() {
            let mut users = vec![0; pool.users.len()];
            for sequence in pages.sequences.iter().flatten() {
                assert_eq!(sequence.tables[g].len(), pool.group.table_len(sequence.len));
                for &block in sequence.tables[g].iter().filter(|&&block| block != FREED) {
                    users[block as usize] += 1;
                }
            }
            assert_eq!(users, pool.users);
            let mut free = pool.free.clone();
            free.sort_unstable();
            free.dedup();
            let unused: Vec<u32> =
                (0..).zip(&users).filter(|(_, n)| **n == 0).map(|(i, _)| i).collect();
            assert_eq!(free, unused);
            assert_eq!(free.len(), pool.free.len());
        }
    }

    const ALL: GroupId = GroupId(0);
    const SOME: GroupId = GroupId(1);

    /// One group that sees everything.
    fn whole(n_blocks: usize) -> Pages {
        Pages::new(&[CacheGroup::Positions { window: None }], &Blocks::Each(n_blocks))
    }

    fn blocks(pages: &Pages, seq: SeqId, group: GroupId) -> Vec<u32> {
        pages.table(seq).unwrap().of(group).to_vec()
    }

    #[test]
    fn what_a_window_hides_is_free_again() {
        let groups =
            [CacheGroup::Positions { window: None }, CacheGroup::Positions { window: Some(100) }];
        let mut pages = Pages::new(&groups, &Blocks::Groups(vec![8, 4]));
        let a = pages.add();
        pages.grow(a, 3 * KV_BLOCK).unwrap();
        pages.free_unseen(a).unwrap();
        check(&pages);
        // The next token, at 192, sees 93 ..= 192: block 0 (0 ..= 63) is of no more use to it.
        assert_eq!(blocks(&pages, a, ALL), [0, 1, 2]);
        assert_eq!(blocks(&pages, a, SOME), [FREED, 1, 2]);
        assert_eq!((pages.n_free(ALL), pages.n_free(SOME)), (5, 2));
        // It grows on in the freed block, which the whole group could not.
        pages.grow(a, 2 * KV_BLOCK).unwrap();
        assert_eq!(blocks(&pages, a, SOME), [FREED, 1, 2, 0, 3]);
        check(&pages);
        // Cut to 170: the token there sees 71 ..= 170, which is kept.
        assert_eq!(pages.truncate(a, 170).unwrap(), 170);
        check(&pages);
        // A fork of two blocks sees 29 ..= 128, of which block 0 is gone: it begins anew.
        let b = pages.fork(a, 2 * KV_BLOCK).unwrap();
        assert_eq!(pages.len(b).unwrap(), 0);
        // Cut to 150: the token there would see 51 ..= 150.
        assert_eq!(pages.truncate(a, 150).unwrap(), 0);
        assert_eq!((pages.n_free(ALL), pages.n_free(SOME)), (8, 4));
        check(&pages);
    }

    #[test]
    fn grows_by_blocks_and_gives_back() {
        let mut pages = whole(4);
        let (a, b) = (pages.add(), pages.add());
        assert_eq!(pages.grow(a, 1).unwrap(), 0);
        assert_eq!(pages.grow(b, KV_BLOCK + 1).unwrap(), 0);
        assert_eq!(pages.grow(a, KV_BLOCK - 1).unwrap(), 1);
        assert_eq!(blocks(&pages, a, ALL), [0]);
        assert_eq!(blocks(&pages, b, ALL), [1, 2]);
        assert_eq!(pages.grow(a, 1).unwrap(), KV_BLOCK);
        assert_eq!(blocks(&pages, a, ALL), [0, 3]);
        check(&pages);
        let error = pages.grow(b, KV_BLOCK).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CacheFull);
        assert_eq!(pages.len(b).unwrap(), KV_BLOCK + 1);
        pages.remove(a).unwrap();
        check(&pages);
        assert_eq!(pages.n_free(ALL), 2);
        assert_eq!(pages.grow(b, KV_BLOCK).unwrap(), KV_BLOCK + 1);
        assert_eq!(pages.table(a).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(pages.add(), a);
        check(&pages);
    }

    #[test]
    fn truncation_keeps_the_begun_block() {
        let mut pages = whole(8);
        let a = pages.add();
        pages.grow(a, 3 * KV_BLOCK).unwrap();
        assert_eq!(pages.truncate(a, KV_BLOCK + 1).unwrap(), KV_BLOCK + 1);
        assert_eq!(blocks(&pages, a, ALL), [0, 1]);
        assert_eq!(pages.truncate(a, 9999).unwrap(), KV_BLOCK + 1);
        assert_eq!(pages.truncate(a, 0).unwrap(), 0);
        assert_eq!(pages.n_free(ALL), 8);
        check(&pages);
    }

    #[test]
    fn shared_blocks_are_never_written() {
        let mut pages = whole(8);
        let a = pages.add();
        pages.grow(a, 2 * KV_BLOCK + 5).unwrap();
        let b = pages.fork(a, 2 * KV_BLOCK + 3).unwrap();
        assert_eq!(pages.len(b).unwrap(), 2 * KV_BLOCK);
        assert_eq!(blocks(&pages, b, ALL), [0, 1]);
        check(&pages);
        // The next positions of both go to blocks of their own.
        assert_eq!(pages.grow(b, 1).unwrap(), 2 * KV_BLOCK);
        assert_eq!(blocks(&pages, b, ALL), [0, 1, 3]);
        // Cut inside a shared block: back to its beginning.
        assert_eq!(pages.truncate(a, KV_BLOCK + 7).unwrap(), KV_BLOCK);
        check(&pages);
        pages.remove(a).unwrap();
        check(&pages);
        assert_eq!(pages.truncate(b, KV_BLOCK + 7).unwrap(), KV_BLOCK + 7);
        check(&pages);
    }

    #[test]
    fn a_state_goes_on_or_begins_anew() {
        let groups = [CacheGroup::Positions { window: None }, CacheGroup::States];
        let mut pages = Pages::new(&groups, &Blocks::Groups(vec![8, 2]));
        let (a, b) = (pages.add(), pages.add());
        pages.grow(a, KV_BLOCK + 5).unwrap();
        pages.ran(a).unwrap();
        pages.grow(b, 1).unwrap();
        assert_eq!((blocks(&pages, a, SOME), blocks(&pages, b, SOME)), (vec![0], vec![1]));
        check(&pages);
        // A third sequence may be there, but not begin.
        let c = pages.add();
        let error = pages.grow(c, 1).unwrap_err();
        assert!(error.to_string().contains("2 sequences have a state each"), "{error}");
        pages.remove(b).unwrap();
        pages.grow(c, 1).unwrap();
        assert_eq!(blocks(&pages, c, SOME), [1]);
        // A step that did not begin leaves the state where it stands.
        pages.grow(a, 2).unwrap();
        assert_eq!(pages.truncate(a, KV_BLOCK + 5).unwrap(), KV_BLOCK + 5);
        check(&pages);
        let fork = pages.fork(a, KV_BLOCK).unwrap();
        assert_eq!(pages.len(fork).unwrap(), 0);
        // One that failed under way, and a cut, leave nothing.
        pages.grow(a, 2).unwrap();
        pages.failed(a).unwrap();
        assert_eq!(pages.truncate(a, KV_BLOCK + 5).unwrap(), 0);
        check(&pages);
        pages.grow(a, 9).unwrap();
        pages.ran(a).unwrap();
        assert_eq!(pages.truncate(a, 9).unwrap(), 9);
        assert_eq!(pages.truncate(a, 8).unwrap(), 0);
        assert_eq!((pages.n_free(ALL), pages.n_free(SOME)), (7, 1));
        check(&pages);
    }

    #[test]
    fn absurd_growth_is_refused() {
        let mut pages = whole(1);
        let a = pages.add();
        pages.grow(a, 1).unwrap();
        assert!(pages.grow(a, usize::MAX).is_err());
        assert!(pages.grow(a, usize::MAX - 1).is_err());
        check(&pages);
    }
}
