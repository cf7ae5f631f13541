//! Products, and the quantisation of their activations.

use super::{Bound, Kernel, Planner, Quantized, output_of};
use crate::dispatch::{ANY, Dispatch, Grid};
use crate::layout::{Layout, quantized_words, rounding_of};
use crate::params;
use crate::shaders::{self, QuantizeOf, Shader};
use crate::weights::Piece;
use gguf::DType;
use graph::ints::Rounding;
use graph::{Act, Attention, Node, Op, Result, Rows, ValueId};
use std::ops::RangeInclusive;

/// Steps of up to this many rows use the kernels that split a row of weights over lanes; a weight is read again for each
/// row of activations.
const FEW: usize = 4;
/// Steps of at least this many rows use the matrix unit, where there is one.
const MATRIX_FROM: usize = 9;
/// This many workgroups keep every device busy, whatever their size. `karat check` tests both sides of it.
const MANY_WORKGROUPS: usize = graph::selftest::MANY_ROWS / 32;

/// What is quantised: a value that is there, or one that the same kernel computes first.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    Value,
    Glu {
        act: Act,
        inputs: &'a [ValueId],
    },
    /// The partial results of attention in a step of one token.
    Partials(&'a Attention),
}

/// A product, or several of the same activations.
struct Product<'a> {
    dtype: DType,
    n_in: usize,
    /// The rows of activations.
    rows: Rows,
    x: Bound<'a>,
    outs: Vec<Bound<'a>>,
    /// For each product where its rows of weights end.
    ends: Vec<usize>,
}

impl<'a> Planner<'a> {
    /// Quantises a value for the products that follow, in steps with `for_rows` rows.
    pub(super) fn quantize(
        &mut self,
        value: ValueId,
        rounding: Rounding,
        source: Source<'_>,
        for_rows: RangeInclusive<usize>,
    ) -> Result<Vec<Dispatch>> {
        let (n, rows) = (self.graph.value(value).cols, self.graph.value(value).rows);
        let row_words = quantized_words(rounding, n) as u32;
        let plain = params::Quantize { n: n as u32, row_words };
        let written = [self.value(value), self.quantized_rows(rounding, n)];
        let kernel = match source {
            Source::Value => {
                let shader = shaders::quantize(rounding, QuantizeOf::Value);
                Kernel::new(shader, written.to_vec(), &plain, rows)
            }
            Source::Glu { act, inputs } => {
                let inputs = inputs.iter().map(|&id| self.value(id));
                let bound = inputs.chain(written).collect();
                let shader = shaders::quantize(rounding, QuantizeOf::Glu(act));
                Kernel::new(shader, bound, &plain, rows)
            }
            Source::Partials(a) => {
                let read = [self.partials(), self.step()].into_iter().chain(self.sinks(a)?);
                let bound = read.chain(written).collect();
                let merge = self.merge_params(a);
                let params = params::QuantizeMerge {
                    n: n as u32,
                    row_words,
                    dim_v: merge.dim_v,
                    positions_at: merge.positions_at,
                    window: merge.window,
                    max_chunks: merge.max_chunks,
                };
                let shader =
                    shaders::quantize(rounding, QuantizeOf::Merge { sinks: a.sinks.is_some() });
                Kernel::new(shader, bound, &params, rows)
            }
        };
        let grid = Grid { for_rows, ..Grid::each_row(n.div_ceil(256)) };
        let all = self.dispatches(&kernel.over(grid))?;
        self.quantized = Some(Quantized { value, rounding });
        Ok(all)
    }

