//! A graph with its weights in memory, and the loop over its nodes.

mod experts;
mod heads;

use crate::Cpu;
use crate::attention::{self, Items};
use crate::experts::Experts;
use crate::kernels::elementwise::{Elementwise, Map};
use crate::kernels::layer_norm::LayerNorm;
use crate::kernels::mat_mul::{self, MatMul, Product};
use crate::kernels::mat_mul_f32::{self, MatMulF32, Source};
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope::Rope;
use crate::kernels::rounded::{Activations, Rounded};
use crate::kernels::ssm_conv::SsmConv;
use crate::kv::{Elem, Layer, States};
use crate::plan::{self, Job, Plan};
use crate::pool::{Matrix, Pool, Steps, Workers};
use crate::simd::{LANES, Level};
use crate::weights::Weights;
use graph::ints::Rounding;
use graph::ops::layer_norm::Affine;
use graph::ops::ssm_conv::Rows;
use graph::{
    Act, Attention, Blocks, Cache, Contents, Error, ErrorKind, Graph, Kv, KvType, LoadOptions,
    Loaded, Node, Op, Result, Step, Stop, Tap, Timing, ValueId, Weight, WeightId,
};
use std::sync::Arc;
use std::time::Instant;

pub(crate) struct LoadedCpu {
    graph: Arc<Graph>,
    weights: Weights,
    options: LoadOptions,
    level: Level,
    pool: Pool,
    work: Work,
    plan: Arc<Plan>,
    /// Time of each node, while it is wanted.
    profile: Option<Vec<u64>>,
}

/// Buffers that live from step to step.
#[derive(Default)]
struct Work {
    values: Vec<Vec<f32>>,
    /// Buffers that hold no value at the moment: the plan gives each value a slot, and values in one slot take turns.
    free: Vec<Vec<f32>>,
    /// Whether the tap wants the node's value.
    wanted: Vec<bool>,
    /// Whether it wants each op computed by itself.
    alone: bool,
    rounded: Rounded,
    /// What `rounded` holds.
    rounded_of: Option<RoundedOf>,
    /// Rows by the experts that they chose.
    experts: Experts,
    /// Which tokens of the step each item of attention has: [`attention::divide`].
    item_bounds: Vec<usize>,
    /// Partial results of attention.
    partials: Vec<f32>,
    /// For each rope table `[tokens][pairs]`, or empty where this step has not needed it yet.
    angles: Vec<Vec<(f32, f32)>>,
}

/// A value that was rounded: all rows as they stand, or by the experts that were chosen for them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct RoundedOf {
    x: ValueId,
    chosen: Option<ValueId>,
    rounding: Rounding,
}

/// What one layer keeps.
enum CpuCache {
    F16(Layer<u16>),
    F32(Layer<f32>),
    State(States),
}

impl CpuCache {
    /// A zeroed cache, or `None` where memory is short.
    fn new(cache: &Cache, kv: KvType, blocks: &Blocks) -> Option<Self> {
        let n_blocks = blocks.of(cache.group());
        Some(match (cache, kv) {
            (Cache::Kv(spec), KvType::F16) => Self::F16(Layer::new(*spec, n_blocks)?),
            (Cache::Kv(spec), KvType::F32) => Self::F32(Layer::new(*spec, n_blocks)?),
            (Cache::State(spec), KvType::F16 | KvType::F32) => {
                Self::State(States::new(*spec, n_blocks)?)
            }
        })
    }
}

struct CpuKv {
    contents: Contents,
    /// By cache id.
    caches: Vec<CpuCache>,
}

/// A value that products read.
#[derive(Clone, Copy)]
struct Input<'a> {
    id: ValueId,
    data: &'a [f32],
}

/// A weight, and where its product goes.
struct Output<'a> {
    w: WeightId,
    out: &'a mut [f32],
}

fn no_memory(what: &str, bytes: usize) -> Error {
    Error::new(ErrorKind::OutOfMemory, format!("{what}: no memory for {bytes} bytes"))
}

