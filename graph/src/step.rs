//! One step's input: tokens of one or several sequences, where they stand, and which rows give logits.

use crate::{
    BlockTable, Blocks, CacheGroup, Error, ErrorKind, FREED, Graph, GroupId, Mask, Node, Op,
    Result, Rows,
};
use std::collections::HashMap;
use std::ops::Range;

/// Positions in one cache block, and in one chunk of attention.
///
/// The two are the same by contract: a chunk's partial softmax starts at an absolute position that is a multiple of
/// this, so the bits do not depend on how a prompt was cut.
pub const KV_BLOCK: usize = 64;

/// What one call of [`crate::Loaded::run`] computes. All vectors over tokens have the same length.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Position of each token in its sequence, counted from 0. Within a step the positions of one sequence ascend by
    /// one, and all positions before the first have been stored by earlier steps.
    pub positions: Vec<u32>,
    /// Sequence of each token: an index into `tables`. Where a layer keeps a state, the tokens of a sequence stand side by
    /// side.
    pub seqs: Vec<u32>,
    /// For each sequence the cache blocks that hold its positions and its states.
    pub tables: Vec<BlockTable>,
    /// Rows (indices into `tokens`, ascending) whose logits are wanted.
    pub outputs: Vec<u32>,
    /// What [`crate::Op::Input`] gives, row by row; empty for a graph that begins with tokens.
    pub inputs: Vec<f32>,
    /// For each sequence whether it has the long frequencies of [`crate::RopeTable::long`], which all its positions in the
    /// cache have then; empty where none has.
    pub long: Vec<bool>,
}

impl Step {
    /// A step over one sequence whose blocks are `0, 1, 2, …`; logits for the last token only.
    pub fn single(tokens: &[u32], first_position: u32) -> Self {
        let n = tokens.len();
        let end = first_position as usize + n;
        let blocks = u32::try_from(end.div_ceil(KV_BLOCK)).unwrap_or(u32::MAX);
        Self {
            tokens: tokens.to_vec(),
            positions: (0..n as u32).map(|i| first_position + i).collect(),
            seqs: vec![0; n],
            tables: vec![BlockTable::Same((0..blocks).collect())],
            outputs: if n == 0 { vec![] } else { vec![n as u32 - 1] },
            inputs: vec![],
            long: vec![],
        }
    }

    /// The same step over sequences that all have the long frequencies, or none.
    #[must_use]
    pub fn with_long(self, long: bool) -> Self {
        Self { long: vec![long; self.tables.len()], ..self }
    }

    /// Whether the sequence of a token has the long frequencies.
    pub fn is_long(&self, token: usize) -> bool {
        let seq = self.seqs.get(token).map(|&seq| seq as usize);
        seq.and_then(|seq| self.long.get(seq)).copied().unwrap_or(false)
    }

