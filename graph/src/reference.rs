//! The executable definition: plain loops over the file's own bytes, no SIMD, no threads. Slow and right.

use crate::ops::{
    attention, elementwise, experts, heads, layer_norm, mat_mul, rms_norm, rope, ssm_conv,
};
use crate::{
    Backend, Blocks, Cache, CacheId, Contents, Error, ErrorKind, Graph, KV_BLOCK, Kv, KvType,
    LayerNorm, LoadOptions, Loaded, Node, Op, Result, Route, Span, StateCache, Step, Stop, Tap,
    ValueId, WeightId, math,
};
use std::sync::Arc;

/// The reference backend.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

impl Backend for Reference {
    fn name(&self) -> String {
        "reference".to_owned()
    }

    fn supports(&self, _: &Graph, _: &Node, _: LoadOptions) -> std::result::Result<(), String> {
        Ok(())
    }

    fn load(
        &self,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        let mut weights = Vec::with_capacity(graph.weights.len());
        let mut read = 0;
        for weight in &graph.weights {
            let bytes = crate::backend::read_weight(files, weight)?.into_owned();
            read += bytes.len() as u64;
            progress(read);
            weights.push(bytes);
        }
        Ok(Box::new(LoadedReference { graph, weights, options, stop: Stop::new() }))
    }
}

struct LoadedReference {
    graph: Arc<Graph>,
    weights: Vec<Vec<u8>>,
    options: LoadOptions,
    stop: Stop,
}

struct RefKv {
    contents: Contents,
    /// By cache id.
    caches: Vec<RefCache>,
}

enum RefCache {
    /// K and V: `[block][place][n_head_kv · head_dim]`, in f32 after rounding to the cache's type.
    Kv([Vec<f32>; 2]),
    /// `[block][len]`
    State(Vec<f32>),
}

impl RefKv {
    fn halves(&mut self, id: CacheId) -> &mut [Vec<f32>; 2] {
        match &mut self.caches[id.0] {
            RefCache::Kv(halves) => halves,
            RefCache::State(_) => unreachable!("the builder gives attention no state: {id:?}"),
        }
    }

    fn state(&mut self, id: CacheId) -> &mut [f32] {
        match &mut self.caches[id.0] {
            RefCache::State(state) => state,
            RefCache::Kv(_) => unreachable!("the builder gives a state's op no keys: {id:?}"),
        }
    }
}

/// A convolution over the sequences of a step.
struct Conv {
    /// `[cols, d_conv]`
    w: Vec<f32>,
    cols: usize,
    state: StateCache,
}

impl Conv {
    fn run(&self, step: &Step, states: &mut [f32], x: &[f32], out: &mut [f32]) {
        let (cols, len) = (self.cols, self.state.len);
        for Span { seq, position, tokens } in step.spans() {
            let block = step.state_block(self.state.group, seq);
            let state = &mut states[block * len..][..len];
            if position == 0 {
                state.fill(0.0);
            }
            let own = tokens.start * cols..tokens.end * cols;
            let rows = ssm_conv::Rows { state, x: &x[own.clone()], cols };
            ssm_conv::ssm_conv(&self.w, rows, &mut out[own]);
            let next = rows.next_state();
            state.copy_from_slice(&next);
        }
    }
}

impl LoadedReference {
    fn vector(&self, id: WeightId) -> Vec<f32> {
        let weight = self.graph.weight(id);
        let mut out = vec![0.0; weight.n_in * weight.rows()];
        weight.dtype.dequantize(&self.weights[id.0], &mut out);
        out
    }

    /// Rows of a table, of tokens or of positions.
    fn get_rows(&self, table: WeightId, rows: &[u32], out: &mut [f32]) {
        let weight = self.graph.weight(table);
        let row_bytes = weight.dtype.row_bytes(weight.n_in);
        for (&id, out) in rows.iter().zip(out.chunks_mut(weight.n_in)) {
            weight
                .dtype
                .dequantize(&self.weights[table.0][id as usize * row_bytes..][..row_bytes], out);
        }
    }

    fn store_kv(&self, cache: CacheId, step: &Step, kv: &mut RefKv, kv_rows: [&[f32]; 2]) {
        let spec = self.graph.kv(cache);
        for (which, dim) in spec.kept().into_iter().enumerate().filter(|(_, dim)| *dim > 0) {
            let width = spec.n_head_kv * dim;
            for (t, row) in kv_rows[which].chunks(width).enumerate() {
                let at = step.slot(spec.group, step.seqs[t], step.positions[t]) * width;
                for (dst, &v) in kv.halves(cache)[which][at..at + width].iter_mut().zip(row) {
                    *dst = match self.options.kv {
                        KvType::F16 => math::round_f16(v),
                        KvType::F32 => v,
                    };
                }
            }
        }
    }

