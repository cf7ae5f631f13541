//! What a step moves between the device and its memory, from what its dispatches bind: every byte that a dispatch reads or
//! writes counts once, however many workgroups share it.

use crate::device::Range;
use crate::dispatch::{Dispatch, StepSize};
use crate::kv::head_words;
use crate::layout::{Layout, ROWS};
use crate::model::Model;
use crate::plan::Plan;
use crate::shaders::Cache;
use graph::{CacheId, Graph, KV_BLOCK, KvType, Node, Op, Rows, Step, Traffic, WeightId};
use std::collections::BTreeMap;

/// What a step needs to be counted.
pub(crate) struct Count<'a> {
    pub(crate) graph: &'a Graph,
    pub(crate) kv: KvType,
    pub(crate) plan: &'a Plan,
    pub(crate) step: &'a Step,
    pub(crate) size: StepSize,
    weights: Vec<&'a wgpu::Buffer>,
}

impl<'a> Count<'a> {
    pub(crate) fn new(model: &'a Model, plan: &'a Plan, step: &'a Step) -> Self {
        let (all, size) = (&model.weights, StepSize::of(step));
        let vectors = all.iter().filter_map(|w| w.vector.as_ref().map(|range| &range.buffer));
        let pieces = all.iter().flat_map(|w| &w.pieces).map(|piece| &piece.buffer);
        let weights = vectors.chain(pieces).collect();
        Self { graph: &model.graph, kv: model.options.kv, plan, step, size, weights }
    }

    /// Of the whole step; the logits are copied once more, to be sent back.
    pub(crate) fn all(&self) -> Traffic {
        let mut all = Traffic { logits: self.logits(self.size.outputs), ..Traffic::default() };
        for unit in self.plan.units() {
            for dispatch in unit.dispatches {
                all.add(self.dispatch(&self.graph.nodes[unit.first], dispatch));
            }
        }
        all
    }

    fn logits(&self, rows: usize) -> u64 {
        (self.graph.n_vocab * rows) as u64 * 4
    }

    fn dispatch(&self, node: &Node, dispatch: &Dispatch) -> Traffic {
        let Some(launch) = dispatch.launch(self.size) else { return Traffic::default() };
        let rows = u64::from(launch.rows[0]);
        let mut moved = Traffic { dispatches: 1, ..Traffic::default() };
        let mut seen = Vec::new();
        for Range { buffer, offset, bytes } in &dispatch.ranges {
            // Quantised activations are bound twice, as words and as fours of them.
            if seen.contains(&(buffer, offset)) {
                continue;
            }
            seen.push((buffer, offset));
            let of_rows = bytes * rows / dispatch.max_rows as u64;
            if self.weights.contains(&buffer) {
                let rows_of = if let Op::GetRows { table } | Op::PositionRows { table } = node.op {
                    Some(table)
                } else {
                    None
                };
                moved.weights += match (rows_of, &node.op) {
                    (Some(table), _) => rows * self.row_bytes(table),
                    // As if no two rows chose the same experts, as long as there are as many.
                    (None, Op::MatMulId { w }) => {
                        let n = self.graph.weight(*w).n_mats as u64;
                        let slots = self.graph.value(node.inputs[1]).cols as u64;
                        bytes / n.max(1) * (rows * slots).min(n)
                    }
                    (None, _) => *bytes,
                };
            } else if dispatch.rows == Rows::Outputs && of_rows == self.logits(rows as usize) {
                moved.logits += of_rows;
            } else if *buffer == self.plan.buffers.partials {
                // The chunks that there are, of the room for a whole context.
                let chunks = u64::from(self.size.last_position) / KV_BLOCK as u64 + 1;
                moved.other += bytes * chunks / self.plan.buffers.capacity.tables as u64;
            } else if node.op == Op::OutputRows {
                // Reads as many rows as it writes, of more.
                moved.other += rows * self.cols(node) * 4;
            } else {
                moved.other += of_rows;
            }
        }
        if let Some(id) = dispatch.cache {
            moved.kv += match dispatch.shader.cache {
                Cache::None => 0,
                Cache::Reads => self.position_bytes(id) * self.seen(id),
                Cache::Writes => self.position_bytes(id) * rows,
                Cache::State => self.graph.state(id).len as u64 * 4 * self.size.sequences as u64,
            };
        }
        moved
    }

    fn cols(&self, node: &Node) -> u64 {
        node.output.map_or(0, |id| self.graph.value(id).cols as u64)
    }

    /// Bytes of one row of a table.
    fn row_bytes(&self, table: WeightId) -> u64 {
        let weight = self.graph.weight(table);
        (Layout::of(weight.dtype).tile_words(weight.n_in) * 4 / ROWS) as u64
    }

    /// Bytes of one position of a cache: heads are whole words here.
    fn position_bytes(&self, cache: CacheId) -> u64 {
        let spec = self.graph.kv(cache);
        let words: usize = spec.kept().into_iter().map(|dim| head_words(self.kv, dim)).sum();
        (spec.n_head_kv * words) as u64 * 4
    }

    /// Positions that the tokens of the step see of a cache, of all sequences.
    fn seen(&self, cache: CacheId) -> u64 {
        let mask = self.graph.nodes.iter().find_map(|node| {
            let Op::Attention(a) = &node.op else { return None };
            (a.cache == cache).then_some(a.mask)
        });
        let first = |position| mask.map_or(0, |mask| mask.first_visible(position));
        let mut spans: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
        for (&seq, &at) in self.step.seqs.iter().zip(&self.step.positions) {
            let span = spans.entry(seq).or_insert((at, at));
            *span = (span.0.min(at), span.1.max(at));
        }
        spans.values().map(|&(one, last)| u64::from(last + 1 - first(one))).sum()
    }
}