    /// Rows of `n` quantised elements in the workspace.
    pub(super) fn quantized_rows(&self, rounding: Rounding, n: usize) -> Bound<'a> {
        Bound::Rows { buffer: &self.buffers.quantized, words: quantized_words(rounding, n) }
    }

    /// A gated activation that is quantised as it is computed, and the product at node `product`.
    pub(super) fn glu_quantize(
        &mut self,
        act: Act,
        glu: &Node,
        product: usize,
    ) -> Result<Vec<Dispatch>> {
        let rounding = self.chain_rounding_at(product);
        let source = Source::Glu { act, inputs: &glu.inputs };
        let mut all = self.quantize(output_of(glu), rounding, source, ANY)?;
        all.extend(self.mat_mul(product)?);
        Ok(all)
    }

    /// The product at a node with the other products of its activations, if it is the first of them; the others are done
    /// by then.
    pub(super) fn mat_mul(&mut self, at: usize) -> Result<Vec<Dispatch>> {
        let (graph, alone) = (self.graph, [at]);
        let together = self.model.fusions.products_with(at).unwrap_or(&alone);
        if together[0] != at {
            return Ok(Vec::new());
        }
        let node = &graph.nodes[at];
        let Op::MatMul { w } = node.op else { unreachable!("no product: {:?}", node.op) };
        let (weight, x) = (graph.weight(w), node.inputs[0]);
        let rounding = rounding_of(graph, self.model.options, w);
        let mut all = Vec::new();
        if let Some(rounding) = rounding
            && self.quantized != Some(Quantized { value: x, rounding })
        {
            all.extend(self.quantize(x, rounding, Source::Value, ANY)?);
        }
        let outs: Vec<ValueId> = together.iter().map(|&i| output_of(&graph.nodes[i])).collect();
        let mut ends: Vec<usize> = Vec::new();
        for out in &outs {
            ends.push(ends.last().unwrap_or(&0) + graph.value(*out).cols);
        }
        let product = Product {
            dtype: weight.dtype,
            n_in: weight.n_in,
            rows: graph.value(x).rows,
            x: rounding.map_or_else(
                || self.value(x),
                |rounding| self.quantized_rows(rounding, weight.n_in),
            ),
            outs: outs.iter().map(|&out| self.value(out)).collect(),
            ends,
        };
        for piece in &self.model.weights[w.0].pieces {
            all.extend(match rounding {
                Some(rounding) => self.product_int(&product, rounding, piece)?,
                None => self.product_f32(&product, piece)?,
            });
        }
        Ok(all)
    }

    /// A product in f32 with some rows of the weights.
    fn product_f32(&self, product: &Product<'a>, piece: &'a Piece) -> Result<Vec<Dispatch>> {
        let params = params::MatMulF32 {
            n_in: product.n_in as u32,
            blocks: Layout::of(product.dtype).blocks(product.n_in) as u32,
            n_out: product.ends.last().map_or(0, |&n| n as u32),
            first: piece.first as u32,
            count: piece.count as u32,
        };
        let weights = Bound::Whole { buffer: &piece.buffer, bytes: piece.bytes };
        let bound: Vec<_> = [weights, product.x].iter().chain(&product.outs).copied().collect();
        let (dtype, tiles) = (product.dtype, piece.count.div_ceil(32));
        let kernels = [
            (shaders::mat_vec_f32(dtype), for_rows(tiles, 1, 1..=FEW)),
            (shaders::mat_mul_f32(dtype), for_rows(tiles, 32, FEW + 1..=usize::MAX)),
        ];
        let mut all = Vec::new();
        for (shader, grid) in kernels {
            let kernel = Kernel::new(shader, bound.clone(), &params, product.rows);
            all.extend(self.dispatches(&kernel.over(grid))?);
        }
        Ok(all)
    }

    /// Products of quantised activations with some rows of the weights.
    fn product_int(
        &self,
        product: &Product<'a>,
        rounding: Rounding,
        piece: &'a Piece,
    ) -> Result<Vec<Dispatch>> {
        // The kernel does not ask where products end that are not there.
        let end = |i: usize| product.ends.get(i).map_or(0, |&end| end as u32);
        let params = params::MatMulInt {
            n_in: product.n_in as u32,
            blocks: Layout::of(product.dtype).blocks(product.n_in) as u32,
            n_out: product.ends.last().map_or(0, |&n| n as u32),
            first: piece.first as u32,
            count: piece.count as u32,
            row_words: quantized_words(rounding, product.n_in) as u32,
            end0: end(0),
            end1: end(1),
        };
        let weights = Bound::Whole { buffer: &piece.buffer, bytes: piece.bytes };
        // Activations are bound twice, as words and as fours of words.
        let inputs = [weights, product.x, product.x];
        let bound: Vec<_> = inputs.iter().chain(&product.outs).copied().collect();
        let mut all = Vec::new();
        for (shader, grid) in self.int_kernels(product, rounding, piece.count) {
            let kernel = Kernel::new(shader, bound.clone(), &params, product.rows);
            all.extend(self.dispatches(&kernel.over(grid))?);
        }
        Ok(all)
    }

    /// The kernels of products with `count` rows of weights: for few rows of activations, for many, and for the matrix
    /// unit.
    fn int_kernels(
        &self,
        product: &Product<'_>,
        rounding: Rounding,
        count: usize,
    ) -> Vec<(Shader, Grid)> {
        let (dtype, outs, tiles) = (product.dtype, product.outs.len(), count.div_ceil(32));
        let few = (self.mat_vec(dtype, outs, rounding, tiles), for_rows(tiles, 1, 1..=FEW));
        let shader = match rounding {
            Rounding::Q8(_) => shaders::mat_mul_int8(dtype, outs),
            Rounding::Q16 => shaders::mat_mul_int16(dtype, outs),
        };
        let many = |most| (shader, for_rows(tiles, 64, FEW + 1..=most));
        let Some(matrix) = self.device.matrix else { return vec![few, many(usize::MAX)] };
        let (on_unit, tile) = match rounding {
            Rounding::Q8(_) => (shaders::mat_mul_coop(dtype, outs, matrix), matrix.tile()),
            Rounding::Q16 => (shaders::mat_mul_coop_int16(dtype, outs, matrix), matrix.tile()),
        };
        let (x, tokens) = (count.div_ceil(tile.rows() as usize), tile.tokens() as usize);
        vec![few, many(MATRIX_FROM - 1), (on_unit, for_rows(x, tokens, MATRIX_FROM..=usize::MAX))]
    }

    /// The kernel of products with few rows of activations, over `workgroups` of them.
    fn mat_vec(
        &self,
        dtype: DType,
        products: usize,
        rounding: Rounding,
        workgroups: usize,
    ) -> Shader {
        // Where there are few workgroups for each multiprocessor they are large.
        let [most, fewer] = shaders::MANY_LANES;
        let many = if workgroups < MANY_WORKGROUPS { most } else { fewer };
        let software = self.device.lanes == shaders::FEW_LANES;
        match rounding {
            Rounding::Q8(_) if software => shaders::mat_vec_int8(dtype, products),
            Rounding::Q8(_) => shaders::mat_vec_split(dtype, products, many),
            Rounding::Q16 if software => {
                shaders::mat_vec_int16(dtype, products, shaders::FEW_LANES)
            }
            Rounding::Q16 => shaders::mat_vec_int16(dtype, products, many),
        }
    }
}

/// `x` workgroups across, of which each takes `rows_each` rows, in steps with these rows.
fn for_rows(x: usize, rows_each: usize, for_rows: RangeInclusive<usize>) -> Grid {
    Grid { rows_each, for_rows, ..Grid::each_row(x) }
}