    fn attention(
        &self,
        a: &crate::Attention,
        step: &Step,
        kv: &mut RefKv,
        q: &[f32],
        out: &mut [f32],
    ) {
        let spec = self.graph.kv(a.cache);
        let [k, v] = kv.halves(a.cache);
        let (dk, dv) = (spec.head_dim_k, spec.head_dim_v);
        let sinks = a.sinks.map(|sinks| self.vector(sinks));
        for (t, (q, out)) in q.chunks(a.n_head * dk).zip(out.chunks_mut(a.n_head * dv)).enumerate()
        {
            for (h, (q, out)) in q.chunks(dk).zip(out.chunks_mut(dv)).enumerate() {
                let h_kv = h / (a.n_head / spec.n_head_kv);
                let at = |p: u32, dim: usize| {
                    (step.slot(spec.group, step.seqs[t], p) * spec.n_head_kv + h_kv) * dim
                };
                let key = |p: u32| &k[at(p, dk)..][..dk];
                let value = |p: u32| {
                    if spec.v_in_k { &key(p)[..dv] } else { &v[at(p, dv)..][..dv] }
                };
                let (position, end) = (step.positions[t], step.end_for(a.mask, t));
                let seen = attention::Seen {
                    first: a.mask.first_visible(position),
                    last: a.mask.last_visible(position, end),
                    sink: sinks.as_ref().map(|sinks| sinks[h]),
                };
                out.copy_from_slice(&attention::head_over(a, q, seen, key, value));
            }
        }
    }

    fn rope(&self, node: &Node, step: &Step, out: &mut [f32]) {
        let Op::Rope { table, head_dim, pairs } = node.op else { return };
        let table = &self.graph.rope_tables[table];
        for (token, row) in out.chunks_mut(self.cols(node.inputs[0])).enumerate() {
            let (freqs, position) = (table.freqs_of(step, token), step.positions[token]);
            let angles = rope::angles(freqs, table.mscale_at(position), position);
            rope::rope(row, head_dim, pairs, &angles);
        }
    }

    fn layer_norm(&self, norm: &LayerNorm, x: &[f32], out: &mut [f32]) {
        let [w, b] = [norm.w, norm.b].map(|id| id.map(|id| self.vector(id)));
        let affine = layer_norm::Affine { w: w.as_deref(), b: b.as_deref() };
        layer_norm::layer_norm(x, affine, norm.group, norm.eps, out);
    }

    fn cols(&self, v: ValueId) -> usize {
        self.graph.value(v).cols
    }

    fn columns(&self, start: usize, node: &Node, x: &[f32], out: &mut [f32]) {
        let to = node.output.map_or(0, |v| self.cols(v));
        for (x, out) in x.chunks(self.cols(node.inputs[0])).zip(out.chunks_mut(to)) {
            out.copy_from_slice(&x[start..start + to]);
        }
    }

    /// Parts of heads, or heads side by side.
    fn heads(&self, node: &Node, values: &[Vec<f32>], out: &mut [f32]) {
        let input = |i: usize| (values[node.inputs[i].0].as_slice(), self.cols(node.inputs[i]));
        let ((a, a_cols), to) = (input(0), node.output.map_or(1, |v| self.cols(v)));
        if let Op::HeadColumns { head_dim, start } = node.op {
            heads::columns(a, head_dim, start, to / (a_cols / head_dim), out);
        } else if let Op::JoinHeads { n_head, n_head_b } = node.op {
            let (b, b_cols) = input(1);
            let both = a.chunks(a_cols).zip(b.chunks(b_cols));
            for ((a, b), out) in both.zip(out.chunks_mut(to)) {
                heads::join(a, b, n_head, n_head_b, out);
            }
        }
    }

    fn route(&self, route: Route, node: &Node, values: &[Vec<f32>], out: &mut [f32]) {
        let x = node.inputs[0];
        let chosen = node.inputs.get(1).map(|v| (values[v.0].as_slice(), self.cols(*v)));
        let to = node.output.map_or(0, |v| self.cols(v));
        let rows = values[x.0].chunks(self.cols(x)).zip(out.chunks_mut(to));
        for (t, (x, out)) in rows.enumerate() {
            let chosen = chosen.map_or(&[][..], |(all, n)| &all[t * n..][..n]);
            experts::route(route, x, chosen, out);
        }
    }

    fn mat_mul_id(&self, w: WeightId, node: &Node, values: &[Vec<f32>], out: &mut [f32]) {
        let (weight, bytes) = (self.graph.weight(w), &self.weights[w.0]);
        let [x, experts] = [0, 1].map(|i| values[node.inputs[i].0].as_slice());
        let chosen = experts::Chosen { x, experts, slots: self.cols(node.inputs[1]) };
        experts::mat_mul_id(self.options.arithmetic, weight, bytes, chosen, out);
    }

    fn add_id(&self, b: WeightId, x: &[f32], experts: &[f32], out: &mut [f32]) {
        experts::add_id(&self.vector(b), self.graph.weight(b).n_in, x, experts, out);
    }

    fn conv(&self, w: WeightId, cache: CacheId) -> Conv {
        let (cols, state) = (self.graph.weight(w).n_out, self.graph.state(cache));
        Conv { w: self.vector(w), cols, state }
    }

