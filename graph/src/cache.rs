//! What a model keeps from step to step, as plain data. The bytes of a position are computed here and nowhere else.

use crate::{KV_BLOCK, KvType, Mask};
use std::ops::RangeInclusive;

/// Index into [`crate::Graph::caches`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheId(pub usize);

/// Index into [`crate::Graph::groups`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GroupId(pub usize);

/// One thing that is kept from step to step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Keys and values by position.
    Kv(KvCache),
    /// A state of fixed size for each sequence.
    State(StateCache),
}

impl Cache {
    /// Bytes of one block: of [`KV_BLOCK`] positions, or of one sequence's state.
    pub fn block_bytes(&self, kv: KvType) -> u64 {
        match self {
            Self::Kv(cache) => cache.position_bytes(kv).saturating_mul(KV_BLOCK as u64),
            Self::State(cache) => (cache.len as u64).saturating_mul(4),
        }
    }

    /// The block tables that it uses.
    pub fn group(&self) -> GroupId {
        match self {
            Self::Kv(cache) => cache.group,
            Self::State(cache) => cache.group,
        }
    }
}

/// Keys and values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvCache {
    /// Heads of K and V.
    pub n_head_kv: usize,
    /// Elements of a K head.
    pub head_dim_k: usize,
    /// Elements of a V head.
    pub head_dim_v: usize,
    /// Whether values are the first elements of keys, and not kept beside them (MLA, arXiv 2405.04434).
    pub v_in_k: bool,
    /// The block tables by which it is found.
    pub group: GroupId,
}

impl KvCache {
    /// Elements of a head that are kept of K and of V.
    pub fn kept(&self) -> [usize; 2] {
        [self.head_dim_k, if self.v_in_k { 0 } else { self.head_dim_v }]
    }

    /// Bytes of K and V of one position. Saturates: such a size fits in no memory.
    pub fn position_bytes(&self, kv: KvType) -> u64 {
        let [k, v] = self.kept();
        let elements = (self.n_head_kv as u64).saturating_mul((k as u64).saturating_add(v as u64));
        elements.saturating_mul(kv.bytes())
    }
}

/// What one layer keeps of a sequence, however long that is: the last rows of a short convolution, say. Always f32.
///
/// A state has read the positions up to some place and cannot go back: a step of its sequence begins exactly there, or at
/// position 0, where the state begins anew as zeros. [`crate::Contents`] refuses every other step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateCache {
    /// Numbers of one sequence.
    pub len: usize,
    /// The block tables by which it is found.
    pub group: GroupId,
}

/// Caches that share block tables, since they keep the same of a sequence: where all layers with a window see no more
/// than the last positions, the blocks of the others are free again, while layers without one keep theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheGroup {
    /// Keys and values: a block holds [`KV_BLOCK`] positions.
    Positions {
        /// How many positions up to its own a token sees; `None`: all.
        window: Option<u32>,
    },
    /// States: a block holds the whole state of one sequence, whose table has that one entry. No two sequences share it.
    States,
}

impl CacheGroup {
    /// How many entries the table of a sequence with `n` positions has.
    pub fn table_len(self, n: usize) -> usize {
        match self {
            Self::Positions { .. } => n.div_ceil(KV_BLOCK),
            Self::States => n.min(1),
        }
    }

    /// The first and the last entry of its sequence's table that a token at `position` needs.
    pub fn needs(self, position: u32) -> RangeInclusive<usize> {
        match self {
            Self::Positions { window } => {
                let mask = window.map_or(Mask::Causal, Mask::Window);
                mask.first_visible(position) as usize / KV_BLOCK..=position as usize / KV_BLOCK
            }
            Self::States => 0..=0,
        }
    }
}

/// How many blocks each group of caches has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// As many for every group.
    Each(usize),
    /// One number for each group.
    Groups(Vec<usize>),
}

impl Blocks {
    /// Blocks of a group.
    pub fn of(&self, group: GroupId) -> usize {
        match self {
            Self::Each(n) => *n,
            Self::Groups(groups) => groups.get(group.0).copied().unwrap_or(0),
        }
    }
}

/// The blocks that hold one sequence's positions: block `table[p / KV_BLOCK]` holds position `p`, and the first block
/// holds its states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockTable {
    /// The same blocks for every group of caches.
    Same(Vec<u32>),
    /// A table for each group.
    Groups(Vec<Vec<u32>>),
}

/// The entry of a block whose positions no token of a sequence sees any more.
pub const FREED: u32 = u32::MAX;

impl BlockTable {
    /// The table of a group.
    pub fn of(&self, group: GroupId) -> &[u32] {
        match self {
            Self::Same(table) => table,
            Self::Groups(groups) => groups.get(group.0).map_or(&[], Vec::as_slice),
        }
    }

    /// Every table, once.
    pub fn tables(&self) -> &[Vec<u32>] {
        match self {
            Self::Same(table) => std::slice::from_ref(table),
            Self::Groups(groups) => groups,
        }
    }
}

impl From<Vec<u32>> for BlockTable {
    fn from(table: Vec<u32>) -> Self {
        Self::Same(table)
    }
}
