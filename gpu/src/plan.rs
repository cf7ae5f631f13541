//! What a step submits: for each node its dispatches, with pipelines and bind groups made once. A step of more rows
//! than the plan was made for gets a new plan.

use crate::device::{Device, Pipeline};
use crate::kv::{LayerKv, head_words};
use crate::layout::{Layout, act_words};
use crate::shaders::{self, Map, Shader};
use crate::weights::Resident;
use graph::ints::{ActFormat, form};
use graph::{
    Act, Arithmetic, Attention, Error, ErrorKind, Graph, KV_BLOCK, LoadOptions, Node, Op, Result,
    RopePairs, Rows, ValueId, WeightId,
};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Steps of up to so many rows use the kernels that split a row of weights over lanes; a weight is read again for each
/// row of activations.
const FEW: usize = 4;

/// The rows that a plan has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    pub(crate) tokens: usize,
    pub(crate) outputs: usize,
    /// Entries of the block tables of all sequences.
    pub(crate) tables: usize,
}

impl Capacity {
    fn rows(&self, rows: Rows) -> usize {
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

/// One dispatch.
pub(crate) struct Dispatch {
    pub(crate) shader: Shader,
    pipeline: Arc<Pipeline>,
    bind: wgpu::BindGroup,
    /// What is bound: buffer, offset, bytes.
    pub(crate) ranges: Vec<(wgpu::Buffer, u64, u64)>,
    pub(crate) kv: Option<usize>,
    /// Parameters; the first two are the rows of this dispatch and the first of them.
    params: Vec<u32>,
    rows: Rows,
    first_row: usize,
    most_rows: usize,
    x: u32,
    rows_each: usize,
    /// Only for steps of so many rows.
    only: RangeInclusive<usize>,
    /// One workgroup deep, or one for each chunk of 64 positions that a window of so many sees.
    chunks_of: Option<u32>,
}

impl Dispatch {
    /// Its parameters and grid in a step of so many tokens and outputs, the last token standing at `last`; `None`
    /// where it has nothing to do.
    pub(crate) fn sized(
        &self,
        (tokens, outputs, last): (usize, usize, u32),
    ) -> Option<(Vec<u32>, [u32; 3])> {
        let all = match self.rows {
            Rows::Tokens => tokens,
            Rows::Outputs => outputs,
        };
        let rows = all.saturating_sub(self.first_row).min(self.most_rows);
        if rows == 0 || self.x == 0 || !self.only.contains(&all) {
            return None;
        }
        let mut params = self.params.clone();
        (params[0], params[1]) = (rows as u32, self.first_row as u32);
        let chunks = self.chunks_of.map_or(1, |window| {
            let first = graph::ops::attention::first_visible(last, Some(window));
            last / KV_BLOCK as u32 - first / KV_BLOCK as u32 + 1
        });
        Some((params, [self.x, rows.div_ceil(self.rows_each) as u32, chunks]))
    }

    /// Encodes it, as far as it has something to do.
    pub(crate) fn encode(
        &self,
        pass: &mut wgpu::ComputePass<'_>,
        sizes: (usize, usize, u32),
        kv: &[LayerKv],
    ) {
        let Some((params, [x, y, z])) = self.sized(sizes) else { return };
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind, &[]);
        if let Some(layer) = self.kv {
            pass.set_bind_group(1, &kv[layer].bind, &[]);
        }
        pass.set_immediates(0, bytemuck::cast_slice(&params));
        pass.dispatch_workgroups(x, y, z);
    }
}

/// A step's buffers and dispatches.
pub(crate) struct Plan {
    pub(crate) capacity: Capacity,
    /// Dispatches of each node.
    pub(crate) nodes: Vec<Vec<Dispatch>>,
    /// For each value its buffer.
    slots: Vec<usize>,
    buffers: Vec<wgpu::Buffer>,
    /// Tokens, positions, starts of tables, outputs.
    pub(crate) step: wgpu::Buffer,
    pub(crate) tables: wgpu::Buffer,
    /// For each rope table cosine and sine of each token and pair.
    pub(crate) angles: Vec<wgpu::Buffer>,
    /// Attention of a step of one token: for each head and chunk maximum, sum and weighted sum.
    parts: wgpu::Buffer,
}

impl Plan {
    /// The buffer that holds a value, from its start.
    pub(crate) fn buffer(&self, id: ValueId) -> &wgpu::Buffer {
        &self.buffers[self.slots[id.0]]
    }

