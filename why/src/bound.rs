//! How far a right value may be from the reference: not at all for karat's own backends; for strangers what their order
//! of sums, their tables and their f16 steps explain, element by element.

use gguf::DType;
use graph::{Arithmetic, Graph, LoadOptions, Node, Op, Step};
use std::collections::HashMap;

/// What is demanded of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// The reference's bits: karat's own backends.
    Bits,
    /// The reference within a bound for each element: other engines.
    Rounding,
}

/// The unit roundoff of f32, doubled: bounds are generous by that.
const EPS: f32 = 1.2e-7;

/// Norms of weights' rows, found once.
pub(crate) struct Bounds<'a> {
    graph: &'a Graph,
    file: &'a gguf::File,
    options: LoadOptions,
    norms: HashMap<usize, Vec<f32>>,
}

impl<'a> Bounds<'a> {
    pub(crate) fn new(graph: &'a Graph, file: &'a gguf::File, options: LoadOptions) -> Self {
        Self { graph, file, options, norms: HashMap::new() }
    }

    /// The bound of each element of a node's value. By Cauchy and Schwarz `Σ|w·x| ≤ ‖w‖·‖x‖`, which needs one pass over
    /// a weight and not one for each token.
    pub(crate) fn of(
        &mut self,
        node: &Node,
        (inputs, step): (&[&[f32]], &Step),
        right: &[f32],
    ) -> graph::Result<Vec<f32>> {
        let cols = node.output.map_or(1, |v| self.graph.value(v).cols.max(1));
        let relative = |by: f32| right.iter().map(|r| r.abs() * by + f32::MIN_POSITIVE).collect();
        Ok(match &node.op {
            Op::Input | Op::OutputRows | Op::Columns { .. } => vec![0.0; right.len()],
            Op::GetRows { .. } | Op::Scale { .. } => relative(4.0 * EPS),
            Op::Add | Op::AddBias { .. } => relative(4.0 * EPS),
            // exp and tanh are tables or polynomials elsewhere; GELU is an f16 table in ggml.
            Op::Glu { act: graph::Act::Silu } => relative(64.0 * EPS),
            Op::Glu { act: graph::Act::GeluTanh } => {
                let up = inputs.get(1).copied().unwrap_or_default();
                right.iter().zip(up).map(|(r, u)| (r.abs() + u.abs()) * 2e-3).collect()
            }
            Op::Softcap { .. } => relative(64.0 * EPS),
            Op::RmsNorm { .. } => relative(64.0 * EPS),
            Op::Rope { .. } => rope(step, right, cols),
            // K and V are f16 there, and ggml adds up V in f16.
            Op::Attention(_) => by_row(right, cols, 1.0 / 64.0),
            Op::MatMul { w } => {
                let weight = self.graph.weight(*w);
                let int8 = self.options.arithmetic == Arithmetic::Int8
                    && !matches!(weight.dtype, DType::F32 | DType::F16 | DType::BF16);
                // Rounding to 8 bits may fall the other way at a tie.
                let by = if int8 { 2e-4 } else { EPS * 16.0 + EPS * (weight.n_in as f32).sqrt() };
                let x = inputs.first().copied().unwrap_or_default();
                let n_in = weight.n_in;
                let norms = self.norms(w.0)?;
                let mut bounds = Vec::with_capacity(right.len());
                for x in x.chunks(n_in) {
                    let norm = x.iter().map(|v| v * v).sum::<f32>().sqrt();
                    bounds.extend(norms.iter().map(|w| w * norm * by));
                }
                bounds
            }
            Op::StoreKv { .. } => Vec::new(),
        })
    }

    fn norms(&mut self, w: usize) -> graph::Result<&[f32]> {
        if !self.norms.contains_key(&w) {
            let weight = &self.graph.weights[w];
            let bytes = graph::backend::read_weight(self.file, weight)?;
            let mut row = vec![0.0; weight.n_in];
            let mut norms = Vec::with_capacity(weight.n_out);
            for bytes in bytes.chunks(weight.dtype.row_bytes(weight.n_in)) {
                weight.dtype.dequantize(bytes, &mut row);
                norms.push(row.iter().map(|v| v * v).sum::<f32>().sqrt());
            }
            self.norms.insert(w, norms);
        }
        Ok(self.norms.get(&w).map_or(&[], Vec::as_slice))
    }
}

/// A share of the largest element of the row.
fn by_row(right: &[f32], cols: usize, by: f32) -> Vec<f32> {
    let mut bounds = Vec::with_capacity(right.len());
    for row in right.chunks(cols) {
        let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        bounds.extend(std::iter::repeat_n(most * by, row.len()));
    }
    bounds
}

/// Angles are made by repeated products in f32 elsewhere: their error grows with the position.
fn rope(step: &Step, right: &[f32], cols: usize) -> Vec<f32> {
    let mut bounds = Vec::with_capacity(right.len());
    for (row, &position) in right.chunks(cols).zip(&step.positions) {
        let most = row.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let by = EPS * (32.0 + 4.0 * position as f32);
        bounds.extend(std::iter::repeat_n(most * by, row.len()));
    }
    bounds
}
