//! The buffers of a step's workspace: values, what the host uploads, and what kernels leave for the next ones.

use crate::device::Device;
use crate::fuse::Fusions;
use crate::layout::{quantized_words, rounding_of};
use crate::model::Model;
use graph::{Error, Graph, GroupId, Node, Op, Result, Rows, ValueId};

/// The rows that a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) tokens: usize,
    pub(crate) outputs: usize,
    /// Entries of the block tables of all groups and sequences.
    pub(crate) tables: usize,
    /// Groups of caches, each with a table for each sequence.
    pub(crate) cache_groups: usize,
}

/// Where the parts of the step's buffer begin, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepLayout {
    pub(crate) tokens: usize,
    pub(crate) positions: usize,
    /// For each token where the block table of its sequence starts, in the first group; the other groups' follow.
    pub(crate) tables: usize,
    pub(crate) outputs: usize,
    /// Words of the whole buffer.
    pub(crate) words: usize,
}

impl Capacity {
    pub(crate) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Outputs => self.outputs,
            // No more sequences than tokens.
            Rows::Sequences => self.tokens,
        }
    }

    pub(crate) fn step_layout(&self) -> StepLayout {
        let n = self.tokens;
        let outputs = (2 + self.cache_groups) * n;
        let words = outputs + self.outputs;
        StepLayout { tokens: 0, positions: n, tables: 2 * n, outputs, words }
    }

    /// Where in the step's buffer the tables' starts of a group begin.
    pub(crate) fn tables_at(&self, group: GroupId) -> usize {
        self.step_layout().tables + group.0 * self.tokens
    }

    pub(crate) fn step_bytes(&self) -> u64 {
        self.step_layout().words as u64 * 4
    }

    pub(crate) fn tables_bytes(&self) -> u64 {
        self.tables as u64 * 4
    }

    /// Bytes of the partial results of one token's attention: for each head and chunk maximum, sum and weighted sum.
    pub(crate) fn partials_bytes(&self, graph: &Graph) -> u64 {
        let bytes = |node: &Node| {
            let Op::Attention(a) = &node.op else { return 0 };
            let each = a.n_head * (graph.kv(a.cache).head_dim_v + 2);
            (each * self.tables) as u64 * 4
        };
        graph.nodes.iter().map(bytes).max().unwrap_or(0)
    }

    /// Bytes of the largest quantised activations of a product.
    fn quantized_bytes(&self, model: &Model) -> u64 {
        let graph = &model.graph;
        let bytes = |node: &Node| {
            let (Op::MatMul { w } | Op::MatMulId { w }) = &node.op else { return 0 };
            rounding_of(graph, model.options, *w).map_or(0, |rounding| {
                let x = graph.value(node.inputs[0]);
                // Chosen experts may have a row of activations each.
                let rows = self.rows(x.rows) * (x.cols / graph.weight(*w).n_in);
                (quantized_words(rounding, graph.weight(*w).n_in) * rows) as u64 * 4
            })
        };
        graph.nodes.iter().map(bytes).max().unwrap_or(0)
    }
}

pub(crate) struct Buffers {
    pub(crate) capacity: Capacity,
    /// As [`Capacity::step_layout`] says.
    pub(crate) step: wgpu::Buffer,
    /// The block tables of the sequences, one after the other, and one group after the other.
    pub(crate) tables: wgpu::Buffer,
    /// For each rope table cosine and sine of each token and pair.
    pub(crate) angles: Vec<wgpu::Buffer>,
    /// Quantised activations of the product that comes next.
    pub(crate) quantized: wgpu::Buffer,
    /// As [`Capacity::partials_bytes`] says.
    pub(crate) partials: wgpu::Buffer,
    /// The likeliest id of each row: four words, as `rows/argmax.wgsl` writes them.
    pub(crate) best: wgpu::Buffer,
    values: Vec<wgpu::Buffer>,
    /// For each value which of `values` holds it.
    slots: Vec<usize>,
}

