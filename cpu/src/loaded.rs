//! A graph with its weights in memory, and the loop over its nodes.

use crate::Cpu;
use crate::kernels::attention::{Head, Scratch};
use crate::kernels::elementwise::{Elementwise, Map};
use crate::kernels::mat_mul::{self, MatMul, Product};
use crate::kernels::mat_mul_f32::MatMulF32;
use crate::kernels::quantize_act::Acts;
use crate::kernels::rms_norm::RmsNorm;
use crate::kernels::rope::Rope;
use crate::kv::{Elem, Layer};
use crate::pool::Pool;
use crate::simd::{LANES, Level};
use crate::tiles::{Layout, pack_tile};
use graph::ints::ActFormat;
use graph::{
    Arithmetic, Attention, Error, ErrorKind, Graph, KV_BLOCK, Kv, KvType, LoadOptions, Loaded,
    Node, Op, Result, Rows, Step, Tap, Timing, ValueId, Weight, WeightId,
};
use std::sync::Arc;
use std::time::Instant;

/// One tensor as the kernels want it; an embedding that is also the output is held in two forms.
#[derive(Default)]
struct Resident {
    /// As in the file: rows to look up, weights of f32 products.
    raw: Vec<u8>,
    /// Repacked for `int8` products.
    tiles: Option<(Layout, Vec<u8>)>,
    /// In f32: norms and biases.
    vector: Vec<f32>,
}

/// What a tensor is used for.
#[derive(Clone, Copy, Default)]
struct Uses {
    lookup: bool,
    product: bool,
    vector: bool,
}

pub(crate) struct LoadedCpu {
    graph: Arc<Graph>,
    weights: Vec<Resident>,
    options: LoadOptions,
    level: Level,
    pool: Pool,
    work: Work,
    /// For each node the values that no later node reads.
    dead_after: Vec<Vec<ValueId>>,
    /// Time of each node, while it is wanted.
    profile: Option<Vec<u64>>,
}

/// Buffers that live from step to step.
#[derive(Default)]
struct Work {
    values: Vec<Vec<f32>>,
    free: Vec<Vec<f32>>,
    acts: Acts,
    /// What `acts` holds.
    acts_of: Option<(ValueId, ActFormat)>,
    /// For each rope table `[tokens][pairs]`, or empty where this step has not needed it yet.
    angles: Vec<Vec<(f32, f32)>>,
}

/// The cache of all layers.
enum CpuKv {
    F16(Vec<Layer<u16>>),
    F32(Vec<Layer<f32>>),
}

struct SizedKv {
    n_blocks: usize,
    kv: CpuKv,
}

fn no_memory(what: &str, bytes: usize) -> Error {
    Error::new(ErrorKind::OutOfMemory, format!("{what}: no memory for {bytes} bytes"))
}

fn zeroed(what: &str, bytes: usize) -> Result<Vec<u8>> {
    let mut v = Vec::new();
    v.try_reserve_exact(bytes).map_err(|_| no_memory(what, bytes))?;
    v.resize(bytes, 0);
    Ok(v)
}

