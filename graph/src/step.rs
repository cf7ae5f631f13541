//! One step's input: tokens of one or several sequences, where they stand, and which rows give logits.

use crate::{Error, ErrorKind, Graph, Node, Op, Result, Rows};

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
    /// Sequence of each token: an index into `tables`.
    pub seqs: Vec<u32>,
    /// For each sequence the cache blocks that hold its positions: block `tables[s][p / KV_BLOCK]` holds position `p`.
    pub tables: Vec<Vec<u32>>,
    /// Rows (indices into `tokens`, ascending) whose logits are wanted.
    pub outputs: Vec<u32>,
    /// What [`crate::Op::Input`] gives, row by row; empty for a graph that begins with tokens.
    pub inputs: Vec<f32>,
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
            tables: vec![(0..blocks).collect()],
            outputs: if n == 0 { vec![] } else { vec![n as u32 - 1] },
            inputs: vec![],
        }
    }

    /// Checks the step against the graph and the number of cache blocks, so that backends need not.
    pub fn check(&self, graph: &Graph, n_blocks: usize) -> Result<()> {
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
        for (i, (&p, &s)) in self.positions.iter().zip(&self.seqs).enumerate() {
            let Some(table) = self.tables.get(s as usize) else {
                return fail(format!(
                    "step: token {i}: sequence {s}, {} tables given",
                    self.tables.len()
                ));
            };
            match table.get(p as usize / KV_BLOCK) {
                Some(&b) if (b as usize) < n_blocks => {}
                Some(&b) => {
                    return fail(format!("step: token {i}: cache block {b}, {n_blocks} allocated"));
                }
                None => {
                    return fail(format!(
                        "step: token {i}: position {p}, table covers {}",
                        table.len() * KV_BLOCK
                    ));
                }
            }
        }
        let wanted = match graph.nodes.first() {
            Some(Node { op: Op::Input, output: Some(v), .. }) => {
                let rows = match graph.value(*v).rows {
                    Rows::Tokens => n,
                    Rows::Outputs => self.outputs.len(),
                };
                rows * graph.value(*v).cols
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
}