impl LoadedCpu {
    pub(crate) fn new(
        cpu: Cpu,
        graph: Arc<Graph>,
        files: &[&gguf::File],
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut pool = Pool::new(cpu.threads);
        let workers = Workers { level: cpu.level, pool: &mut pool };
        let weights = Weights::load(&graph, files, options, workers, progress)?;
        // Products of one input go together if they want it rounded alike.
        let plan = Plan::new(&graph, |w: WeightId| weights.rounding(w));
        let plan = Arc::new(plan);
        Ok(Self {
            graph,
            weights,
            options,
            level: cpu.level,
            pool,
            work: Work::default(),
            plan,
            profile: None,
        })
    }

    fn rows_of(&self, id: ValueId, step: &Step) -> usize {
        step.rows(self.graph.value(id).rows)
    }

    /// The buffer of a value, with any contents.
    fn buffer(&mut self, id: ValueId, step: &Step) -> Vec<f32> {
        let mut buffer = std::mem::take(&mut self.work.free[self.plan.slots[id.0]]);
        buffer.resize(self.rows_of(id, step) * self.graph.value(id).cols, 0.0);
        buffer
    }

    /// Rows of a table, of tokens or of positions.
    fn get_rows(&mut self, table: WeightId, wanted: &[u32], out: &mut [f32]) {
        let (weight, weights) = (self.graph.weight(table), &self.weights);
        self.pool.rows(out, weight.n_in, |first, rows| {
            for (i, row) in rows.chunks_mut(weight.n_in).enumerate() {
                weights.decode_row(table, weight, wanted[first + i] as usize, row);
            }
        });
    }

    /// One product.
    fn mat_mul(&mut self, w: WeightId, x: Input<'_>, out: &mut [f32]) {
        if self.weights.rounding(w).is_some() {
            return self.products(x, [Output { w, out }]);
        }
        let Weight { dtype, n_in, n_out, .. } = *self.graph.weight(w);
        let (level, x) = (self.level, x.data);
        let weight = match self.weights.tiled(w, n_in) {
            Some(tiles) => Source::Tiles(tiles),
            None => Source::Rows { dtype, bytes: self.weights.raw(w) },
        };
        let tokens = Steps { n: x.len() / n_in, step: mat_mul_f32::PASS };
        let matrix = Matrix { out, cols: n_out, step: mat_mul_f32::STEP };
        self.pool.grids([matrix], tokens, |_, out| {
            mat_mul_f32::with_workspace(|workspace| {
                level.run(MatMulF32 { weight, n_in, x, out, workspace });
            });
        });
    }

    /// Rounds `x` as a weight's format wants it, unless that was done for the node before.
    fn round(&mut self, w: WeightId, x: Input<'_>) {
        let Some(rounding) = self.weights.rounding(w) else { return };
        let wanted = Some(RoundedOf { x: x.id, chosen: None, rounding });
        if self.work.rounded_of != wanted {
            let n_in = self.graph.weight(w).n_in;
            let workers = Workers { level: self.level, pool: &mut self.pool };
            let x = Activations { x: x.data, n_in, counts: None };
            self.work.rounded.round(rounding, x, workers);
            self.work.rounded_of = wanted;
        }
    }

