//! From the nodes of a graph to dispatches: which kernel, bound to what, over which grid.

use crate::device::Device;
use crate::fuse::{Chain, Fusions};
use crate::kv::head_words;
use crate::layout::{Layout, act_words};
use crate::plan::{Dispatch, Plan, act_of, parts_bytes};
use crate::shaders::{self, Map, Rounded, Shader};
use crate::weights::Resident;
use gguf::DType;
use graph::ints::ActFormat;
use graph::{
    Act, Attention, Error, ErrorKind, Graph, LoadOptions, Node, Op, Result, RopePairs, Rows,
    ValueId, WeightId,
};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Steps of up to so many rows use the kernels that split a row of weights over lanes; a weight is read again for each
/// row of activations.
const FEW: usize = 4;
/// Steps of at least so many rows use the matrix unit, where there is one.
const MATRIX_FROM: usize = 9;

/// Steps of at least so many tokens for each sequence have neighbours' attention done together.
const NEIGHBOURS: usize = 16;

/// So many workgroups keep every device busy, whatever their size. `karat check` tests both sides of it.
const MANY_GROUPS: usize = graph::selftest::MANY_ROWS / 32;

/// A buffer as a kernel sees it.
#[derive(Clone, Copy)]
enum Bound<'a> {
    /// Rows of so many words: a dispatch sees its own.
    Rows(&'a wgpu::Buffer, usize),
    /// So many bytes from the start.
    Whole(&'a wgpu::Buffer, u64),
}

/// What is rounded, with what it is made of.
#[derive(Clone, Copy)]
enum Rounding<'a> {
    Value,
    Glu(Act, &'a [ValueId]),
    Merge(&'a Attention),
}

/// Steps of any number of rows.
const EVERY: RangeInclusive<usize> = 0..=usize::MAX;

/// The grid of a dispatch: workgroups across, and rows that one takes.
struct Grid {
    x: usize,
    rows_each: usize,
    /// Only for steps of so many rows.
    only: RangeInclusive<usize>,
    /// As in [`Dispatch`].
    each_seq: RangeInclusive<usize>,
    /// As in [`Dispatch`].
    chunks_of: Option<u32>,
}

impl Grid {
    /// A row of workgroups for each row.
    fn each_row(x: usize) -> Self {
        Self { x, rows_each: 1, only: EVERY, each_seq: EVERY, chunks_of: None }
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
                each_seq: grid.each_seq.clone(),
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
            Op::RmsNorm { .. } => self.norm(std::slice::from_ref(node), None),
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

    /// What the nodes of a chain do together.
    pub(crate) fn chain(&mut self, chain: Chain, first: usize) -> Result<Vec<Dispatch>> {
        let nodes = &self.graph.nodes[first..first + chain.nodes()];
        let last = first + nodes.len() - 1;
        match (chain, &nodes[0].op) {
            (Chain::Norm { round, .. }, _) => self.norm(nodes, round.then_some(last)),
            (Chain::GluRound, Op::Glu { act: glu }) => {
                let Some((mid, act)) = nodes[0].output.zip(self.act_at(last)) else {
                    return Ok(Vec::new());
                };
                let of = Rounding::Glu(*glu, &nodes[0].inputs);
                let mut all = self.round(mid, act, (of, EVERY))?;
                all.extend(self.mat_mul(last)?);
                Ok(all)
            }
            (Chain::AttentionRound, Op::Attention(a)) => {
                let Some((out, act)) = nodes[0].output.zip(self.act_at(last)) else {
                    return Ok(Vec::new());
                };
                let mut all = self.attention_many(a, nodes[0].inputs[0], out)?;
                all.extend(self.round(out, act, (Rounding::Value, 2..=usize::MAX))?);
                all.extend(self.attention_part(a, nodes[0].inputs[0])?);
                all.extend(self.round(out, act, (Rounding::Merge(a), 1..=1))?);
                all.extend(self.mat_mul(last)?);
                Ok(all)
            }
            (Chain::Ropes { store: true }, Op::Rope { .. }) => self.rope_store(nodes),
            (Chain::Ropes { .. }, Op::Rope { table, head_dim, pairs }) => {
                let values = nodes.iter().filter_map(|n| Some((n.inputs[0], n.output?)));
                self.rope((*table, *head_dim, *pairs), &values.collect::<Vec<_>>())
            }
            (Chain::GluRound | Chain::AttentionRound | Chain::Ropes { .. }, _) => Ok(Vec::new()),
        }
    }

    /// The rounding that the product of a node wants.
    fn act_at(&self, node: usize) -> Option<ActFormat> {
        let Op::MatMul { w } = self.graph.nodes[node].op else { return None };
        act_of(self.graph, self.options, w)
    }

    /// A norm: of a sum, if `nodes` begins with one, and rounded for `product`, if there is one.
    fn norm(&mut self, nodes: &[Node], product: Option<usize>) -> Result<Vec<Dispatch>> {
        let of_sum = nodes[0].op == Op::Add;
        let (summands, norm) =
            if of_sum { (&nodes[0].inputs[..], &nodes[1]) } else { (&[][..], &nodes[0]) };
        let (Op::RmsNorm { w, eps }, Some(out)) = (&norm.op, norm.output) else {
            return Ok(Vec::new());
        };
        let act = product.and_then(|at| self.act_at(at));
        let (n, value) = (self.graph.weight(*w).n_in, self.graph.value(out));
        let row_words = act.map_or(0, |act| act_words(act, n));
        let mut bound: Vec<Bound<'_>> = summands.iter().map(|&id| self.value(id)).collect();
        if of_sum {
            bound.extend([self.vector(*w)?, self.value(norm.inputs[0]), self.value(out)]);
        } else {
            bound.extend([self.value(norm.inputs[0]), self.vector(*w)?, self.value(out)]);
        }
        bound.extend(act.map(|_| Bound::Rows(&self.acts, row_words)));
        let sizes = [value.cols as u32, n as u32, eps.to_bits(), (n as f32).to_bits()];
        let params = [&sizes[..], &[row_words as u32]].concat();
        let shader = shaders::rms_norm(n > 128 || act.is_some(), of_sum, act);
        let mut all = self.each_row(&shader, &bound, &params, (value.rows, value.cols / n))?;
        if let (Some(act), Some(product)) = (act, product) {
            self.acts_of = Some((out, act));
            all.extend(self.mat_mul(product)?);
        }
        Ok(all)
    }

    /// Rounds a value for the products that follow, in steps of so many rows, or makes it first.
    fn round(
        &mut self,
        x: ValueId,
        act: ActFormat,
        (of, only): (Rounding<'_>, RangeInclusive<usize>),
    ) -> Result<Vec<Dispatch>> {
        let value = self.graph.value(x);
        let (n, row_words) = (value.cols, act_words(act, value.cols));
        let (mut bound, mut params) = (Vec::new(), vec![n as u32, row_words as u32]);
        let shader = shaders::quantize_act(
            act,
            match of {
                Rounding::Value => Rounded::Value,
                Rounding::Glu(glu, inputs) => {
                    bound.extend(inputs.iter().map(|&id| self.value(id)));
                    Rounded::Glu(glu)
                }
                Rounding::Merge(a) => {
                    bound.extend([self.parts(), self.step()]);
                    params.extend(self.merge_params(a));
                    Rounded::Merge
                }
            },
        );
        bound.extend([self.value(x), Bound::Rows(&self.acts, row_words)]);
        let grid = Grid { only, ..Grid::each_row(n.div_ceil(256)) };
        let all = self.over_rows(&shader, &bound, &params, (value.rows, grid, None))?;
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
            all.extend(self.round(x, act, (Rounding::Value, EVERY))?);
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
            let kernels = self.products(weight.dtype, outs.len(), piece.count, act.is_some());
            for (shader, grid) in kernels {
                all.extend(self.over_rows(&shader, &bound, &params, (rows, grid, None))?);
            }
        }
        Ok(all)
    }

    /// The kernels of a product with `count` rows of weights: each for so many rows of activations, of which a workgroup
    /// takes some.
    fn products(
        &self,
        dtype: DType,
        outs: usize,
        count: usize,
        rounded: bool,
    ) -> Vec<(Shader, Grid)> {
        let tiles = count.div_ceil(32);
        let grid = |x: usize, rows_each: usize, only: RangeInclusive<usize>| Grid {
            rows_each,
            only,
            ..Grid::each_row(x)
        };
        if !rounded {
            return vec![
                (shaders::mat_vec_f32(dtype), grid(tiles, 1, 1..=FEW)),
                (shaders::mat_mul_f32(dtype), grid(tiles, 32, FEW + 1..=usize::MAX)),
            ];
        }
        let few = (self.mat_vec(dtype, outs, tiles), grid(tiles, 1, 1..=FEW));
        let many = |most| (shaders::mat_mul_int8(dtype, outs), grid(tiles, 64, FEW + 1..=most));
        let Some(matrix) = self.device.matrix else { return vec![few, many(usize::MAX)] };
        let (shader, tile) = (shaders::mat_mul_coop(dtype, outs, matrix), matrix.tile());
        let (x, tokens) = (count.div_ceil(tile.rows() as usize), tile.tokens() as usize);
        vec![few, many(MATRIX_FROM - 1), (shader, grid(x, tokens, MATRIX_FROM..=usize::MAX))]
    }

    /// The kernel of a product with few rows of activations over so many workgroups.
    fn mat_vec(&self, dtype: DType, products: usize, groups: usize) -> Shader {
        if self.device.lanes == shaders::FEW_LANES {
            return shaders::mat_vec_int8(dtype, products);
        }
        // Where there are few workgroups for each multiprocessor they are large.
        let [most, fewer] = shaders::MANY_LANES;
        shaders::mat_vec_split(dtype, products, if groups < MANY_GROUPS { most } else { fewer })
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

    /// Queries and keys are turned, and keys and values stored.
    fn rope_store(&self, nodes: &[Node]) -> Result<Vec<Dispatch>> {
        let [turn_q, turn_k, store] = nodes else { return Ok(Vec::new()) };
        let (Op::Rope { table, pairs, .. }, &Op::StoreKv { kv_layer }) = (&turn_q.op, &store.op)
        else {
            return Ok(Vec::new());
        };
        let (Some(out_q), Some(out_k)) = (turn_q.output, turn_k.output) else {
            return Ok(Vec::new());
        };
        let spec = self.graph.kv_layers[kv_layer];
        let [_, positions, tables, ..] = self.plan.capacity.step_words();
        let words = |dim| head_words(self.options.kv, dim);
        let (words_k, words_v) = (words(spec.head_dim_k), words(spec.head_dim_v));
        let n = self.graph.rope_tables[*table].freqs.len();
        let cols = self.graph.value(out_q).cols;
        let split_k = cols.div_ceil(64);
        let split_v = split_k + (spec.n_head_kv * words_k).div_ceil(64);
        let adjacent = usize::from(*pairs == RopePairs::Adjacent);
        let sizes = [cols, spec.head_dim_k, n, adjacent, spec.n_head_kv, spec.head_dim_v];
        let more = [words_k, words_v, positions, tables, split_k, split_v];
        let params: Vec<u32> = sizes.into_iter().chain(more).map(|n| n as u32).collect();
        let mut bound = vec![Bound::Rows(&self.plan.angles[*table], 2 * n.max(1))];
        let values = [turn_q.inputs[0], turn_k.inputs[0], store.inputs[1]];
        bound.extend(values.map(|id| self.value(id)));
        bound.extend([self.step(), self.tables(), self.value(out_q), self.value(out_k)]);
        let x = split_v + (spec.n_head_kv * words_v).div_ceil(64);
        let grid = (Rows::Tokens, Grid::each_row(x), Some(kv_layer));
        self.over_rows(&shaders::rope_store(self.options.kv), &bound, &params, grid)
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

    /// Attention, whatever the step's rows.
    fn attention(&self, a: &Attention, q: ValueId, out: ValueId) -> Result<Vec<Dispatch>> {
        let mut all = self.attention_many(a, q, out)?;
        all.extend(self.attention_part(a, q)?);
        let params = [&[a.n_head as u32], &self.merge_params(a)[..]].concat();
        let bound = [self.parts(), self.step(), self.value(out)];
        let one = Grid { only: 1..=1, ..Grid::each_row(a.n_head) };
        let grid = (Rows::Tokens, one, None);
        all.extend(self.over_rows(&shaders::attention_merge(), &bound, &params, grid)?);
        Ok(all)
    }

    /// What the kernels of attention want to know.
    fn attention_params(&self, a: &Attention) -> Vec<u32> {
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
        let window = a.window.unwrap_or(u32::MAX);
        let floats = [a.scale, a.softcap.unwrap_or(1.0)].map(f32::to_bits);
        sizes.into_iter().map(|n| n as u32).chain([window]).chain(floats).collect()
    }

    /// Attention in steps of more than one row.
    fn attention_many(&self, a: &Attention, q: ValueId, out: ValueId) -> Result<Vec<Dispatch>> {
        let spec = self.graph.kv_layers[a.kv_layer];
        let dims = [spec.head_dim_k, spec.head_dim_v];
        let (kv, capped) = (self.options.kv, a.softcap.is_some());
        let bound = [self.value(q), self.step(), self.tables(), self.value(out)];
        let mut params = self.attention_params(a);
        let mut all = Vec::new();
        let mut many = Grid { only: 2..=usize::MAX, ..Grid::each_row(a.n_head) };
        let wide = self.device.lanes != shaders::FEW_LANES;
        if let Some(shader) = shaders::attention_tile(kv, capped, dims).filter(|_| wide) {
            many.each_seq = 0..=NEIGHBOURS - 1;
            // The heads of a KV head that one workgroup takes, with as many tokens as there is room for.
            let splits = (a.n_head / spec.n_head_kv).div_ceil(shaders::TILE_QUERIES);
            let heads = (a.n_head / spec.n_head_kv).div_ceil(splits);
            let tiles = Grid {
                only: 2..=usize::MAX,
                rows_each: shaders::TILE_QUERIES / heads,
                each_seq: NEIGHBOURS..=usize::MAX,
                ..Grid::each_row(spec.n_head_kv * splits)
            };
            params.push(heads as u32);
            let grid = (Rows::Tokens, tiles, Some(a.kv_layer));
            all.extend(self.over_rows(&shader, &bound, &params, grid)?);
            params.pop();
        }
        let shader = shaders::attention(kv, capped, spec.head_dim_v.next_multiple_of(2));
        let grid = (Rows::Tokens, many, Some(a.kv_layer));
        all.extend(self.over_rows(&shader, &bound, &params, grid)?);
        Ok(all)
    }

    /// In a step of one token: its chunks side by side, to be merged.
    fn attention_part(&self, a: &Attention, q: ValueId) -> Result<Vec<Dispatch>> {
        let spec = self.graph.kv_layers[a.kv_layer];
        let dims = [spec.head_dim_k, spec.head_dim_v];
        let shader = shaders::attention_part(self.options.kv, a.softcap.is_some(), dims);
        let mut params = self.attention_params(a);
        params.push(self.plan.capacity.tables as u32);
        let bound = [self.value(q), self.step(), self.tables(), self.parts()];
        let chunks_of = Some(a.window.unwrap_or(u32::MAX));
        let one = Grid { only: 1..=1, chunks_of, ..Grid::each_row(a.n_head) };
        self.over_rows(&shader, &bound, &params, (Rows::Tokens, one, Some(a.kv_layer)))
    }

    /// The chunks of a step of one token.
    fn parts(&self) -> Bound<'_> {
        Bound::Whole(&self.plan.parts, parts_bytes(self.graph, self.plan.capacity))
    }

    /// What those that merge the chunks want to know.
    fn merge_params(&self, a: &Attention) -> [u32; 4] {
        let dim_v = self.graph.kv_layers[a.kv_layer].head_dim_v as u32;
        let [_, positions, ..] = self.plan.capacity.step_words();
        let most = self.plan.capacity.tables as u32;
        [dim_v, positions as u32, a.window.unwrap_or(u32::MAX), most]
    }
}