    fn compute(
        &self,
        node: &Node,
        step: &Step,
        values: &[Vec<f32>],
        kv: &mut RefKv,
        out: &mut [f32],
    ) {
        let input = |i: usize| values[node.inputs[i].0].as_slice();
        let cols = |v: ValueId| self.cols(v);
        match &node.op {
            Op::Input => out.copy_from_slice(&step.inputs),
            Op::GetRows { table } => self.get_rows(*table, &step.tokens, out),
            Op::PositionRows { table } => self.get_rows(*table, &step.positions, out),
            Op::MatMul { w } => {
                let (weight, bytes) = (self.graph.weight(*w), &self.weights[w.0]);
                mat_mul::mat_mul(self.options.arithmetic, weight, bytes, input(0), out);
            }
            Op::Add => elementwise::add(input(0), input(1), out),
            Op::Mul => elementwise::mul(input(0), input(1), out),
            Op::AddBias { b } => {
                let bias = self.vector(*b);
                for (x, out) in input(0).chunks(bias.len()).zip(out.chunks_mut(bias.len())) {
                    elementwise::add(x, &bias, out);
                }
            }
            Op::Scale { by } => elementwise::scale(input(0), *by, out),
            Op::RmsNorm { w, eps } => rms_norm::rms_norm(input(0), &self.vector(*w), *eps, out),
            Op::LayerNorm(norm) => self.layer_norm(norm, input(0), out),
            Op::Rope { .. } => {
                out.copy_from_slice(input(0));
                self.rope(node, step, out);
            }
            Op::Unary(unary) => elementwise::unary(*unary, input(0), out),
            Op::Glu { act } => elementwise::glu(*act, input(0), input(1), out),
            Op::Route(route) => self.route(*route, node, values, out),
            Op::MatMulId { w } => self.mat_mul_id(*w, node, values, out),
            Op::AddId { b } => self.add_id(*b, input(0), input(1), out),
            Op::Weighted => experts::weighted(input(0), input(1), out),
            Op::SumSlots { slots } => {
                experts::sum_slots(input(0), node.output.map_or(0, cols), *slots, out);
            }
            Op::StoreKv { cache } => self.store_kv(*cache, step, kv, [input(0), input(1)]),
            Op::Attention(a) => self.attention(a, step, kv, input(0), out),
            Op::SsmConv { w, cache } => {
                self.conv(*w, *cache).run(step, kv.state(*cache), input(0), out);
            }
            Op::Columns { start } => self.columns(*start, node, input(0), out),
            Op::HeadColumns { .. } | Op::JoinHeads { .. } => self.heads(node, values, out),
            Op::OutputRows => {
                let n = cols(node.inputs[0]);
                for (&row, out) in step.outputs.iter().zip(out.chunks_mut(n)) {
                    out.copy_from_slice(&input(0)[row as usize * n..][..n]);
                }
            }
            Op::Softcap { cap } => elementwise::softcap(input(0), *cap, out),
        }
    }
}

impl Loaded for LoadedReference {
    fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        usize::try_from(self.graph.kv_bytes(KvType::F32, blocks)).unwrap_or(usize::MAX)
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        let zeros = |n: usize| -> Result<Vec<f32>> {
            let mut v = Vec::new();
            v.try_reserve_exact(n).map_err(|_| {
                Error::new(
                    ErrorKind::OutOfMemory,
                    format!("KV cache: no memory for {n} f32 of one layer"),
                )
            })?;
            v.resize(n, 0.0);
            Ok(v)
        };
        let mut caches = Vec::new();
        for cache in &self.graph.caches {
            caches.push(match cache {
                Cache::Kv(kv) => {
                    let rows = blocks.of(kv.group) * KV_BLOCK * kv.n_head_kv;
                    let [k, v] = kv.kept();
                    RefCache::Kv([zeros(rows * k)?, zeros(rows * v)?])
                }
                Cache::State(state) => RefCache::State(zeros(blocks.of(state.group) * state.len)?),
            });
        }
        Ok(Kv(Box::new(RefKv { contents: Contents::new(blocks), caches })))
    }

    fn stop_with(&mut self, stop: Stop) {
        self.stop = stop;
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let kv: &mut RefKv = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by `reference`")
        })?;
        let graph = Arc::clone(&self.graph);
        kv.contents.begin(&graph, step)?;
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); graph.values.len()];
        for node in &graph.nodes {
            self.stop.check()?;
            let Some(id) = node.output else {
                self.compute(node, step, &values, kv, &mut []);
                continue;
            };
            let value = graph.value(id);
            let mut out = vec![0.0; step.rows(value.rows) * value.cols];
            self.compute(node, step, &values, kv, &mut out);
            if tap.wants(node, value) {
                tap.value(node, value, &mut out);
                value.check(&out)?;
            }
            values[id.0] = out;
        }
        kv.contents.done(&graph, step);
        Ok(values.pop().unwrap_or_default())
    }
}
