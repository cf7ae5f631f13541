//! What a step submits: for each node its dispatches, with pipelines and bind groups made once. A step of more rows
//! than the plan was made for gets a new plan.

use crate::device::{Device, MAX_PARAMS, Pipeline};
use crate::fuse::Fusions;
use crate::kv::LayerKv;
use crate::layout::act_words;
use crate::planner::Planner;
use crate::shaders::Shader;
use crate::weights::Resident;
use graph::ints::{ActFormat, form};
use graph::{
    Arithmetic, Error, ErrorKind, Graph, KV_BLOCK, LoadOptions, Node, Op, Result, Rows, ValueId,
    WeightId,
};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The rows that a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) tokens: usize,
    pub(crate) outputs: usize,
    /// Entries of the block tables of all sequences.
    pub(crate) tables: usize,
}

impl Capacity {
    pub(crate) fn rows(&self, rows: Rows) -> usize {
        match rows {
            Rows::Tokens => self.tokens,
            Rows::Outputs => self.outputs,
        }
    }

    /// Where the parts of the step's buffer begin: tokens, positions, starts of the tables, outputs; and its length.
    pub(crate) fn step_words(&self) -> [usize; 5] {
        let n = self.tokens;
        [0, n, 2 * n, 3 * n, 3 * n + self.outputs]
    }
}

/// Tokens and outputs of a step, the position of its last token, and its sequences.
pub(crate) type Sizes = (usize, usize, u32, usize);

/// One dispatch.
pub(crate) struct Dispatch {
    pub(crate) shader: Shader,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) bind: wgpu::BindGroup,
    /// What is bound: buffer, offset, bytes.
    pub(crate) ranges: Vec<(wgpu::Buffer, u64, u64)>,
    pub(crate) kv: Option<usize>,
    /// Parameters; the first two are the rows of this dispatch and the first of them.
    pub(crate) params: Vec<u32>,
    pub(crate) rows: Rows,
    pub(crate) first_row: usize,
    pub(crate) most_rows: usize,
    pub(crate) x: u32,
    pub(crate) rows_each: usize,
    /// Only for steps of so many rows.
    pub(crate) only: RangeInclusive<usize>,
    /// Only for steps of so many tokens for each sequence.
    pub(crate) each_seq: RangeInclusive<usize>,
    /// One workgroup deep, or one for each chunk of 64 positions that a window of so many sees.
    pub(crate) chunks_of: Option<u32>,
}

impl Dispatch {
    /// Its rows, the first of them, and its grid in a step; `None` where it has nothing to do.
    pub(crate) fn sized(
        &self,
        (tokens, outputs, last, seqs): Sizes,
    ) -> Option<([u32; 2], [u32; 3])> {
        let all = match self.rows {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
        };
        let rows = all.saturating_sub(self.first_row).min(self.most_rows);
        let wanted = self.only.contains(&all) && self.each_seq.contains(&(tokens / seqs.max(1)));
        if rows == 0 || self.x == 0 || !wanted {
            return None;
        }
        let chunks = self.chunks_of.map_or(1, |window| {
            let first = graph::ops::attention::first_visible(last, Some(window));
            last / KV_BLOCK as u32 - first / KV_BLOCK as u32 + 1
        });
        let grid = [self.x, rows.div_ceil(self.rows_each) as u32, chunks];
        Some(([rows as u32, self.first_row as u32], grid))
    }

    /// Its parameters for these rows. Every dispatch of every step asks: no allocation.
    pub(crate) fn params(&self, rows: [u32; 2]) -> ([u32; MAX_PARAMS as usize / 4], usize) {
        let mut words = [0; MAX_PARAMS as usize / 4];
        let n = self.params.len();
        words[..n].copy_from_slice(&self.params);
        words[..2].copy_from_slice(&rows);
        (words, n)
    }

    /// Encodes it, as far as it has something to do.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, sizes: Sizes, kv: &[LayerKv]) {
        let Some((rows, [x, y, z])) = self.sized(sizes) else { return };
        let (params, n) = self.params(rows);
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind, &[]);
        if let Some(layer) = self.kv {
            pass.set_bind_group(1, &kv[layer].bind, &[]);
        }
        pass.set_immediates(0, bytemuck::cast_slice(&params[..n]));
        pass.dispatch_workgroups(x, y, z);
    }
}

/// Nodes that are done together, and how.
#[derive(Clone, Copy)]
pub(crate) struct Unit<'a> {
    pub(crate) first: usize,
    /// The node after the last one.
    pub(crate) end: usize,
    pub(crate) dispatches: &'a [Dispatch],
}

