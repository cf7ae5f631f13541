//! The executable definition: plain loops over the file's own bytes, no SIMD, no threads. Slow and right.

use crate::ops::{attention, elementwise, mat_mul, rms_norm, rope};
use crate::{
    Backend, Error, ErrorKind, Graph, KV_BLOCK, Kv, KvType, LoadOptions, Loaded, Node, Op, Result,
    Step, Tap, ValueId, WeightId, math,
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
        file: &gguf::File,
        options: LoadOptions,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Box<dyn Loaded>> {
        let mut weights = Vec::with_capacity(graph.weights.len());
        let mut read = 0;
        for weight in &graph.weights {
            let bytes = crate::backend::read_weight(file, weight)?.into_owned();
            read += bytes.len() as u64;
            progress(read);
            weights.push(bytes);
        }
        Ok(Box::new(LoadedReference { graph, weights, options }))
    }
}

struct LoadedReference {
    graph: Arc<Graph>,
    weights: Vec<Vec<u8>>,
    options: LoadOptions,
}

/// For each layer K and V: `[block][place][n_head_kv · head_dim]`, in f32 after rounding to the cache's type.
struct RefKv {
    n_blocks: usize,
    layers: Vec<[Vec<f32>; 2]>,
}

impl LoadedReference {
    fn vector(&self, id: WeightId) -> Vec<f32> {
        let weight = self.graph.weight(id);
        let mut out = vec![0.0; weight.n_in];
        weight.dtype.dequantize(&self.weights[id.0], &mut out);
        out
    }

    fn get_rows(&self, table: WeightId, tokens: &[u32], out: &mut [f32]) {
        let weight = self.graph.weight(table);
        let row_bytes = weight.dtype.row_bytes(weight.n_in);
        for (&id, out) in tokens.iter().zip(out.chunks_mut(weight.n_in)) {
            weight
                .dtype
                .dequantize(&self.weights[table.0][id as usize * row_bytes..][..row_bytes], out);
        }
    }

    fn store_kv(&self, layer: usize, step: &Step, kv: &mut RefKv, kv_rows: [&[f32]; 2]) {
        let spec = self.graph.kv_layers[layer];
        for (which, dim) in [spec.head_dim_k, spec.head_dim_v].into_iter().enumerate() {
            let width = spec.n_head_kv * dim;
            for (t, row) in kv_rows[which].chunks(width).enumerate() {
                let at = slot(step, step.seqs[t], step.positions[t]) * width;
                for (dst, &v) in kv.layers[layer][which][at..at + width].iter_mut().zip(row) {
                    *dst = match self.options.kv {
                        KvType::F16 => math::round_f16(v),
                        KvType::F32 => v,
                    };
                }
            }
        }
    }