    pub(crate) fn new(
        device: &Device,
        graph: &Graph,
        weights: &[Resident],
        options: LoadOptions,
        capacity: Capacity,
    ) -> Result<Self> {
        let mut sizes = Vec::new();
        let slots = assign(graph, capacity, &mut sizes);
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
            nodes: Vec::with_capacity(graph.nodes.len()),
            slots,
            buffers,
            step: buffer("step", capacity.step_words()[4] as u64 * 4)?,
            tables: buffer("tables", capacity.tables as u64 * 4)?,
            angles,
            parts: buffer("attention", parts_bytes(graph, capacity))?,
        };
        let acts = buffer("activations", acts_bytes(graph, options, capacity))?;
        let group = group_rows(device, graph)?;
        let mut planner =
            Planner { device, graph, weights, options, plan: &plan, acts, acts_of: None, group };
        let nodes: Result<Vec<_>> = graph.nodes.iter().map(|node| planner.node(node)).collect();
        plan.nodes = nodes?;
        Ok(plan)
    }
}

/// Gives each value a buffer that no living value has; `sizes` gets the buffers' rows and bytes.
fn assign(graph: &Graph, capacity: Capacity, sizes: &mut Vec<(Rows, u64)>) -> Vec<usize> {
    let mut last_reader: Vec<usize> = vec![0; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for value in node.inputs.iter().chain(&node.output) {
            last_reader[value.0] = i;
        }
    }
    // The logits are read after the last node.
    if let Some(last) = last_reader.last_mut() {
        *last = usize::MAX;
    }
    let mut slots = vec![usize::MAX; graph.values.len()];
    let mut free: Vec<usize> = Vec::new();
    for (i, node) in graph.nodes.iter().enumerate() {
        if let Some(id) = node.output {
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
        let mut dead: Vec<usize> = node.inputs.iter().chain(&node.output).map(|v| v.0).collect();
        dead.sort_unstable();
        dead.dedup();
        free.extend(dead.into_iter().filter(|&v| last_reader[v] == i).map(|v| slots[v]));
    }
    slots
}

/// The rounding that a product's activations get, or `None` for products in f32.
fn act_of(graph: &Graph, options: LoadOptions, w: WeightId) -> Option<ActFormat> {
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
fn parts_bytes(graph: &Graph, capacity: Capacity) -> u64 {
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

/// A buffer as a kernel sees it.
#[derive(Clone, Copy)]
enum Bound<'a> {
    /// Rows of so many words: a dispatch sees its own.
    Rows(&'a wgpu::Buffer, usize),
    /// So many bytes from the start.
    Whole(&'a wgpu::Buffer, u64),
}

/// The grid of a dispatch: workgroups across, and rows that one takes.
struct Grid {
    x: usize,
    rows_each: usize,
    /// Only for steps of so many rows.
    only: RangeInclusive<usize>,
    /// As in [`Dispatch`].
    chunks_of: Option<u32>,
}

impl Grid {
    /// A row of workgroups for each row.
    fn each_row(x: usize) -> Self {
        Self { x, rows_each: 1, only: 0..=usize::MAX, chunks_of: None }
    }
}

struct Planner<'a> {
    device: &'a Device,
    graph: &'a Graph,
    weights: &'a [Resident],
    options: LoadOptions,
    plan: &'a Plan,
    acts: wgpu::Buffer,
    /// What `acts` holds at this place of the graph.
    acts_of: Option<(ValueId, ActFormat)>,
    group: usize,
}

fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what}: too large for one dispatch"))
}

impl Planner<'_> {
    fn value(&self, id: ValueId) -> Bound<'_> {
        Bound::Rows(self.plan.buffer(id), self.graph.value(id).cols)
    }

    fn step(&self) -> Bound<'_> {
        Bound::Whole(&self.plan.step, self.plan.capacity.step_words()[4] as u64 * 4)
    }

    fn tables(&self) -> Bound<'_> {
        Bound::Whole(&self.plan.tables, self.plan.capacity.tables as u64 * 4)
    }

    fn vector(&self, w: WeightId) -> Result<Bound<'_>> {
        let vector = self.weights[w.0].vector.as_ref();
        let (buffer, bytes) = vector.ok_or_else(|| too_large(&self.graph.weight(w).name))?;
        Ok(Bound::Whole(buffer, *bytes))
    }

    /// The dispatches of one kernel over all rows of the plan, in groups.
    fn over_rows(
        &self,
        shader: &Shader,
        bound: &[Bound<'_>],
        params: &[u32],
        (rows, grid, kv): (Rows, Grid, Option<usize>),
    ) -> Result<Vec<Dispatch>> {
        let pipeline = self.device.pipeline(shader)?;
        if grid.x > self.device.limits.max_compute_workgroups_per_dimension as usize {
            return Err(too_large(shader.file));
        }
        let all = self.plan.capacity.rows(rows);
        let mut out = Vec::new();
        for first_row in (0..all).step_by(self.group) {
            let most_rows = (all - first_row).min(self.group);
            let ranges: Vec<_> = bound
                .iter()
                .map(|bound| match *bound {
                    Bound::Whole(buffer, bytes) => (buffer, 0, bytes),
                    Bound::Rows(buffer, words) => {
                        (buffer, (first_row * words) as u64 * 4, (most_rows * words) as u64 * 4)
                    }
                })
                .collect();
            if ranges.iter().any(|&(_, _, bytes)| bytes > self.device.max_binding()) {
                return Err(too_large(shader.file));
            }
            let mut words = vec![0, 0];
            words.extend(params);
            out.push(Dispatch {
                shader: shader.clone(),
                pipeline: Arc::clone(&pipeline),
                bind: self.device.bind(&pipeline, &ranges),
                ranges: ranges.into_iter().map(|(b, at, n)| (b.clone(), at, n)).collect(),
                kv,
                params: words,
                rows,
                first_row,
                most_rows,
                x: grid.x as u32,
                rows_each: grid.rows_each,
                only: grid.only.clone(),
                chunks_of: grid.chunks_of,
            });
        }
        Ok(out)
    }

    /// A kernel with a row of workgroups for each row.
    fn each_row(
        &self,
        shader: &Shader,
        bound: &[Bound<'_>],
        params: &[u32],
        (rows, x): (Rows, usize),
    ) -> Result<Vec<Dispatch>> {
        self.over_rows(shader, bound, params, (rows, Grid::each_row(x), None))
    }

    fn node(&mut self, node: &Node) -> Result<Vec<Dispatch>> {
        let input = |i: usize| node.inputs[i];
        let Some(out) = node.output else {
            let Op::StoreKv { kv_layer } = node.op else { return Ok(Vec::new()) };
            return self.store_kv(kv_layer, input(0), input(1));
        };
        let (cols, rows) = (self.graph.value(out).cols, self.graph.value(out).rows);
        let map = |map: Map, by: f32, inputs: &[Bound<'_>]| {
            let mut bound = inputs.to_vec();
            bound.push(self.value(out));
            let params = [cols as u32, by.to_bits()];
            self.each_row(&shaders::elementwise(map), &bound, &params, (rows, cols.div_ceil(256)))
        };
        match &node.op {
            // Written by the host before the first dispatch.
            Op::Input => Ok(Vec::new()),
            Op::GetRows { table } => self.get_rows(*table, out),
            Op::MatMul { w } => self.mat_mul(*w, input(0), out),
            Op::Add => map(Map::Add, 0.0, &[self.value(input(0)), self.value(input(1))]),
            Op::AddBias { b } => map(Map::Bias, 0.0, &[self.value(input(0)), self.vector(*b)?]),
            Op::Scale { by } => map(Map::Scale, *by, &[self.value(input(0))]),
            Op::RmsNorm { w, eps } => {
                let n = self.graph.weight(*w).n_in;
                let bound = [self.value(input(0)), self.vector(*w)?, self.value(out)];
                let params = [cols as u32, n as u32, eps.to_bits(), (n as f32).to_bits()];
                self.each_row(&shaders::rms_norm(n > 128), &bound, &params, (rows, cols / n))
            }
            Op::Rope { table, head_dim, pairs } => {
                self.rope((*table, *head_dim, *pairs), input(0), out)
            }
            Op::Glu { act } => {
                let by_act = match act {
                    Act::Silu => Map::Silu,
                    Act::GeluTanh => Map::GeluTanh,
                };
                map(by_act, 0.0, &[self.value(input(0)), self.value(input(1))])
            }
            Op::StoreKv { .. } => unreachable!("has no output; handled above"),
            Op::Attention(a) => self.attention(a, input(0), out),
            Op::Columns { start } => {
                let from = self.graph.value(input(0)).cols;
                let params = [cols as u32, from as u32, *start as u32, 0];
                let bound = [self.value(input(0)), self.value(out)];
                self.each_row(&shaders::columns(), &bound, &params, (rows, cols.div_ceil(256)))
            }
            Op::OutputRows => {
                let bytes = (self.plan.capacity.tokens * cols) as u64 * 4;
                let x = Bound::Whole(self.plan.buffer(input(0)), bytes);
                let outputs_at = self.plan.capacity.step_words()[3] as u32;
                let params = [cols as u32, cols as u32, 0, outputs_at];
                let bound = [x, self.step(), self.value(out)];
                self.each_row(&shaders::output_rows(), &bound, &params, (rows, cols.div_ceil(256)))
            }
            Op::Softcap { cap } => map(Map::Softcap, *cap, &[self.value(input(0))]),
        }
    }

    fn get_rows(&self, table: WeightId, out: ValueId) -> Result<Vec<Dispatch>> {
        let weight = self.graph.weight(table);
        let blocks = Layout::of(weight.dtype).blocks(weight.n_in);
        let mut all = Vec::new();
        for piece in &self.weights[table.0].pieces {
            let params = [weight.n_in, blocks, piece.first, piece.count].map(|n| n as u32);
            let bound = [Bound::Whole(&piece.buffer, piece.bytes), self.step(), self.value(out)];
            let grid = (Rows::Tokens, weight.n_in.div_ceil(256));
            all.extend(self.each_row(&shaders::get_rows(weight.dtype), &bound, &params, grid)?);
        }
        Ok(all)
    }

    fn mat_mul(&mut self, w: WeightId, x: ValueId, out: ValueId) -> Result<Vec<Dispatch>> {
        let weight = self.graph.weight(w);
        let rows = self.graph.value(x).rows;
        let (n_in, n_out) = (weight.n_in, weight.n_out);
        let blocks = Layout::of(weight.dtype).blocks(n_in);
        let mut all = Vec::new();
        let act = act_of(self.graph, self.options, w);
        let row_words = act.map_or(0, |act| act_words(act, n_in));
        if let Some(act) = act
            && self.acts_of != Some((x, act))
        {
            let bound = [self.value(x), Bound::Rows(&self.acts, row_words)];
            let params = [n_in as u32, row_words as u32];
            let shader = shaders::quantize_act(act);
            all.extend(self.each_row(&shader, &bound, &params, (rows, n_in.div_ceil(256)))?);
            self.acts_of = Some((x, act));
        }
        let x = if act.is_some() { Bound::Rows(&self.acts, row_words) } else { self.value(x) };
        for piece in &self.weights[w.0].pieces {
            let params =
                [n_in, blocks, n_out, piece.first, piece.count, row_words].map(|n| n as u32);
            let w = Bound::Whole(&piece.buffer, piece.bytes);
            // Rounded activations are bound as words and as fours of words.
            let int8 = [w, x, x, self.value(out)];
            let f32 = [w, x, self.value(out)];
            let bound: &[Bound<'_>] = if act.is_some() { &int8 } else { &f32 };
            let x = piece.count.div_ceil(32);
            let grid = |rows_each: usize, only: RangeInclusive<usize>| {
                (rows, Grid { x, rows_each, only, chunks_of: None }, None)
            };
            // The kernel for few rows, the one for many, and the rows that one workgroup of it takes.
            let (few, many, rows_each) = match act {
                Some(_) => {
                    (shaders::mat_vec_int8(weight.dtype), shaders::mat_mul_int8(weight.dtype), 64)
                }
                None => {
                    (shaders::mat_vec_f32(weight.dtype), shaders::mat_mul_f32(weight.dtype), 32)
                }
            };
            all.extend(self.over_rows(&few, bound, &params, grid(1, 1..=FEW))?);
            let over = grid(rows_each, FEW + 1..=usize::MAX);
            all.extend(self.over_rows(&many, bound, &params, over)?);
        }
        Ok(all)
    }

    fn rope(
        &self,
        (table, head_dim, pairs): (usize, usize, RopePairs),
        x: ValueId,
        out: ValueId,
    ) -> Result<Vec<Dispatch>> {
        let cols = self.graph.value(out).cols;
        let n = self.graph.rope_tables[table].freqs.len();
        let per_head = head_dim - n;
        let adjacent = u32::from(pairs == RopePairs::Adjacent);
        let params = [cols as u32, head_dim as u32, n as u32, per_head as u32, adjacent];
        let angles = Bound::Rows(&self.plan.angles[table], 2 * n.max(1));
        let bound = [self.value(x), angles, self.value(out)];
        let grid = (Rows::Tokens, (cols / head_dim * per_head).div_ceil(64));
        self.each_row(&shaders::rope(), &bound, &params, grid)
    }

    fn store_kv(&self, layer: usize, k: ValueId, v: ValueId) -> Result<Vec<Dispatch>> {
        let spec = self.graph.kv_layers[layer];
        let [_, positions, tables, ..] = self.plan.capacity.step_words();
        let words = |dim| head_words(self.options.kv, dim);
        let (words_k, words_v) = (words(spec.head_dim_k), words(spec.head_dim_v));
        let sizes = [spec.n_head_kv, spec.head_dim_k, spec.head_dim_v, words_k, words_v];
        let params: Vec<u32> =
            sizes.into_iter().chain([positions, tables]).map(|n| n as u32).collect();
        let bound = [self.value(k), self.value(v), self.step(), self.tables()];
        let x = (spec.n_head_kv * (words_k + words_v)).div_ceil(64);
        let grid = (Rows::Tokens, Grid::each_row(x), Some(layer));
        self.over_rows(&shaders::store_kv(self.options.kv), &bound, &params, grid)
    }

    fn attention(&self, a: &Attention, q: ValueId, out: ValueId) -> Result<Vec<Dispatch>> {
        let spec = self.graph.kv_layers[a.kv_layer];
        let [_, positions, tables, ..] = self.plan.capacity.step_words();
        let words = |dim| head_words(self.options.kv, dim);
        let sizes = [
            a.n_head,
            a.n_head / spec.n_head_kv,
            spec.head_dim_k,
            spec.head_dim_v,
            words(spec.head_dim_k),
            words(spec.head_dim_v),
            positions,
            tables,
        ];
        let mut params: Vec<u32> = sizes.into_iter().map(|n| n as u32).collect();
        params.push(a.window.unwrap_or(u32::MAX));
        params.push(a.scale.to_bits());
        params.push(a.softcap.unwrap_or(1.0).to_bits());
        let dim_v = spec.head_dim_v.next_multiple_of(2);
        let shader = shaders::attention(self.options.kv, a.softcap.is_some(), dim_v);
        let bound = [self.value(q), self.step(), self.tables(), self.value(out)];
        let many = Grid { only: 2..=usize::MAX, ..Grid::each_row(a.n_head) };
        let grid = (Rows::Tokens, many, Some(a.kv_layer));
        let mut all = self.over_rows(&shader, &bound, &params, grid)?;
        // A step of one token: chunks side by side, then their sum.
        params.push(self.plan.capacity.tables as u32);
        let window = a.window.unwrap_or(u32::MAX);
        let one = |chunks_of| Grid { only: 1..=1, chunks_of, ..Grid::each_row(a.n_head) };
        let parts = Bound::Whole(&self.plan.parts, parts_bytes(self.graph, self.plan.capacity));
        let bound = [self.value(q), self.step(), self.tables(), parts];
        let grid = (Rows::Tokens, one(Some(window)), Some(a.kv_layer));
        let shader = shaders::attention_part(self.options.kv, a.softcap.is_some());
        all.extend(self.over_rows(&shader, &bound, &params, grid)?);
        let sizes = [a.n_head, spec.head_dim_v, positions].map(|n| n as u32);
        let params = [&sizes[..], &[window, self.plan.capacity.tables as u32]].concat();
        let bound = [parts, self.step(), self.value(out)];
        let grid = (Rows::Tokens, one(None), None);
        all.extend(self.over_rows(&shaders::attention_merge(), &bound, &params, grid)?);
        Ok(all)
    }
}