/// A step's buffers and dispatches.
pub(crate) struct Plan {
    pub(crate) capacity: Capacity,
    /// Dispatches of each node by itself; products of the same activations stand at the first of them.
    nodes: Vec<Vec<Dispatch>>,
    /// Dispatches of nodes together, by the first, with the node after the last.
    chains: HashMap<usize, (usize, Vec<Dispatch>)>,
    /// From the logits to the likeliest ids, and where these stand: four words for each row.
    pub(crate) argmax: Vec<Dispatch>,
    pub(crate) best: wgpu::Buffer,
    /// For each value its buffer.
    slots: Vec<usize>,
    buffers: Vec<wgpu::Buffer>,
    /// Tokens, positions, starts of tables, outputs.
    pub(crate) step: wgpu::Buffer,
    pub(crate) tables: wgpu::Buffer,
    /// For each rope table cosine and sine of each token and pair.
    pub(crate) angles: Vec<wgpu::Buffer>,
    /// Attention of a step of one token: for each head and chunk maximum, sum and weighted sum.
    pub(crate) parts: wgpu::Buffer,
}

impl Plan {
    /// The buffer that holds a value, from its start.
    pub(crate) fn buffer(&self, id: ValueId) -> &wgpu::Buffer {
        &self.buffers[self.slots[id.0]]
    }

    /// What begins at a node, with those that follow it where `together` and it can be.
    pub(crate) fn unit(&self, first: usize, together: bool) -> Unit<'_> {
        match self.chains.get(&first).filter(|_| together) {
            Some((end, dispatches)) => Unit { first, end: *end, dispatches },
            None => Unit { first, end: first + 1, dispatches: &self.nodes[first] },
        }
    }

    /// The step, as it is run where nobody asks for nodes by themselves.
    pub(crate) fn units(&self) -> impl Iterator<Item = Unit<'_>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let unit = (at < self.nodes.len()).then(|| self.unit(at, true))?;
            at = unit.end;
            Some(unit)
        })
    }

    pub(crate) fn new(
        device: &Device,
        (graph, fusions): (&Graph, &Fusions),
        weights: &[Resident],
        options: LoadOptions,
        capacity: Capacity,
    ) -> Result<Self> {
        let mut sizes = Vec::new();
        let slots = assign((graph, fusions), capacity, &mut sizes);
        let work: u64 = sizes.iter().map(|&(_, bytes)| bytes).fold(0, u64::saturating_add);
        let in_all = |e: Error| {
            Error::new(
                e.kind(),
                format!("a step of {} rows takes {work} bytes; {e}", capacity.tokens),
            )
        };
        let buffer = |what: &str, bytes: u64| device.buffer(what, bytes).map_err(in_all);
        let mut buffers = Vec::new();
        for &(_, bytes) in &sizes {
            buffers.push(buffer("values", bytes)?);
        }
        let mut angles = Vec::new();
        for table in &graph.rope_tables {
            angles.push(buffer("rope", (capacity.tokens * table.freqs.len().max(1) * 8) as u64)?);
        }
        let mut plan = Self {
            capacity,
            nodes: Vec::new(),
            chains: HashMap::new(),
            argmax: Vec::new(),
            best: buffer("likeliest ids", capacity.tokens.max(capacity.outputs) as u64 * 16)?,
            slots,
            buffers,
            step: buffer("step", capacity.step_words()[4] as u64 * 4)?,
            tables: buffer("tables", capacity.tables as u64 * 4)?,
            angles,
            parts: buffer("attention", parts_bytes(graph, capacity))?,
        };
        let acts = buffer("activations", acts_bytes(graph, options, capacity))?;
        let group = group_rows(device, graph)?;
        let mut planner = Planner {
            device,
            graph,
            fusions,
            weights,
            options,
            plan: &plan,
            acts,
            acts_of: None,
            group,
        };
        let (nodes, chains) = dispatches(&mut planner)?;
        let argmax = planner.best()?;
        (plan.nodes, plan.chains, plan.argmax) = (nodes, chains, argmax);
        Ok(plan)
    }
}

/// What each node does by itself, and what some do together, by the first of them with the node after the last.
type Dispatches = (Vec<Vec<Dispatch>>, HashMap<usize, (usize, Vec<Dispatch>)>);

