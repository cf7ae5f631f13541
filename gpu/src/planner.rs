//! From the nodes of a graph to dispatches: which kernel, bound to what, over which grid.

use crate::device::Device;
use crate::fuse::{Chain, Fusions};
use crate::kv::head_words;
use crate::layout::{Layout, act_words};
use crate::plan::{Dispatch, Plan, act_of, parts_bytes};
use crate::shaders::{self, Map, Shader};
use crate::weights::Resident;
use graph::ints::ActFormat;
use graph::{
    Act, Attention, Error, ErrorKind, Graph, LoadOptions, Op, Result, RopePairs, Rows, ValueId,
    WeightId,
};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Steps of up to so many rows use the kernels that split a row of weights over lanes; a weight is read again for each
/// row of activations.
const FEW: usize = 4;

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

pub(crate) struct Planner<'a> {
    pub(crate) device: &'a Device,
    pub(crate) graph: &'a Graph,
    pub(crate) fusions: &'a Fusions,
    pub(crate) weights: &'a [Resident],
    pub(crate) options: LoadOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) acts: wgpu::Buffer,
    /// What `acts` holds at this place of the graph.
    pub(crate) acts_of: Option<(ValueId, ActFormat)>,
    pub(crate) group: usize,
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

    /// What a node does by itself, or with the products of the same activations that follow.
    pub(crate) fn node(&mut self, at: usize) -> Result<Vec<Dispatch>> {
        let node = &self.graph.nodes[at];
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
            Op::MatMul { .. } => self.mat_mul(at),
            Op::Add => map(Map::Add, 0.0, &[self.value(input(0)), self.value(input(1))]),
            Op::AddBias { b } => map(Map::Bias, 0.0, &[self.value(input(0)), self.vector(*b)?]),
            Op::Scale { by } => map(Map::Scale, *by, &[self.value(input(0))]),
            Op::RmsNorm { w, eps } => {
                let bound = [self.value(input(0)), self.vector(*w)?, self.value(out)];
                self.rms_norm((*w, *eps), &bound, out)
            }
            Op::Rope { table, head_dim, pairs } => {
                self.rope((*table, *head_dim, *pairs), &[(input(0), out)])
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

    /// The likeliest id of each row of the last value: four words each.
    pub(crate) fn best(&self) -> Result<Vec<Dispatch>> {
        let Some(last) = self.graph.values.len().checked_sub(1).map(ValueId) else {
            return Ok(Vec::new());
        };
        let value = self.graph.value(last);
        let bound = [self.value(last), Bound::Rows(&self.plan.best, 4)];
        self.each_row(&shaders::argmax(), &bound, &[value.cols as u32], (value.rows, 1))
    }

    /// What a node and the one behind it do together.
    pub(crate) fn chain(&mut self, chain: Chain, first: usize) -> Result<Vec<Dispatch>> {
        let [one, two] = [&self.graph.nodes[first], &self.graph.nodes[first + 1]];
        let (Some(mid), Some(out)) = (one.output, two.output) else { return Ok(Vec::new()) };
        match (chain, &one.op, &two.op) {
            (Chain::AddNorm, _, Op::RmsNorm { w, eps }) => {
                let [a, b] = [0, 1].map(|i| self.value(one.inputs[i]));
                let bound = [a, b, self.vector(*w)?, self.value(mid), self.value(out)];
                self.rms_norm((*w, *eps), &bound, out)
            }
            (Chain::GluRound, Op::Glu { act: glu }, Op::MatMul { w }) => {
                let Some(act) = act_of(self.graph, self.options, *w) else { return Ok(Vec::new()) };
                let mut all = self.round(mid, act, Some((*glu, &one.inputs)))?;
                all.extend(self.mat_mul(first + 1)?);
                Ok(all)
            }
            (Chain::Ropes, Op::Rope { table, head_dim, pairs }, _) => {
                let values = [(one.inputs[0], mid), (two.inputs[0], out)];
                self.rope((*table, *head_dim, *pairs), &values)
            }
            (Chain::AddNorm | Chain::GluRound | Chain::Ropes, _, _) => Ok(Vec::new()),
        }
    }

    /// A norm; the buffers say whether it is that of a sum.
    fn rms_norm(
        &self,
        (w, eps): (WeightId, f32),
        bound: &[Bound<'_>],
        out: ValueId,
    ) -> Result<Vec<Dispatch>> {
        let (n, value) = (self.graph.weight(w).n_in, self.graph.value(out));
        let params = [value.cols as u32, n as u32, eps.to_bits(), (n as f32).to_bits()];
        let shader = shaders::rms_norm(n > 128, bound.len() > 3);
        self.each_row(&shader, bound, &params, (value.rows, value.cols / n))
    }

    /// Rounds a value for the products that follow; or makes it first, a gated activation of two others.
    fn round(
        &mut self,
        x: ValueId,
        act: ActFormat,
        glu: Option<(Act, &[ValueId])>,
    ) -> Result<Vec<Dispatch>> {
        let value = self.graph.value(x);
        let (n, row_words) = (value.cols, act_words(act, value.cols));
        let inputs = glu.map_or(&[][..], |(_, inputs)| inputs);
        let mut bound: Vec<Bound<'_>> = inputs.iter().map(|&id| self.value(id)).collect();
        bound.extend([self.value(x), Bound::Rows(&self.acts, row_words)]);
        let shader = shaders::quantize_act(act, glu.map(|(act, _)| act));
        let params = [n as u32, row_words as u32];
        let all = self.each_row(&shader, &bound, &params, (value.rows, n.div_ceil(256)))?;
        self.acts_of = Some((x, act));
        Ok(all)
    }

    /// A product, or several with the same activations at the first of them.
    fn mat_mul(&mut self, at: usize) -> Result<Vec<Dispatch>> {
        let node = &self.graph.nodes[at];
        let alone = [at];
        let group = self.fusions.group_of(at).unwrap_or(&alone);
        let (Op::MatMul { w }, x, true) = (&node.op, node.inputs[0], group[0] == at) else {
            return Ok(Vec::new());
        };
        let w = *w;
        let outs: Vec<ValueId> = group.iter().filter_map(|&i| self.graph.nodes[i].output).collect();
        let weight = self.graph.weight(w);
        let rows = self.graph.value(x).rows;
        let n_in = weight.n_in;
        // Where the rows of each product end.
        let mut ends = Vec::new();
        for out in &outs {
            ends.push(ends.last().unwrap_or(&0) + self.graph.value(*out).cols);
        }
        let n_out = ends.last().copied().unwrap_or(0);
        let blocks = Layout::of(weight.dtype).blocks(n_in);
        let mut all = Vec::new();
        let act = act_of(self.graph, self.options, w);
        let row_words = act.map_or(0, |act| act_words(act, n_in));
        if let Some(act) = act
            && self.acts_of != Some((x, act))
        {
            all.extend(self.round(x, act, None)?);
        }
        let x = if act.is_some() { Bound::Rows(&self.acts, row_words) } else { self.value(x) };
        for piece in &self.weights[w.0].pieces {
            let sizes = [n_in, blocks, n_out, piece.first, piece.count, row_words];
            let mut params: Vec<u32> = sizes.iter().chain(&ends[..]).map(|&n| n as u32).collect();
            // In f32 there is one product, and nothing is rounded; else there are two ends before the last.
            params.resize(if act.is_some() { 8 } else { 5 }, 0);
            let w = Bound::Whole(&piece.buffer, piece.bytes);
            // Rounded activations are bound as words and as fours of words.
            let mut bound = if act.is_some() { vec![w, x, x] } else { vec![w, x] };
            bound.extend(outs.iter().map(|&out| self.value(out)));
            let x = piece.count.div_ceil(32);
            let grid = |rows_each: usize, only: RangeInclusive<usize>| {
                (rows, Grid { x, rows_each, only, chunks_of: None }, None)
            };
            // The kernel for few rows, the one for many, and the rows that one workgroup of it takes.
            let (few, many, rows_each) = match act {
                Some(_) => {
                    let n = outs.len();
                    let few = shaders::mat_vec_int8(weight.dtype, n, self.device.lanes);
                    (few, shaders::mat_mul_int8(weight.dtype, n), 64)
                }
                None => {
                    (shaders::mat_vec_f32(weight.dtype), shaders::mat_mul_f32(weight.dtype), 32)
                }
            };
            all.extend(self.over_rows(&few, &bound, &params, grid(1, 1..=FEW))?);
            let over = grid(rows_each, FEW + 1..=usize::MAX);
            all.extend(self.over_rows(&many, &bound, &params, over)?);
        }
        Ok(all)
    }

    fn rope(
        &self,
        (table, head_dim, pairs): (usize, usize, RopePairs),
        values: &[(ValueId, ValueId)],
    ) -> Result<Vec<Dispatch>> {
        let n = self.graph.rope_tables[table].freqs.len();
        let per_head = head_dim - n;
        let adjacent = u32::from(pairs == RopePairs::Adjacent);
        let cols: Vec<usize> = values.iter().map(|(x, _)| self.graph.value(*x).cols).collect();
        let groups: Vec<usize> =
            cols.iter().map(|cols| (cols / head_dim * per_head).div_ceil(64)).collect();
        let mut params = vec![cols[0] as u32, head_dim as u32, n as u32, per_head as u32, adjacent];
        params.extend([groups[0] as u32, cols[cols.len() - 1] as u32]);
        let mut bound = vec![Bound::Rows(&self.plan.angles[table], 2 * n.max(1))];
        bound.extend(values.iter().map(|(x, _)| self.value(*x)));
        bound.extend(values.iter().map(|(_, out)| self.value(*out)));
        let grid = (Rows::Tokens, groups.iter().sum());
        self.each_row(&shaders::rope(values.len() > 1), &bound, &params, grid)
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
