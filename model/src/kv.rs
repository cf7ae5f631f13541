//! Bookkeeping of the paged KV cache: which blocks hold which sequence's positions. Holds no keys or values.
//!
//! A block has [`KV_BLOCK`] positions. Blocks are counted, so that sequences may share a common beginning; a shared
//! block is never written, since backends cannot copy blocks.

use crate::{Error, ErrorKind, Result};
use graph::KV_BLOCK;

/// A sequence of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(u32);

/// One sequence's positions.
#[derive(Debug, Default)]
struct Sequence {
    /// Block `blocks[p / KV_BLOCK]` holds position `p`.
    blocks: Vec<u32>,
    /// Positions stored.
    len: usize,
}

/// The blocks of one cache, and the sequences in it.
#[derive(Debug)]
pub struct Pages {
    /// Sequences that use each block.
    users: Vec<u32>,
    /// Blocks that nobody uses, lowest last.
    free: Vec<u32>,
    sequences: Vec<Option<Sequence>>,
}

impl Pages {
    /// `n_blocks` free blocks.
    pub fn new(n_blocks: usize) -> Self {
        let n = u32::try_from(n_blocks).unwrap_or(u32::MAX);
        Self { users: vec![0; n as usize], free: (0..n).rev().collect(), sequences: Vec::new() }
    }

    /// Blocks that nobody uses.
    pub fn n_free(&self) -> usize {
        self.free.len()
    }

    /// An empty sequence.
    pub fn add(&mut self) -> SeqId {
        let slot = self.sequences.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sequences.push(None);
            self.sequences.len() - 1
        });
        self.sequences[slot] = Some(Sequence::default());
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

    /// The block table of a sequence, for [`graph::Step::tables`].
    pub fn table(&self, seq: SeqId) -> Result<&[u32]> {
        Ok(&self.get(seq)?.blocks)
    }

    /// Gives the sequence blocks for `n` more positions, and returns the first of these positions. All or nothing:
    /// where blocks are lacking, nothing changes.
    pub fn grow(&mut self, seq: SeqId, n: usize) -> Result<usize> {
        let n_free = self.free.len();
        let sequence = self
            .sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| unknown(seq))?;
        let first = sequence.len;
        let end = first.checked_add(n).ok_or_else(|| full(n, n_free))?;
        let wanted = end.div_ceil(KV_BLOCK).saturating_sub(sequence.blocks.len());
        if wanted > n_free {
            return Err(full(n, n_free));
        }
        for block in self.free.drain(n_free - wanted..).rev() {
            self.users[block as usize] = 1;
            sequence.blocks.push(block);
        }
        sequence.len = end;
        Ok(first)
    }

    /// Forgets the positions from `len` on, and returns how many are left. These are fewer than `len` where `len` lies
    /// inside a shared block: the sequence could not write on there.
    pub fn truncate(&mut self, seq: SeqId, len: usize) -> Result<usize> {
        let sequence = self
            .sequences
            .get_mut(seq.0 as usize)
            .and_then(Option::as_mut)
            .ok_or_else(|| unknown(seq))?;
        if len >= sequence.len {
            return Ok(sequence.len);
        }
        let mut len = len;
        if !len.is_multiple_of(KV_BLOCK) && self.users[sequence.blocks[len / KV_BLOCK] as usize] > 1
        {
            len -= len % KV_BLOCK;
        }
        for block in sequence.blocks.drain(len.div_ceil(KV_BLOCK)..).rev() {
            self.users[block as usize] -= 1;
            if self.users[block as usize] == 0 {
                self.free.push(block);
            }
        }
        sequence.len = len;
        Ok(len)
    }

    /// A new sequence that shares the whole blocks of `seq`'s first `len` positions. How many positions it has is
    /// [`Pages::len`] of it: `len` rounded down to whole blocks.
    pub fn fork(&mut self, seq: SeqId, len: usize) -> Result<SeqId> {
        let source = self.get(seq)?;
        let n_blocks = len.min(source.len) / KV_BLOCK;
        let blocks = source.blocks[..n_blocks].to_vec();
        for &block in &blocks {
            self.users[block as usize] += 1;
        }
        let fork = self.add();
        self.sequences[fork.0 as usize] = Some(Sequence { blocks, len: n_blocks * KV_BLOCK });
        Ok(fork)
    }

    fn get(&self, seq: SeqId) -> Result<&Sequence> {
        self.sequences.get(seq.0 as usize).and_then(Option::as_ref).ok_or_else(|| unknown(seq))
    }
}