fn dispatches(planner: &mut Planner<'_>) -> Result<Dispatches> {
    let (mut nodes, mut chains) = (Vec::new(), HashMap::new());
    for i in 0..planner.graph.nodes.len() {
        nodes.push(planner.node(i)?);
        if let Some((first, chain)) = planner.fusions.chain_to(i) {
            chains.insert(first, (i + 1, planner.chain(chain, first)?));
        }
    }
    Ok((nodes, chains))
}

/// Gives each value a buffer that no living value has; `sizes` gets the buffers' rows and bytes.
fn assign(
    (graph, fusions): (&Graph, &Fusions),
    capacity: Capacity,
    sizes: &mut Vec<(Rows, u64)>,
) -> Vec<usize> {
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
    let mut slots = vec![usize::MAX; graph.values.len()];
    let mut free: Vec<usize> = Vec::new();
    for (i, born) in born.into_iter().enumerate() {
        for id in born {
            let value = graph.value(id);
            let bytes = value.cols as u64 * 4 * capacity.rows(value.rows) as u64;
            // The buffer that fits with the least waste, else the largest, which grows.
            let best = free
                .iter()
                .enumerate()
                .filter(|(_, slot)| sizes[**slot].0 == value.rows)
                .min_by_key(|(_, slot)| {
                    let size = sizes[**slot].1;
                    if size >= bytes { (0, size) } else { (1, u64::MAX - size) }
                })
                .map(|(at, _)| at);
            let slot = best.map_or_else(
                || {
                    sizes.push((value.rows, 0));
                    sizes.len() - 1
                },
                |at| free.swap_remove(at),
            );
            sizes[slot].1 = sizes[slot].1.max(bytes);
            slots[id.0] = slot;
        }
        free.extend((0..slots.len()).filter(|&v| last_reader[v] == i).map(|v| slots[v]));
    }
    slots
}

/// The rounding that a product's activations get, or `None` for products in f32.
pub(crate) fn act_of(graph: &Graph, options: LoadOptions, w: WeightId) -> Option<ActFormat> {
    let int8 = options.arithmetic == Arithmetic::Int8;
    form(graph.weight(w).dtype).filter(|_| int8).map(|form| form.act)
}

fn acts_bytes(graph: &Graph, options: LoadOptions, capacity: Capacity) -> u64 {
    let bytes = |node: &Node| match &node.op {
        Op::MatMul { w } => act_of(graph, options, *w).map_or(0, |act| {
            let rows = capacity.rows(graph.value(node.inputs[0]).rows);
            (act_words(act, graph.weight(*w).n_in) * rows) as u64 * 4
        }),
        Op::Input
        | Op::GetRows { .. }
        | Op::Add
        | Op::AddBias { .. }
        | Op::Scale { .. }
        | Op::RmsNorm { .. }
        | Op::Rope { .. }
        | Op::Glu { .. }
        | Op::StoreKv { .. }
        | Op::Attention(_)
        | Op::Columns { .. }
        | Op::OutputRows
        | Op::Softcap { .. } => 0,
    };
    graph.nodes.iter().map(bytes).max().unwrap_or(0)
}

/// Bytes of the chunks of one token's attention.
pub(crate) fn parts_bytes(graph: &Graph, capacity: Capacity) -> u64 {
    let bytes = |node: &Node| match &node.op {
        Op::Attention(a) => {
            let each = a.n_head * (graph.kv_layers[a.kv_layer].head_dim_v + 2);
            (each * capacity.tables) as u64 * 4
        }
        Op::Input
        | Op::GetRows { .. }
        | Op::MatMul { .. }
        | Op::Add
        | Op::AddBias { .. }
        | Op::Scale { .. }
        | Op::RmsNorm { .. }
        | Op::Rope { .. }
        | Op::Glu { .. }
        | Op::StoreKv { .. }
        | Op::Columns { .. }
        | Op::OutputRows
        | Op::Softcap { .. } => 0,
    };
    graph.nodes.iter().map(bytes).max().unwrap_or(0)
}

/// Rows that one dispatch may take: no binding is larger than allowed, and every offset is aligned, since 64 rows of
/// whole words are a multiple of 256 bytes.
fn group_rows(device: &Device, graph: &Graph) -> Result<usize> {
    let widest = graph.values.iter().map(|v| v.cols).max().unwrap_or(1).max(1);
    // Rounded activations and angles take less than two words for each column.
    let rows = device.max_binding() as usize / (8 * widest) / 64 * 64;
    if rows == 0 {
        let message = format!(
            "values of {widest} columns: {} binds {} bytes",
            device.name,
            device.max_binding()
        );
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    Ok(rows.min(32768))
}
