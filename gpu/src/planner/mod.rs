//! From the nodes of a graph to dispatches: which kernel, bound to what, over which grid. Here what every op needs, and the
//! ops that go element by element or row by row; products, norms with RoPE, and attention have a file each.

mod attention;
mod experts;
mod mat_mul;
mod norm_rope;

use crate::buffers::Buffers;
use crate::device::{Device, Range};
use crate::dispatch::{Dispatch, Grid, RowSpan};
use crate::fuse::Chain;
use crate::layout::{Layout, rounding_of};
use crate::model::Model;
use crate::params::{self, Field, Params};
use crate::shaders::{self, Map, Shader, Slots};
use graph::ints::Rounding;
use graph::{
    Act, CacheId, Error, ErrorKind, Graph, Node, Op, Result, Rows, Unary, ValueId, WeightId,
};

/// A buffer as a kernel sees it.
#[derive(Clone, Copy)]
enum Bound<'a> {
    /// Rows of `words` words each: a dispatch sees its own rows.
    Rows { buffer: &'a wgpu::Buffer, words: usize },
    /// `bytes` bytes from the start.
    Whole { buffer: &'a wgpu::Buffer, bytes: u64 },
}

impl Bound<'_> {
    /// What a dispatch with these rows binds.
    fn range(&self, span: RowSpan) -> Range {
        let bytes = |rows: usize, words: usize| (rows * words) as u64 * 4;
        match *self {
            Self::Whole { buffer, bytes } => Range::whole(buffer, bytes),
            Self::Rows { buffer, words } => Range {
                buffer: buffer.clone(),
                offset: bytes(span.first, words),
                bytes: bytes(span.count, words),
            },
        }
    }
}

/// A kernel with what it needs to become dispatches.
struct Kernel<'a> {
    shader: Shader,
    bound: Vec<Bound<'a>>,
    params: Vec<u32>,
    rows: Rows,
    grid: Grid,
    /// The cache that it uses.
    cache: Option<CacheId>,
}

impl<'a> Kernel<'a> {
    /// One workgroup for each row, in every step.
    fn new<P: Params>(shader: Shader, bound: Vec<Bound<'a>>, params: &P, rows: Rows) -> Self {
        let same: &[Field] = P::FIELDS;
        assert_eq!(shader.params, same, "{} gets the parameters of another kernel", shader.file);
        Self { shader, bound, params: params.words(), rows, grid: Grid::each_row(1), cache: None }
    }

    /// A row of `x` workgroups for each row, in every step.
    fn each_row(self, x: usize) -> Self {
        self.over(Grid::each_row(x))
    }

    fn over(self, grid: Grid) -> Self {
        Self { grid, ..self }
    }

    fn with_cache(self, cache: CacheId) -> Self {
        Self { cache: Some(cache), ..self }
    }
}

/// Activations that the workspace holds quantised.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Quantized {
    value: ValueId,
    rounding: Rounding,
}

pub(crate) struct Planner<'a> {
    device: &'a Device,
    graph: &'a Graph,
    model: &'a Model,
    buffers: &'a Buffers,
    /// What [`Buffers::quantized`] holds at this place of the graph.
    quantized: Option<Quantized>,
    /// Rows that one dispatch may take.
    max_rows: usize,
}

fn too_large(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{what}: too large for one dispatch"))
}

/// The value that a node computes.
fn output_of(node: &Node) -> ValueId {
    node.output.unwrap_or_else(|| unreachable!("every op but StoreKv gives a value: {:?}", node.op))
}

impl<'a> Planner<'a> {
    pub(crate) fn new(device: &'a Device, model: &'a Model, buffers: &'a Buffers) -> Result<Self> {
        let (graph, max_rows) = (&*model.graph, max_rows(device, &model.graph)?);
        Ok(Self { device, graph, model, buffers, quantized: None, max_rows })
    }