    fn attention(&self, a: &crate::Attention, step: &Step, kv: &RefKv, q: &[f32], out: &mut [f32]) {
        let spec = self.graph.kv_layers[a.kv_layer];
        let [k, v] = &kv.layers[a.kv_layer];
        let (dk, dv) = (spec.head_dim_k, spec.head_dim_v);
        for (t, (q, out)) in q.chunks(a.n_head * dk).zip(out.chunks_mut(a.n_head * dv)).enumerate()
        {
            for (h, (q, out)) in q.chunks(dk).zip(out.chunks_mut(dv)).enumerate() {
                let h_kv = h / (a.n_head / spec.n_head_kv);
                let at = |p: u32, dim: usize| {
                    (slot(step, step.seqs[t], p) * spec.n_head_kv + h_kv) * dim
                };
                let key = |p: u32| &k[at(p, dk)..][..dk];
                let value = |p: u32| &v[at(p, dv)..][..dv];
                out.copy_from_slice(&attention::head(a, q, step.positions[t], key, value));
            }
        }
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
        let cols = |v: ValueId| self.graph.value(v).cols;
        match &node.op {
            Op::Input => out.copy_from_slice(&step.inputs),
            Op::GetRows { table } => self.get_rows(*table, &step.tokens, out),
            Op::MatMul { w } => {
                let (weight, bytes) = (self.graph.weight(*w), &self.weights[w.0]);
                mat_mul::mat_mul(self.options.arithmetic, weight, bytes, input(0), out);
            }
            Op::Add => elementwise::add(input(0), input(1), out),
            Op::AddBias { b } => {
                let bias = self.vector(*b);
                for (x, out) in input(0).chunks(bias.len()).zip(out.chunks_mut(bias.len())) {
                    elementwise::add(x, &bias, out);
                }
            }
            Op::Scale { by } => elementwise::scale(input(0), *by, out),
            Op::RmsNorm { w, eps } => rms_norm::rms_norm(input(0), &self.vector(*w), *eps, out),
            Op::Rope { table, head_dim, pairs } => {
                out.copy_from_slice(input(0));
                for (row, &p) in out.chunks_mut(cols(node.inputs[0])).zip(&step.positions) {
                    rope::rope(
                        row,
                        *head_dim,
                        *pairs,
                        &rope::angles(&self.graph.rope_tables[*table], p),
                    );
                }
            }
            Op::Glu { act } => elementwise::glu(*act, input(0), input(1), out),
            Op::StoreKv { kv_layer } => self.store_kv(*kv_layer, step, kv, [input(0), input(1)]),
            Op::Attention(a) => self.attention(a, step, kv, input(0), out),
            Op::Columns { start } => {
                let (from, to) = (cols(node.inputs[0]), node.output.map_or(0, cols));
                for (x, out) in input(0).chunks(from).zip(out.chunks_mut(to)) {
                    out.copy_from_slice(&x[*start..*start + to]);
                }
            }
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

/// Row of the cache that holds `position` of sequence `seq`.
fn slot(step: &Step, seq: u32, position: u32) -> usize {
    let p = position as usize;
    step.tables[seq as usize][p / KV_BLOCK] as usize * KV_BLOCK + p % KV_BLOCK
}

impl Loaded for LoadedReference {
    fn graph(&self) -> &Arc<Graph> {
        &self.graph
    }

    fn kv_bytes(&self, n_blocks: usize) -> usize {
        let width: usize =
            self.graph.kv_layers.iter().map(|l| l.n_head_kv * (l.head_dim_k + l.head_dim_v)).sum();
        n_blocks * KV_BLOCK * width * size_of::<f32>()
    }

    fn new_kv(&self, n_blocks: usize) -> Result<Kv> {
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
        let mut layers = Vec::new();
        for l in &self.graph.kv_layers {
            let rows = n_blocks * KV_BLOCK * l.n_head_kv;
            layers.push([zeros(rows * l.head_dim_k)?, zeros(rows * l.head_dim_v)?]);
        }
        Ok(Kv(Box::new(RefKv { n_blocks, layers })))
    }

    fn run(&mut self, step: &Step, kv: &mut Kv, tap: &mut dyn Tap) -> Result<Vec<f32>> {
        let kv: &mut RefKv = kv.0.downcast_mut().ok_or_else(|| {
            Error::new(ErrorKind::Step, "KV cache: made by another backend, not by `reference`")
        })?;
        step.check(&self.graph, kv.n_blocks)?;
        let graph = Arc::clone(&self.graph);
        let mut values: Vec<Vec<f32>> = vec![Vec::new(); graph.values.len()];
        for node in &graph.nodes {
            let Some(id) = node.output else {
                self.compute(node, step, &values, kv, &mut []);
                continue;
            };
            let value = graph.value(id);
            let rows = match value.rows {
                crate::Rows::Tokens => step.tokens.len(),
                crate::Rows::Outputs => step.outputs.len(),
            };
            let mut out = vec![0.0; rows * value.cols];
            self.compute(node, step, &values, kv, &mut out);
            if tap.wants(node, value) {
                tap.value(node, value, &mut out);
            }
            values[id.0] = out;
        }
        Ok(values.pop().unwrap_or_default())
    }
}