    /// Products of `x` with weights in tiles that round it alike.
    fn products<const N: usize>(&mut self, x: Input<'_>, outs: [Output<'_>; N]) {
        self.round(outs[0].w, x);
        let (graph, weights, level) = (&self.graph, &self.weights, self.level);
        let mut products = [None; N];
        for (product, &Output { w, .. }) in products.iter_mut().zip(&outs) {
            *product = weights.tiled(w, graph.weight(w).n_in).map(Product::Plain);
        }
        let rows = self.work.rounded.rows();
        let matrix =
            |Output { w, out }| Matrix { out, cols: graph.weight(w).n_out, step: 2 * LANES };
        self.pool.grids(
            outs.map(matrix),
            Steps { n: rows.tokens(), step: mat_mul::PASS },
            |i, out| {
                let Some(product) = products[i] else { return };
                mat_mul::with_workspace(|workspace| {
                    level.run(MatMul { product, rows, out, workspace })
                });
            },
        );
    }

    /// `act(gate · x) · (up · x)` in one pass over two weights of one format.
    fn glu(&mut self, act: Act, gate: WeightId, up: WeightId, x: Input<'_>, out: &mut [f32]) {
        self.round(gate, x);
        let Weight { n_in, n_out, .. } = *self.graph.weight(gate);
        let (weights, level, rows) = (&self.weights, self.level, self.work.rounded.rows());
        let (Some(gate), Some(up)) = (weights.tiled(gate, n_in), weights.tiled(up, n_in)) else {
            return;
        };
        let product = Product::Glu { act, gate, up };
        let tokens = Steps { n: rows.tokens(), step: mat_mul::PASS };
        let matrix = Matrix { out, cols: n_out, step: LANES };
        self.pool.grids([matrix], tokens, |_, out| {
            mat_mul::with_workspace(|workspace| {
                level.run(MatMul { product, rows, out, workspace })
            });
        });
    }

    fn elementwise(&mut self, map: Map, a: &[f32], b: &[f32], cols: usize, out: &mut [f32]) {
        let level = self.level;
        self.pool.rows(out, cols, |first, out| {
            let range = first * cols..first * cols + out.len();
            level.run(Elementwise { map, a: &a[range.clone()], b: &b[range], out });
        });
    }

    fn rms_norm(&mut self, w: WeightId, eps: f32, x: &[f32], cols: usize, out: &mut [f32]) {
        let level = self.level;
        let w = self.weights.vector(w);
        self.pool.rows(out, cols, |first, out| {
            level.run(RmsNorm { x: &x[first * cols..][..out.len()], w, eps, out });
        });
    }

    fn layer_norm(&mut self, norm: &graph::LayerNorm, x: &[f32], cols: usize, out: &mut [f32]) {
        let (level, weights) = (self.level, &self.weights);
        let graph::LayerNorm { group, eps, .. } = *norm;
        let [w, b] = [norm.w, norm.b].map(|id| id.map(|id| weights.vector(id)));
        let affine = Affine { w, b };
        self.pool.rows(out, cols, |first, out| {
            let x = &x[first * cols..][..out.len()];
            level.run(LayerNorm { x, affine, group, eps, out });
        });
    }

    fn add_bias(&mut self, b: WeightId, x: &[f32], out: &mut [f32]) {
        let level = self.level;
        let bias = self.weights.vector(b);
        let cols = bias.len();
        self.pool.rows(out, cols, |first, out| {
            for (i, out) in out.chunks_mut(cols).enumerate() {
                let a = &x[(first + i) * cols..][..cols];
                level.run(Elementwise { map: Map::Add, a, b: bias, out });
            }
        });
    }

    fn rope(&mut self, op: &Op, step: &Step, cols: usize, out: &mut [f32]) {
        let Op::Rope { table, head_dim, pairs } = *op else { return };
        let rope_table = &self.graph.rope_tables[table];
        let n = rope_table.freqs.len();
        self.work.angles.resize(self.graph.rope_tables.len(), Vec::new());
        let angles = &mut self.work.angles[table];
        if angles.is_empty() && n > 0 {
            angles.resize(step.tokens.len() * n, (0.0, 0.0));
            self.pool.rows(angles, n, |first, rows| {
                for (i, row) in rows.chunks_mut(n).enumerate() {
                    let position = step.positions[first + i];
                    let freqs = rope_table.freqs_of(step, first + i);
                    let mscale = rope_table.mscale_at(position);
                    for (angle, &freq) in row.iter_mut().zip(freqs) {
                        *angle = graph::math::rope_angle(position, freq, mscale);
                    }
                }
            });
        }
        let (level, angles) = (self.level, &self.work.angles[table]);
        self.pool.rows(out, cols, |first, rows| {
            for (i, row) in rows.chunks_mut(cols).enumerate() {
                level.run(Rope { row, head_dim, pairs, angles: &angles[(first + i) * n..][..n] });
            }
        });
    }

    fn attention<E: Elem>(
        &mut self,
        attention: &Attention,
        layer: &Layer<E>,
        step: &Step,
        q: &[f32],
        out: &mut [f32],
    ) {
        let kv = self.graph.kv(attention.cache);
        let sinks = attention.sinks.map(|sinks| self.weights.vector(sinks));
        let bounds = &mut self.work.item_bounds;
        attention::divide(step, attention, kv, self.pool.threads(), bounds);
        let items = Items { attention, kv, step, q, sinks, bounds };
        let workers = Workers { level: self.level, pool: &mut self.pool };
        items.run(layer, workers, &mut self.work.partials, out);
    }

    fn ssm_conv(
        &mut self,
        w: WeightId,
        states: &mut States,
        step: &Step,
        x: &[f32],
        out: &mut [f32],
    ) {
        let (level, cols, w) = (self.level, self.graph.weight(w).n_out, self.weights.vector(w));
        for span in step.spans() {
            let own = span.tokens.start * cols..span.tokens.end * cols;
            let state = states.of(step, &span);
            let rows = Rows { state, x: &x[own.clone()], cols };
            self.pool.rows(&mut out[own], cols, |first, out| {
                level.run(SsmConv { w, rows, first, out });
            });
            let next = rows.next_state();
            state.copy_from_slice(&next);
        }
    }

    /// Computes node `i`, and those that share its job.
    fn node(&mut self, i: usize, step: &Step, values: &mut [Vec<f32>], kv: &mut [CpuCache]) {
        let graph = Arc::clone(&self.graph);
        let node = &graph.nodes[i];
        if let (Op::StoreKv { cache }, [k, v]) = (&node.op, node.inputs.as_slice()) {
            let (k, v) = (values[k.0].as_slice(), values[v.0].as_slice());
            let workers = Workers { level: self.level, pool: &mut self.pool };
            match &mut kv[cache.0] {
                CpuCache::F16(layer) => layer.store(step, k, v, workers),
                CpuCache::F32(layer) => layer.store(step, k, v, workers),
                CpuCache::State(_) => unreachable!("the builder stores no keys in a state"),
            }
        }
        let Some(id) = node.output else { return };
        let plan = Arc::clone(&self.plan);
        let x = node.inputs.first().copied().unwrap_or(id);
        let job = if self.work.alone { &Job::Alone } else { &plan.jobs[i] };
        if self.work.alone {
            self.work.rounded_of = None;
            self.work.experts.forget();
        }
        match job {
            Job::Done => {}
            Job::Products(all) => self.together(all, x, step, values),
            Job::Glu { products, .. } if self.seen(products) => {
                self.together(products, x, step, values);
            }
            Job::Glu { act, products: [gate, up], out: id, .. } => {
                let mut out = self.buffer(*id, step);
                let x = Input { id: x, data: &values[x.0] };
                self.glu(*act, gate.w, up.w, x, &mut out);
                values[id.0] = out;
            }
            Job::GluOf { products } if !self.seen(products) => {}
            Job::GluOf { .. } | Job::Alone => {
                let mut out = self.buffer(id, step);
                self.compute(node, step, values, kv, &mut out);
                values[id.0] = out;
            }
        }
    }

    /// Whether the tap wants to see one of these.
    fn seen(&self, products: &[plan::Product]) -> bool {
        products.iter().any(|product| self.work.wanted[product.node])
    }

    /// Computes two or three products of one value.
    fn together(
        &mut self,
        all: &[plan::Product],
        x: ValueId,
        step: &Step,
        values: &mut [Vec<f32>],
    ) {
        let mut outs: [Vec<f32>; plan::MAX_PRODUCTS] = Default::default();
        for (out, product) in outs.iter_mut().zip(all) {
            *out = self.buffer(product.out, step);
        }
        let input = Input { id: x, data: values[x.0].as_slice() };
        let output = |product: &plan::Product, out| Output { w: product.w, out };
        match (&mut outs, all) {
            ([a, b, _], [pa, pb]) => self.products(input, [output(pa, a), output(pb, b)]),
            ([a, b, c], [pa, pb, pc]) => {
                self.products(input, [output(pa, a), output(pb, b), output(pc, c)]);
            }
            _ => unreachable!("a plan puts two or three products together"),
        }
        for (out, product) in outs.into_iter().zip(all) {
            values[product.out.0] = out;
        }
    }

    fn columns(&self, start: usize, from: ValueId, x: &[f32], cols: usize, out: &mut [f32]) {
        for (x, out) in x.chunks(self.graph.value(from).cols).zip(out.chunks_mut(cols)) {
            out.copy_from_slice(&x[start..start + cols]);
        }
    }

    /// Computes a node that has an output. `values` are the inputs' contents.
    fn compute(
        &mut self,
        node: &Node,
        step: &Step,
        values: &[Vec<f32>],
        kv: &mut [CpuCache],
        out: &mut [f32],
    ) {
        let input = |i: usize| values[node.inputs[i].0].as_slice();
        let graph = Arc::clone(&self.graph);
        let cols = node.output.map_or(0, |v| graph.value(v).cols);
        match &node.op {
            Op::Input => out.copy_from_slice(&step.inputs),
            Op::GetRows { table } => self.get_rows(*table, &step.tokens, out),
            Op::PositionRows { table } => self.get_rows(*table, &step.positions, out),
            Op::MatMul { w } => {
                let x = Input { id: node.inputs[0], data: input(0) };
                self.mat_mul(*w, x, out);
            }
            Op::Add => self.elementwise(Map::Add, input(0), input(1), cols, out),
            Op::Mul => self.elementwise(Map::Mul, input(0), input(1), cols, out),
            Op::AddBias { b } => self.add_bias(*b, input(0), out),
            Op::Scale { by } => self.elementwise(Map::Scale(*by), input(0), input(0), cols, out),
            Op::RmsNorm { w, eps } => self.rms_norm(*w, *eps, input(0), cols, out),
            Op::LayerNorm(norm) => self.layer_norm(norm, input(0), cols, out),
            Op::Rope { .. } => {
                out.copy_from_slice(input(0));
                self.rope(&node.op, step, cols, out);
            }
            Op::Unary(unary) => self.elementwise(Map::Unary(*unary), input(0), input(0), cols, out),
            Op::Glu { act } => self.elementwise(Map::Glu(*act), input(0), input(1), cols, out),
            Op::Route(route) => self.route(*route, node, values, out),
            Op::MatMulId { w } => self.mat_mul_id(*w, node, values, out),
            Op::AddId { b } => self.add_id(*b, input(0), input(1), out),
            Op::Weighted => self.weighted(input(0), input(1), out),
            Op::SumSlots { slots } => self.sum_slots(*slots, input(0), cols, out),
            Op::StoreKv { .. } => unreachable!("has no output; `store_kv` runs it"),
            Op::Attention(a) => match &kv[a.cache.0] {
                CpuCache::F16(layer) => self.attention(a, layer, step, input(0), out),
                CpuCache::F32(layer) => self.attention(a, layer, step, input(0), out),
                CpuCache::State(_) => unreachable!("the builder gives attention no state"),
            },
            Op::SsmConv { w, cache } => match &mut kv[cache.0] {
                CpuCache::State(states) => self.ssm_conv(*w, states, step, input(0), out),
                CpuCache::F16(_) | CpuCache::F32(_) => {
                    unreachable!("the builder gives a state's op no keys")
                }
            },
            Op::Columns { start } => self.columns(*start, node.inputs[0], input(0), cols, out),
            Op::HeadColumns { .. } | Op::JoinHeads { .. } => self.heads(node, values, out),
            Op::OutputRows => {
                for (&row, out) in step.outputs.iter().zip(out.chunks_mut(cols)) {
                    out.copy_from_slice(&input(0)[row as usize * cols..][..cols]);
                }
            }
            Op::Softcap { cap } => {
                self.elementwise(Map::Softcap(*cap), input(0), input(0), cols, out)
            }
        }
    }
}