    fn value(&self, id: ValueId) -> Bound<'a> {
        Bound::Rows { buffer: self.buffers.value(id), words: self.graph.value(id).cols }
    }

    /// The step's tokens, positions, tables and outputs.
    fn step(&self) -> Bound<'a> {
        let bytes = self.buffers.capacity.step_bytes();
        Bound::Whole { buffer: &self.buffers.step, bytes }
    }

    fn tables(&self) -> Bound<'a> {
        let bytes = self.buffers.capacity.tables_bytes();
        Bound::Whole { buffer: &self.buffers.tables, bytes }
    }

    fn vector(&self, w: WeightId) -> Result<Bound<'a>> {
        let vector = self.model.weights[w.0].vector.as_ref();
        let range = vector.ok_or_else(|| too_large(&self.graph.weight(w).name))?;
        Ok(Bound::Whole { buffer: &range.buffer, bytes: range.bytes })
    }

    /// The dispatches of a kernel over all rows that the plan has room for: several, where one binding cannot hold them.
    fn dispatches(&self, kernel: &Kernel<'_>) -> Result<Vec<Dispatch>> {
        let Kernel { shader, rows, grid, .. } = kernel;
        if grid.x > self.device.limits.max_compute_workgroups_per_dimension as usize {
            return Err(too_large(shader.file));
        }
        let all = self.buffers.capacity.rows(*rows);
        let mut dispatches = Vec::new();
        for first in (0..all).step_by(self.max_rows) {
            let span = RowSpan { rows: *rows, first, count: (all - first).min(self.max_rows) };
            let ranges: Vec<Range> = kernel.bound.iter().map(|bound| bound.range(span)).collect();
            if ranges.iter().any(|range| range.bytes > self.device.max_binding()) {
                return Err(too_large(shader.file));
            }
            let dispatch = Dispatch::new(self.device, shader, ranges, &kernel.params, span)?;
            dispatches.push(dispatch.over(grid.clone(), kernel.cache));
        }
        Ok(dispatches)
    }

    /// What a node does by itself, or with the products of the same activations that follow.
    pub(crate) fn node(&mut self, at: usize) -> Result<Vec<Dispatch>> {
        let node = &self.graph.nodes[at];
        let second = || Some(self.value(node.inputs[1]));
        match &node.op {
            // Written by the host before the first dispatch.
            Op::Input => Ok(Vec::new()),
            Op::GetRows { table } => self.get_rows(*table, 0, output_of(node)),
            Op::PositionRows { table } => {
                let positions_at = self.buffers.capacity.step_layout().positions;
                self.get_rows(*table, positions_at as u32, output_of(node))
            }
            Op::MatMul { .. } => self.mat_mul(at),
            Op::Add => self.map(node, Map::Add, 0.0, second()),
            Op::Mul => self.map(node, Map::Mul, 0.0, second()),
            Op::AddBias { b } => self.map(node, Map::Bias, 0.0, Some(self.vector(*b)?)),
            Op::Scale { by } => self.map(node, Map::Scale, *by, None),
            Op::RmsNorm { .. } => self.norm(std::slice::from_ref(node), None),
            Op::LayerNorm(norm) => self.layer_norm(node, norm),
            Op::Rope { .. } => self.rope(std::slice::from_ref(node)),
            Op::Unary(Unary::GeluTanh) => self.map(node, Map::Gelu, 0.0, None),
            Op::Unary(Unary::ReluSquared) => self.map(node, Map::Relu2, 0.0, None),
            Op::Unary(Unary::Clamp { limit }) => self.map(node, Map::Clamp, *limit, None),
            Op::Glu { act: Act::Silu } => self.map(node, Map::Silu, 0.0, second()),
            Op::Glu { act: Act::GeluTanh } => self.map(node, Map::GeluTanh, 0.0, second()),
            Op::Glu { act: Act::SwigluOai } => self.map(node, Map::SwigluOai, 0.0, second()),
            Op::Route(route) => self.route(node, *route),
            Op::MatMulId { w } => self.mat_mul_id(node, *w),
            Op::AddId { b } => self.slots(node, Slots::AddId, Some(self.vector(*b)?)),
            Op::Weighted => self.slots(node, Slots::Weighted, None),
            Op::SumSlots { .. } => self.slots(node, Slots::Sum, None),
            Op::StoreKv { cache } => self.store_kv(*cache, node.inputs[0], node.inputs[1]),
            Op::Attention(a) => self.attention(a, node),
            Op::SsmConv { w, cache } => self.ssm_conv(node, *w, *cache),
            Op::Columns { start } => self.columns(node, *start),
            Op::HeadColumns { head_dim, start } => self.head_columns(node, *head_dim, *start),
            Op::JoinHeads { n_head, n_head_b } => self.join_heads(node, *n_head, *n_head_b),
            Op::OutputRows => self.output_rows(node),
            Op::Softcap { cap } => self.map(node, Map::Softcap, *cap, None),
        }
    }

    /// The dispatches of a chain's nodes, which begin at `first`, together.
    pub(crate) fn chain(&mut self, chain: Chain, first: usize) -> Result<Vec<Dispatch>> {
        let graph = self.graph;
        let nodes = &graph.nodes[first..first + chain.nodes()];
        let last = first + nodes.len() - 1;
        match (chain, &nodes[0].op) {
            (Chain::Norm { quantize, .. }, _) => self.norm(nodes, quantize.then_some(last)),
            (Chain::GluQuantize, Op::Glu { act }) => self.glu_quantize(*act, &nodes[0], last),
            (Chain::AttentionQuantize, Op::Attention(a)) => {
                self.attention_quantize(a, &nodes[0], last)
            }
            (Chain::Ropes { store: true }, Op::Rope { .. }) => self.rope_store(nodes),
            (Chain::Ropes { store: false }, Op::Rope { .. }) => self.rope(nodes),
            (Chain::GluQuantize | Chain::AttentionQuantize | Chain::Ropes { .. }, op) => {
                unreachable!("fuse.rs begins no {chain:?} with {op:?}")
            }
        }
    }

    /// Computes each element from that of the node's first input and that of `second`.
    fn map(
        &self,
        node: &Node,
        map: Map,
        by: f32,
        second: Option<Bound<'a>>,
    ) -> Result<Vec<Dispatch>> {
        let out = output_of(node);
        let value = self.graph.value(out);
        let inputs = [Some(self.value(node.inputs[0])), second, Some(self.value(out))];
        let bound = inputs.into_iter().flatten().collect();
        let params = params::Elementwise { cols: value.cols as u32, by };
        let kernel = Kernel::new(shaders::elementwise(map), bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols.div_ceil(256)))
    }

    /// A convolution from the states, and then the states that it leaves.
    fn ssm_conv(&self, node: &Node, w: WeightId, cache: CacheId) -> Result<Vec<Dispatch>> {
        let (x, out, capacity) = (node.inputs[0], output_of(node), self.buffers.capacity);
        let (cols, state) = (self.graph.value(out).cols, self.graph.state(cache));
        let params = params::SsmConv {
            cols: cols as u32,
            kept: (state.len / cols) as u32,
            tokens: capacity.tokens as u32,
            positions_at: capacity.step_layout().positions as u32,
            tables_at: capacity.tables_at(state.group) as u32,
        };
        let bytes = (capacity.tokens * cols) as u64 * 4;
        let all_rows = Bound::Whole { buffer: self.buffers.value(x), bytes };
        let read = vec![all_rows, self.step(), self.tables()];
        let both = [read.as_slice(), &[self.vector(w)?, self.value(out)]].concat();
        let conv = Kernel::new(shaders::ssm_conv(), both, &params, Rows::Tokens);
        let leave = Kernel::new(shaders::ssm_conv_state(), read, &params, Rows::Tokens);
        let mut all = Vec::new();
        for kernel in [conv, leave] {
            all.extend(self.dispatches(&kernel.each_row(cols.div_ceil(64)).with_cache(cache))?);
        }
        Ok(all)
    }

    fn columns(&self, node: &Node, start: usize) -> Result<Vec<Dispatch>> {
        let out = output_of(node);
        let value = self.graph.value(out);
        let from_cols = self.graph.value(node.inputs[0]).cols as u32;
        let cols = value.cols as u32;
        let params = params::CopyRows { cols, from_cols, start: start as u32, outputs_at: 0 };
        let bound = vec![self.value(node.inputs[0]), self.value(out)];
        let kernel = Kernel::new(shaders::columns(), bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols.div_ceil(256)))
    }

    /// Of each head of `head_dim` columns those from `start` on.
    fn head_columns(&self, node: &Node, head_dim: usize, start: usize) -> Result<Vec<Dispatch>> {
        let cols = |id: ValueId| self.graph.value(id).cols;
        let (a, to) = (cols(node.inputs[0]), cols(output_of(node)));
        let n_a = to / (a / head_dim);
        self.heads(node, [head_dim, start], [n_a, 0])
    }

    /// Two values side by side, head by head.
    fn join_heads(&self, node: &Node, n_head: usize, n_head_b: usize) -> Result<Vec<Dispatch>> {
        let [a, b] = [0, 1].map(|i| self.graph.value(node.inputs[i]).cols);
        self.heads(node, [a / n_head, 0], [a / n_head, b / n_head_b])
    }

    /// `n_a` columns of each head of the first input, which has `a_head` of them, and `n_b` of the second's.
    fn heads(
        &self,
        node: &Node,
        [a_head, start]: [usize; 2],
        [n_a, n_b]: [usize; 2],
    ) -> Result<Vec<Dispatch>> {
        let cols = |id: &ValueId| self.graph.value(*id).cols as u32;
        let out = output_of(node);
        let value = self.graph.value(out);
        let params = params::Heads {
            cols: value.cols as u32,
            a_cols: cols(&node.inputs[0]),
            b_cols: node.inputs.get(1).map_or(0, cols),
            a_head: a_head as u32,
            start: start as u32,
            n_a: n_a as u32,
            n_b: n_b as u32,
        };
        let bound = node.inputs.iter().chain([&out]).map(|&id| self.value(id)).collect();
        let kernel = Kernel::new(shaders::heads(n_b > 0), bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols.div_ceil(256)))
    }

    fn output_rows(&self, node: &Node) -> Result<Vec<Dispatch>> {
        let (x, out) = (node.inputs[0], output_of(node));
        let (value, capacity) = (self.graph.value(out), self.buffers.capacity);
        let cols = value.cols as u32;
        let outputs_at = capacity.step_layout().outputs as u32;
        let params = params::CopyRows { cols, from_cols: cols, start: 0, outputs_at };
        // Any row may be wanted.
        let bytes = (capacity.tokens * value.cols) as u64 * 4;
        let all_rows = Bound::Whole { buffer: self.buffers.value(x), bytes };
        let bound = vec![all_rows, self.step(), self.value(out)];
        let kernel = Kernel::new(shaders::output_rows(), bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols.div_ceil(256)))
    }

    /// The rows of a table whose numbers stand in the step's buffer from `wanted_at` on.
    fn get_rows(&self, table: WeightId, wanted_at: u32, out: ValueId) -> Result<Vec<Dispatch>> {
        let weight = self.graph.weight(table);
        let blocks = Layout::of(weight.dtype).blocks(weight.n_in) as u32;
        let mut all = Vec::new();
        for piece in &self.model.weights[table.0].pieces {
            let params = params::GetRows {
                n: weight.n_in as u32,
                blocks,
                first: piece.first as u32,
                count: piece.count as u32,
                wanted_at,
            };
            let rows = Bound::Whole { buffer: &piece.buffer, bytes: piece.bytes };
            let bound = vec![rows, self.step(), self.value(out)];
            let shader = shaders::get_rows(weight.dtype);
            let kernel = Kernel::new(shader, bound, &params, Rows::Tokens);
            all.extend(self.dispatches(&kernel.each_row(weight.n_in.div_ceil(256)))?);
        }
        Ok(all)
    }

    /// The likeliest id of each row of the last value.
    pub(crate) fn argmax(&self) -> Result<Vec<Dispatch>> {
        let Some(last) = self.graph.values.len().checked_sub(1).map(ValueId) else {
            return Ok(Vec::new());
        };
        let value = self.graph.value(last);
        let bound = vec![self.value(last), Bound::Rows { buffer: &self.buffers.best, words: 4 }];
        let params = params::Argmax { cols: value.cols as u32 };
        self.dispatches(&Kernel::new(shaders::argmax(), bound, &params, value.rows))
    }

    /// How the product at a node wants its activations quantised; `None` for products in f32.
    fn rounding_at(&self, product: usize) -> Option<Rounding> {
        let Op::MatMul { w } = self.graph.nodes[product].op else { return None };
        rounding_of(self.graph, self.model.options, w)
    }

    /// The same for a product that a chain quantises its value for: such a product always wants it.
    fn chain_rounding_at(&self, product: usize) -> Rounding {
        self.rounding_at(product).unwrap_or_else(|| {
            unreachable!("fuse.rs quantises only for products of integers: node {product}")
        })
    }
}

/// Rows that one dispatch may take: no binding is larger than allowed, and every offset is aligned, since 64 rows of
/// whole words are a multiple of 256 bytes.
fn max_rows(device: &Device, graph: &Graph) -> Result<usize> {
    let widest = graph.values.iter().map(|v| v.cols).max().unwrap_or(1).max(1);
    // Quantised activations and angles take less than two words for each column.
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