fn unknown(seq: SeqId) -> Error {
    Error::new(ErrorKind::Usage, format!("sequence {} is not in the cache", seq.0))
}

fn full(n: usize, n_free: usize) -> Error {
    let what = format!(
        "KV cache: {n} more positions do not fit, {n_free} blocks of {KV_BLOCK} positions are free"
    );
    Error::new(ErrorKind::DoesNotFit, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No block in two places without being counted there, none lost.
    fn check(pages: &Pages) {
        let mut users = vec![0; pages.users.len()];
        for sequence in pages.sequences.iter().flatten() {
            assert_eq!(sequence.blocks.len(), sequence.len.div_ceil(KV_BLOCK));
            for &block in &sequence.blocks {
                users[block as usize] += 1;
            }
        }
        assert_eq!(users, pages.users);
        let mut free = pages.free.clone();
        free.sort_unstable();
        free.dedup();
        let unused: Vec<u32> =
            (0..).zip(&users).filter(|(_, n)| **n == 0).map(|(i, _)| i).collect();
        assert_eq!(free, unused);
        assert_eq!(free.len(), pages.free.len());
    }

    #[test]
    fn grows_by_blocks_and_gives_back() {
        let mut pages = Pages::new(4);
        let (a, b) = (pages.add(), pages.add());
        assert_eq!(pages.grow(a, 1).unwrap(), 0);
        assert_eq!(pages.grow(b, KV_BLOCK + 1).unwrap(), 0);
        assert_eq!(pages.grow(a, KV_BLOCK - 1).unwrap(), 1);
        assert_eq!(pages.table(a).unwrap(), [0]);
        assert_eq!(pages.table(b).unwrap(), [1, 2]);
        assert_eq!(pages.grow(a, 1).unwrap(), KV_BLOCK);
        assert_eq!(pages.table(a).unwrap(), [0, 3]);
        check(&pages);
        let error = pages.grow(b, KV_BLOCK).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DoesNotFit);
        assert_eq!(pages.len(b).unwrap(), KV_BLOCK + 1);
        pages.remove(a).unwrap();
        check(&pages);
        assert_eq!(pages.n_free(), 2);
        assert_eq!(pages.grow(b, KV_BLOCK).unwrap(), KV_BLOCK + 1);
        assert_eq!(pages.table(a).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(pages.add(), a);
        check(&pages);
    }

    #[test]
    fn truncation_keeps_the_begun_block() {
        let mut pages = Pages::new(8);
        let a = pages.add();
        pages.grow(a, 3 * KV_BLOCK).unwrap();
        assert_eq!(pages.truncate(a, KV_BLOCK + 1).unwrap(), KV_BLOCK + 1);
        assert_eq!(pages.table(a).unwrap(), [0, 1]);
        assert_eq!(pages.truncate(a, 9999).unwrap(), KV_BLOCK + 1);
        assert_eq!(pages.truncate(a, 0).unwrap(), 0);
        assert_eq!(pages.n_free(), 8);
        check(&pages);
    }

    #[test]
    fn shared_blocks_are_never_written() {
        let mut pages = Pages::new(8);
        let a = pages.add();
        pages.grow(a, 2 * KV_BLOCK + 5).unwrap();
        let b = pages.fork(a, 2 * KV_BLOCK + 3).unwrap();
        assert_eq!(pages.len(b).unwrap(), 2 * KV_BLOCK);
        assert_eq!(pages.table(b).unwrap(), [0, 1]);
        check(&pages);
        // The next positions of both go to blocks of their own.
        assert_eq!(pages.grow(b, 1).unwrap(), 2 * KV_BLOCK);
        assert_eq!(pages.table(b).unwrap(), [0, 1, 3]);
        // Cut inside a shared block: back to its beginning.
        assert_eq!(pages.truncate(a, KV_BLOCK + 7).unwrap(), KV_BLOCK);
        check(&pages);
        pages.remove(a).unwrap();
        check(&pages);
        assert_eq!(pages.truncate(b, KV_BLOCK + 7).unwrap(), KV_BLOCK + 7);
        check(&pages);
    }

    #[test]
    fn absurd_growth_is_refused() {
        let mut pages = Pages::new(1);
        let a = pages.add();
        pages.grow(a, 1).unwrap();
        assert!(pages.grow(a, usize::MAX).is_err());
        assert!(pages.grow(a, usize::MAX - 1).is_err());
        check(&pages);
    }
}