impl Loaded for LoadedCpu {
    fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn kv_bytes(&self, blocks: &Blocks) -> usize {
        usize::try_from(self.graph.kv_bytes(self.options.kv, blocks)).unwrap_or(usize::MAX)
    }

    fn new_kv(&self, blocks: &Blocks) -> Result<Kv> {
        let cache = |cache: &Cache| CpuCache::new(cache, self.options.kv, blocks);
        let caches: Option<_> = self.graph.caches.iter().map(cache).collect();
        let caches = caches.ok_or_else(|| no_memory("KV cache", self.kv_bytes(blocks)))?;
        Ok(Kv(Box::new(CpuKv { contents: Contents::new(blocks), caches })))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let kv: &mut CpuKv = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by `cpu`")
        })?;
        let graph = Arc::clone(&self.graph);
        kv.contents.begin(&graph, step)?;
        let mut values = std::mem::take(&mut self.work.values);
        values.resize(graph.values.len(), Vec::new());
        self.work.free.resize(self.plan.n_slots, Vec::new());
        self.work.rounded_of = None;
        self.work.experts.forget();
        self.work.angles.iter_mut().for_each(Vec::clear);
        self.work.alone = tap.isolates();
        self.work.wanted.clear();
        self.work.wanted.extend(
            graph.nodes.iter().map(|n| n.output.is_some_and(|v| tap.wants(n, graph.value(v)))),
        );
        for (i, node) in graph.nodes.iter().enumerate() {
            let start = self.profile.as_ref().map(|_| Instant::now());
            self.node(i, step, &mut values, &mut kv.caches);
            // Asked of the pool and not of the wish, which may be taken back: what was left out is what counts.
            if self.pool.was_stopped() {
                return Err(Stop::error());
            }
            if let (Some(start), Some(profile)) = (start, &mut self.profile) {
                profile[i] += start.elapsed().as_nanos() as u64;
            }
            if let Some(id) = node.output
                && self.work.wanted[i]
            {
                tap.value(node, graph.value(id), &mut values[id.0]);
                graph.value(id).check(&values[id.0])?;
            }
            for dead in &self.plan.dead_after[i] {
                // A value that a fused job did not need to write has no buffer to give back.
                if !values[dead.0].is_empty() {
                    self.work.free[self.plan.slots[dead.0]] = std::mem::take(&mut values[dead.0]);
                }
            }
        }
        kv.contents.done(&graph, step);
        let logits = values.pop().unwrap_or_default();
        self.work.values = values;
        Ok(logits)
    }

    fn stop_with(&mut self, stop: Stop) {
        self.pool.stop_with(stop);
    }

    fn profile(&mut self, on: bool) {
        self.profile = on.then(|| vec![0; self.graph.nodes.len()]);
    }

    fn timings(&self) -> Vec<Timing> {
        let Some(profile) = &self.profile else { return Vec::new() };
        let timing = |(node, job): (usize, &Job)| {
            let nodes = match job {
                Job::Alone => vec![node],
                Job::Products(all) => all.iter().map(|product| product.node).collect(),
                Job::Glu { products: [gate, up], node, .. } => vec![gate.node, up.node, *node],
                Job::GluOf { .. } | Job::Done => return None,
            };
            Some(Timing { ns: nodes.iter().map(|&node| profile[node]).sum(), nodes })
        };
        self.plan.jobs.iter().enumerate().filter_map(timing).collect()
    }
}