    /// How many rows a value has in this step.
    pub fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens.len(),
            Rows::Outputs => self.outputs.len(),
            Rows::Sequences => self.tables.len(),
        }
    }

    /// The token, as an index into the step's, that a row of a value belongs to; of a whole sequence the last.
    pub fn token_of(&self, rows: Rows, row: usize) -> usize {
        match rows {
            Rows::Tokens => row,
            Rows::Outputs => self.outputs[row] as usize,
            Rows::Sequences => {
                self.seqs.iter().rposition(|&seq| seq as usize == row).unwrap_or_default()
            }
        }
    }

    /// For [`Mask::last_visible`]: without a mask the last position of the token's sequence in this step, else its own.
    pub fn end_for(&self, mask: Mask, token: usize) -> u32 {
        match mask {
            Mask::Causal | Mask::Window(_) => self.positions[token],
            Mask::None => {
                let all = self.seqs.iter().zip(&self.positions);
                let own = all.filter(|(seq, _)| **seq == self.seqs[token]);
                own.map(|(_, &position)| position).max().unwrap_or_default()
            }
        }
    }

    /// The place of `position` of sequence `seq` in a group's caches, counted in positions.
    pub fn slot(&self, group: GroupId, seq: u32, position: u32) -> usize {
        let p = position as usize;
        let table = self.tables[seq as usize].of(group);
        table[p / KV_BLOCK] as usize * KV_BLOCK + p % KV_BLOCK
    }

    /// The block that holds a sequence's states in a group of them.
    pub fn state_block(&self, group: GroupId, seq: u32) -> usize {
        self.tables[seq as usize].of(group)[0] as usize
    }

    /// The tokens of each sequence, where they stand side by side.
    pub fn spans(&self) -> impl Iterator<Item = Span> {
        let mut start = 0;
        let span = move |tokens: &[u32]| {
            let tokens = start..start + tokens.len();
            start = tokens.end;
            Span { seq: self.seqs[tokens.start], position: self.positions[tokens.start], tokens }
        };
        self.seqs.chunk_by(|a, b| a == b).map(span)
    }

    /// Checks the step against the graph and the cache's blocks, so that backends need not.
    pub fn check(&self, graph: &Graph, blocks: &Blocks) -> Result<()> {
        let fail = |message: String| Err(Error::new(ErrorKind::Step, message));
        let n = self.tokens.len();
        if self.positions.len() != n || self.seqs.len() != n {
            return fail(format!(
                "step: {n} tokens, {} positions, {} seqs",
                self.positions.len(),
                self.seqs.len()
            ));
        }
        for (i, &id) in self.tokens.iter().enumerate() {
            if id as usize >= graph.n_vocab {
                return fail(format!(
                    "step: token {i}: id {id} out of vocabulary (0..{})",
                    graph.n_vocab
                ));
            }
        }
        self.check_positions(graph)?;
        for i in 0..n {
            self.check_blocks(i, graph, blocks)?;
        }
        for (id, group) in graph.groups.iter().enumerate() {
            if *group == CacheGroup::States {
                self.check_states(GroupId(id))?;
            }
        }
        let wanted = match graph.nodes.first() {
            Some(Node { op: Op::Input, output: Some(v), .. }) => {
                self.rows(graph.value(*v).rows) * graph.value(*v).cols
            }
            Some(_) | None => 0,
        };
        if self.inputs.len() != wanted {
            return fail(format!("step: {} inputs, allowed {wanted}", self.inputs.len()));
        }
        if self.outputs.windows(2).any(|w| w[0] >= w[1])
            || self.outputs.last().is_some_and(|&o| o as usize >= n)
        {
            return fail(format!("step: outputs must ascend below {n}"));
        }
        Ok(())
    }

    /// A model with learned positions has no row for those behind its table.
    fn check_positions(&self, graph: &Graph) -> Result<()> {
        let Some((n, table)) = graph.n_positions() else { return Ok(()) };
        let Some(i) = self.positions.iter().position(|&p| p as usize >= n) else { return Ok(()) };
        let (p, name) = (self.positions[i], &table.name);
        let what = format!("step: token {i}: position {p}, {name} has rows for 0..{n}");
        Err(Error::new(ErrorKind::Step, what))
    }

    /// Token `i` must have a block for its own position and for all that it sees, in every group.
    fn check_blocks(&self, i: usize, graph: &Graph, blocks: &Blocks) -> Result<()> {
        let fail = |message: String| Err(Error::new(ErrorKind::Step, message));
        let (p, s) = (self.positions[i], self.seqs[i]);
        let Some(tables) = self.tables.get(s as usize) else {
            let given = self.tables.len();
            return fail(format!("step: token {i}: sequence {s}, {given} tables given"));
        };
        for (id, group) in graph.groups.iter().enumerate() {
            let (id, needed) = (GroupId(id), group.needs(p));
            let (table, allocated) = (tables.of(id), blocks.of(id));
            if *needed.end() >= table.len() {
                let covered = match group {
                    CacheGroup::Positions { .. } => (table.len() * KV_BLOCK).to_string(),
                    CacheGroup::States => "no state".to_owned(),
                };
                return fail(format!("step: token {i}: position {p}, table covers {covered}"));
            }
            let wrong = table[needed].iter().find(|&&b| b as usize >= allocated);
            if let Some(&b) = wrong {
                let b = if b == FREED { "freed".to_owned() } else { b.to_string() };
                return fail(format!("step: token {i}: cache block {b}, {allocated} allocated"));
            }
        }
        Ok(())
    }

    /// The tokens of a sequence read its state one after the other, and no two sequences have the same.
    fn check_states(&self, group: GroupId) -> Result<()> {
        let fail = |message: String| Err(Error::new(ErrorKind::Step, message));
        let mut taken: HashMap<usize, u32> = HashMap::new();
        for Span { seq, tokens, .. } in self.spans() {
            let (first, block) = (tokens.start, self.state_block(group, seq));
            if let Some(other) = taken.insert(block, seq) {
                return fail(format!(
                    "step: token {first}: sequence {seq} reads state {block}, which sequence {other} has read; \
                     allowed one state for each sequence, and its tokens side by side"
                ));
            }
            let positions = &self.positions[tokens];
            if let Some(i) = positions.windows(2).position(|two| two[0] + 1 != two[1]) {
                let (at, before, position) = (first + i + 1, positions[i], positions[i + 1]);
                return fail(format!("step: token {at}: position {position} behind {before}"));
            }
        }
        Ok(())
    }
}

/// The tokens of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The sequence.
    pub seq: u32,
    /// The position of the first.
    pub position: u32,
    /// Their places among the step's tokens.
    pub tokens: Range<usize>,
}