impl Buffers {
    pub(crate) fn new(device: &Device, model: &Model, capacity: Capacity) -> Result<Self> {
        let graph = &model.graph;
        let workspace = Workspace::of(graph, &model.fusions, capacity);
        let total = workspace.bytes();
        let rows = capacity.tokens;
        let buffer = |what: &str, bytes: u64| {
            device.buffer(what, bytes).map_err(|e| {
                Error::new(e.kind(), format!("a step of {rows} rows takes {total} bytes; {e}"))
            })
        };
        let values = workspace.slots.iter().map(|slot| buffer("values", slot.bytes));
        let values = values.collect::<Result<_>>()?;
        let angles = graph
            .rope_tables
            .iter()
            .map(|table| buffer("rope", (rows * table.freqs.len().max(1) * 8) as u64));
        Ok(Self {
            capacity,
            values,
            slots: workspace.slot_of,
            angles: angles.collect::<Result<_>>()?,
            best: buffer("likeliest ids", rows.max(capacity.outputs) as u64 * 16)?,
            step: buffer("step", capacity.step_bytes())?,
            tables: buffer("tables", capacity.tables_bytes())?,
            partials: buffer("attention", capacity.partials_bytes(graph))?,
            quantized: buffer("activations", capacity.quantized_bytes(model))?,
        })
    }

    /// The buffer that holds a value, from its start.
    pub(crate) fn value(&self, id: ValueId) -> &wgpu::Buffer {
        &self.values[self.slots[id.0]]
    }
}

/// A buffer that values share, one after the other.
#[derive(Clone, Copy, Debug)]
struct Slot {
    rows: Rows,
    bytes: u64,
}

/// Which values share a buffer.
#[derive(Default)]
struct Workspace {
    slots: Vec<Slot>,
    /// By value.
    slot_of: Vec<usize>,
}

impl Workspace {
    /// Gives each value a buffer that no living value has.
    fn of(graph: &Graph, fusions: &Fusions, capacity: Capacity) -> Self {
        let spans = fusions.spans(graph.nodes.len());
        let mut last_reader: Vec<usize> = vec![0; graph.values.len()];
        // What begins to live at each node.
        let mut born = vec![Vec::new(); graph.nodes.len()];
        for (node, &(first, last)) in graph.nodes.iter().zip(&spans) {
            for value in node.inputs.iter().chain(&node.output) {
                last_reader[value.0] = last_reader[value.0].max(last);
            }
            born[first].extend(node.output);
        }
        // The logits are read after the last node.
        if let Some(last) = last_reader.last_mut() {
            *last = usize::MAX;
        }
        let mut all = Self { slots: Vec::new(), slot_of: vec![usize::MAX; graph.values.len()] };
        let mut free: Vec<usize> = Vec::new();
        for (i, born) in born.into_iter().enumerate() {
            for id in born {
                let value = graph.value(id);
                let bytes = value.cols as u64 * 4 * capacity.rows(value.rows) as u64;
                all.slot_of[id.0] = all.take(&mut free, Slot { rows: value.rows, bytes });
            }
            let dead = (0..all.slot_of.len()).filter(|&v| last_reader[v] == i);
            free.extend(dead.map(|v| all.slot_of[v]));
        }
        all
    }

    /// The free slot that fits with the least waste, else the largest, which grows, else a new one.
    fn take(&mut self, free: &mut Vec<usize>, wanted: Slot) -> usize {
        let waste = |slot: usize| {
            let bytes = self.slots[slot].bytes;
            if bytes >= wanted.bytes { (0, bytes) } else { (1, u64::MAX - bytes) }
        };
        let same =
            free.iter().enumerate().filter(|(_, slot)| self.slots[**slot].rows == wanted.rows);
        let best = same.min_by_key(|(_, slot)| waste(**slot)).map(|(at, _)| at);
        let Some(at) = best else {
            self.slots.push(wanted);
            return self.slots.len() - 1;
        };
        let slot = free.swap_remove(at);
        self.slots[slot].bytes = self.slots[slot].bytes.max(wanted.bytes);
        slot
    }

    fn bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.bytes).fold(0, u64::saturating_add)
    }
}