impl LoadedCpu {
    pub(crate) fn new(
        cpu: Cpu,
        graph: Arc<Graph>,
        file: &gguf::File,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self> {
        let mut uses = vec![Uses::default(); graph.weights.len()];
        for node in &graph.nodes {
            match &node.op {
                Op::GetRows { table } => uses[table.0].lookup = true,
                Op::MatMul { w } => uses[w.0].product = true,
                Op::AddBias { b: w } | Op::RmsNorm { w, .. } => uses[w.0].vector = true,
                Op::Add
                | Op::Scale { .. }
                | Op::Rope { .. }
                | Op::Glu { .. }
                | Op::StoreKv { .. }
                | Op::Attention(_)
                | Op::Columns { .. }
                | Op::OutputRows
                | Op::Softcap { .. } => {}
            }
        }
        let mut pool = Pool::new(cpu.threads);
        let mut weights = Vec::with_capacity(uses.len());
        let mut read = 0;
        for (weight, uses) in graph.weights.iter().zip(uses) {
            let bytes = graph::backend::read_weight(file, weight)?;
            read += bytes.len() as u64;
            weights.push(resident(weight, uses, bytes, options, (cpu.level, &mut pool))?);
            progress(read);
        }
        let dead_after = dead_after(&graph);
        Ok(Self {
            graph,
            weights,
            options,
            level: cpu.level,
            pool,
            work: Work::default(),
            dead_after,
            profile: None,
        })
    }

    fn rows_of(&self, id: ValueId, step: &Step) -> usize {
        match self.graph.value(id).rows {
            Rows::Tokens => step.tokens.len(),
            Rows::Outputs => step.outputs.len(),
        }
    }

    /// A buffer of `n` elements with any contents.
    fn buffer(&mut self, n: usize) -> Vec<f32> {
        let mut buffer = self.work.free.pop().unwrap_or_default();
        buffer.resize(n, 0.0);
        buffer
    }

    fn get_rows(&mut self, table: WeightId, tokens: &[u32], out: &mut [f32]) {
        let weight = self.graph.weight(table);
        let raw = &self.weights[table.0].raw;
        let row_bytes = weight.dtype.row_bytes(weight.n_in);
        self.pool.rows(out, weight.n_in, |first, rows| {
            for (i, row) in rows.chunks_mut(weight.n_in).enumerate() {
                let at = tokens[first + i] as usize * row_bytes;
                weight.dtype.dequantize(&raw[at..at + row_bytes], row);
            }
        });
    }

    fn mat_mul(&mut self, w: WeightId, x_id: ValueId, x: &[f32], out: &mut [f32]) {
        let graph = Arc::clone(&self.graph);
        let Weight { dtype, n_in, n_out, .. } = *graph.weight(w);
        let level = self.level;
        let resident = &self.weights[w.0];
        let Some((layout, tiles)) = &resident.tiles else {
            out.fill(0.0);
            self.pool.columns(out, n_out, LANES, |out| {
                level.run(MatMulF32 { dtype, rows: &resident.raw, n_in, x, out });
            });
            return;
        };
        let wanted = (x_id, layout.form.act);
        if self.work.acts_of != Some(wanted) {
            self.work.acts.quantize(layout.form.act, x, n_in, (level, &mut self.pool));
            self.work.acts_of = Some(wanted);
        }
        let acts = &self.work.acts;
        let product = Product::Plain(mat_mul::Weight { layout, tiles, n_in });
        self.pool.grids(
            [(out, n_out, product.width())],
            (acts.tokens(), mat_mul::PASS),
            |_, out| mat_mul::with_room(|room| level.run(MatMul { product, acts, out, room })),
        );
    }

    fn elementwise(&mut self, map: Map, (a, b): (&[f32], &[f32]), cols: usize, out: &mut [f32]) {
        let level = self.level;
        self.pool.rows(out, cols, |first, out| {
            let range = first * cols..first * cols + out.len();
            level.run(Elementwise { map, a: &a[range.clone()], b: &b[range], out });
        });
    }

    fn rms_norm(&mut self, w: WeightId, eps: f32, x: &[f32], cols: usize, out: &mut [f32]) {
        let level = self.level;
        let w = &self.weights[w.0].vector;
        self.pool.rows(out, cols, |first, out| {
            level.run(RmsNorm { x: &x[first * cols..][..out.len()], w, eps, out });
        });
    }

    fn add_bias(&mut self, b: WeightId, x: &[f32], out: &mut [f32]) {
        let level = self.level;
        let bias = &self.weights[b.0].vector;
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
                    for (angle, &freq) in row.iter_mut().zip(&rope_table.freqs) {
                        *angle = graph::math::rope_angle(position, freq, rope_table.mscale);
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
        layers: &[Layer<E>],
        (step, q): (&Step, &[f32]),
        out: &mut [f32],
    ) {
        let spec = self.graph.kv_layers[attention.kv_layer];
        let layer = &layers[attention.kv_layer];
        let (dk, dv, n_head, level) =
            (spec.head_dim_k, spec.head_dim_v, attention.n_head, self.level);
        self.pool.rows(out, dv, |first, out| {
            let mut scratch = Scratch::default();
            for (i, out) in out.chunks_mut(dv).enumerate() {
                let (t, h) = ((first + i) / n_head, (first + i) % n_head);
                level.run(Head {
                    attention,
                    layer,
                    head_kv: h / (n_head / spec.n_head_kv),
                    table: &step.tables[step.seqs[t] as usize],
                    position: step.positions[t],
                    q: &q[(first + i) * dk..][..dk],
                    out,
                    scratch: &mut scratch,
                });
            }
        });
    }

    /// Computes a node that has an output. `values` are the inputs' contents.
    fn compute(
        &mut self,
        node: &Node,
        step: &Step,
        values: &[Vec<f32>],
        kv: &CpuKv,
        out: &mut [f32],
    ) {
        let input = |i: usize| values[node.inputs[i].0].as_slice();
        let graph = Arc::clone(&self.graph);
        let cols = node.output.map_or(0, |v| graph.value(v).cols);
        match &node.op {
            Op::GetRows { table } => self.get_rows(*table, &step.tokens, out),
            Op::MatMul { w } => self.mat_mul(*w, node.inputs[0], input(0), out),
            Op::Add => self.elementwise(Map::Add, (input(0), input(1)), cols, out),
            Op::AddBias { b } => self.add_bias(*b, input(0), out),
            Op::Scale { by } => self.elementwise(Map::Scale(*by), (input(0), input(0)), cols, out),
            Op::RmsNorm { w, eps } => self.rms_norm(*w, *eps, input(0), cols, out),
            Op::Rope { .. } => {
                out.copy_from_slice(input(0));
                self.rope(&node.op, step, cols, out);
            }
            Op::Glu { act } => self.elementwise(Map::Glu(*act), (input(0), input(1)), cols, out),
            Op::StoreKv { .. } => unreachable!("has no output; `store_kv` runs it"),
            Op::Attention(a) => match kv {
                CpuKv::F16(layers) => self.attention(a, layers, (step, input(0)), out),
                CpuKv::F32(layers) => self.attention(a, layers, (step, input(0)), out),
            },
            Op::Columns { start } => {
                let from = graph.value(node.inputs[0]).cols;
                for (x, out) in input(0).chunks(from).zip(out.chunks_mut(cols)) {
                    out.copy_from_slice(&x[*start..*start + cols]);
                }
            }
            Op::OutputRows => {
                for (&row, out) in step.outputs.iter().zip(out.chunks_mut(cols)) {
                    out.copy_from_slice(&input(0)[row as usize * cols..][..cols]);
                }
            }
            Op::Softcap { cap } => {
                self.elementwise(Map::Softcap(*cap), (input(0), input(0)), cols, out)
            }
        }
    }
}

/// Stores k and v of the step's tokens.
fn store<E: Elem>(layer: &mut Layer<E>, step: &Step, k: &[f32], v: &[f32]) {
    let n = step.tokens.len();
    let (k_cols, v_cols) = (k.len() / n, v.len() / n);
    for t in 0..n {
        let position = step.positions[t] as usize;
        let block = step.tables[step.seqs[t] as usize][position / KV_BLOCK] as usize;
        let (k, v) = (&k[t * k_cols..][..k_cols], &v[t * v_cols..][..v_cols]);
        layer.store((block, position % KV_BLOCK), k, v);
    }
}

/// Brings one tensor into the forms that its uses want.
fn resident(
    weight: &Weight,
    uses: Uses,
    bytes: std::borrow::Cow<'_, [u8]>,
    options: LoadOptions,
    (level, pool): (Level, &mut Pool),
) -> Result<Resident> {
    let mut resident = Resident::default();
    if uses.vector {
        resident.vector = vec![0.0; weight.n_in];
        weight.dtype.dequantize(&bytes, &mut resident.vector);
    }
    let layout =
        Layout::of(weight.dtype).filter(|_| options.arithmetic == Arithmetic::Int8 && uses.product);
    if let Some(layout) = layout {
        let tile_bytes = layout.tile_bytes(weight.n_in);
        let n_tiles = weight.n_out.div_ceil(LANES);
        let mut tiles = zeroed(&weight.name, tile_bytes * n_tiles)?;
        let row_bytes = weight.dtype.row_bytes(weight.n_in);
        pool.rows(&mut tiles, tile_bytes, |first, out| {
            for (i, out) in out.chunks_mut(tile_bytes).enumerate() {
                let start = (first + i) * LANES;
                let end = weight.n_out.min(start + LANES);
                let rows: Vec<&[u8]> =
                    bytes[start * row_bytes..end * row_bytes].chunks(row_bytes).collect();
                pack_tile(weight.dtype, &layout, &rows, level.i8_bias(), out);
            }
        });
        resident.tiles = Some((layout, tiles));
    }
    if uses.lookup || (uses.product && resident.tiles.is_none()) {
        resident.raw = bytes.into_owned();
    }
    Ok(resident)
}

/// For each node the values whose last reader it is. The logits stay.
fn dead_after(graph: &Graph) -> Vec<Vec<ValueId>> {
    let mut last = vec![None; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for input in &node.inputs {
            last[input.0] = Some(i);
        }
    }
    let mut dead = vec![Vec::new(); graph.nodes.len()];
    for (v, last) in last.into_iter().enumerate() {
        if let Some(i) = last {
            dead[i].push(ValueId(v));
        }
    }
    dead
}

impl Loaded for LoadedCpu {
    fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn kv_bytes(&self, n_blocks: usize) -> usize {
        let width: usize =
            self.graph.kv_layers.iter().map(|l| l.n_head_kv * (l.head_dim_k + l.head_dim_v)).sum();
        let elem = match self.options.kv {
            KvType::F16 => 2,
            KvType::F32 => 4,
        };
        n_blocks.saturating_mul(KV_BLOCK).saturating_mul(width).saturating_mul(elem)
    }

    fn new_kv(&self, n_blocks: usize) -> Result<Kv> {
        fn layers<E: Elem>(graph: &Graph, n_blocks: usize) -> Option<Vec<Layer<E>>> {
            graph.kv_layers.iter().map(|&spec| Layer::new(spec, n_blocks)).collect()
        }
        let kv = match self.options.kv {
            KvType::F16 => layers(&self.graph, n_blocks).map(CpuKv::F16),
            KvType::F32 => layers(&self.graph, n_blocks).map(CpuKv::F32),
        };
        let kv = kv.ok_or_else(|| no_memory("KV cache", self.kv_bytes(n_blocks)))?;
        Ok(Kv(Box::new(SizedKv { n_blocks, kv })))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let kv: &mut SizedKv = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by `cpu`")
        })?;
        step.check(&self.graph, kv.n_blocks)?;
        let graph = Arc::clone(&self.graph);
        let mut values = std::mem::take(&mut self.work.values);
        values.resize(graph.values.len(), Vec::new());
        self.work.acts_of = None;
        self.work.angles.iter_mut().for_each(Vec::clear);
        for (i, node) in graph.nodes.iter().enumerate() {
            let start = self.profile.as_ref().map(|_| Instant::now());
            if let (Op::StoreKv { kv_layer }, [k, v]) = (&node.op, node.inputs.as_slice()) {
                let (k, v) = (&values[k.0], &values[v.0]);
                match &mut kv.kv {
                    CpuKv::F16(layers) => store(&mut layers[*kv_layer], step, k, v),
                    CpuKv::F32(layers) => store(&mut layers[*kv_layer], step, k, v),
                }
            }
            if let Some(id) = node.output {
                let value = graph.value(id);
                let mut out = self.buffer(self.rows_of(id, step) * value.cols);
                self.compute(node, step, &values, &kv.kv, &mut out);
                if tap.wants(node, value) {
                    tap.value(node, value, &mut out);
                }
                values[id.0] = out;
            }
            if let (Some(start), Some(profile)) = (start, &mut self.profile) {
                profile[i] += start.elapsed().as_nanos() as u64;
            }
            for dead in &self.dead_after[i] {
                self.work.free.push(std::mem::take(&mut values[dead.0]));
            }
        }
        let logits = values.pop().unwrap_or_default();
        self.work.values = values;
        Ok(logits)
    }

    fn profile(&mut self, on: bool) {
        self.profile = on.then(|| vec![0; self.graph.nodes.len()]);
    }

    fn timings(&self) -> Vec<Timing> {
        let times = self.profile.iter().flatten().enumerate();
        times.map(|(node, &ns)| Timing { nodes: vec![node], ns }).collect()
    }
}
