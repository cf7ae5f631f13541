//! Layers of experts: the router, products with chosen matrices, and what joins their slots. Every slot is a product of its own
//! with the kernels for few rows.

use super::{Bound, Kernel, Planner, Quantized, output_of};
use crate::dispatch::{ANY, Depth, Dispatch, Grid};
use crate::layout::{Layout, quantized_words, rounding_of};
use crate::params;
use crate::planner::mat_mul::Source;
use crate::shaders::{self, Slots};
use graph::ints::Rounding;
use graph::{Node, Result, Route, ValueId, WeightId};

impl<'a> Planner<'a> {
    /// A step of a router.
    pub(super) fn route(&self, node: &Node, route: Route) -> Result<Vec<Dispatch>> {
        let out = output_of(node);
        let value = self.graph.value(out);
        let (at_least, groups, used) = match route {
            Route::Normalise { at_least } => (at_least, 0, 0),
            Route::TopGroups { groups, used } => (0.0, groups, used),
            Route::Softmax | Route::Sigmoid | Route::TopK | Route::Each | Route::Pick => {
                (0.0, 0, 0)
            }
        };
        let (groups, used) = (groups as u32, used as u32);
        let cols = self.graph.value(node.inputs[0]).cols as u32;
        let params = params::Route { cols, n: value.cols as u32, at_least, groups, used };
        let bound = node.inputs.iter().chain([&out]).map(|&id| self.value(id)).collect();
        self.dispatches(&Kernel::new(shaders::route(route), bound, &params, value.rows))
    }

    /// An op on the slots of a row; `third` is what it reads besides its inputs.
    pub(super) fn slots(
        &self,
        node: &Node,
        slots: Slots,
        third: Option<Bound<'a>>,
    ) -> Result<Vec<Dispatch>> {
        let out = output_of(node);
        let value = self.graph.value(out);
        let n_slots = match slots {
            Slots::AddId | Slots::Weighted => self.graph.value(node.inputs[1]).cols,
            Slots::Sum => self.graph.value(node.inputs[0]).cols / value.cols,
        };
        let n = if slots == Slots::Sum { value.cols } else { value.cols / n_slots };
        let params = params::Slots { cols: value.cols as u32, n: n as u32, slots: n_slots as u32 };
        let inputs = node.inputs.iter().map(|&id| self.value(id));
        let bound = inputs.chain(third).chain([self.value(out)]).collect();
        let kernel = Kernel::new(shaders::slots(slots), bound, &params, value.rows);
        self.dispatches(&kernel.each_row(value.cols.div_ceil(256)))
    }

    /// For each slot the product with the matrix that was chosen for it.
    pub(super) fn mat_mul_id(&mut self, node: &Node, w: WeightId) -> Result<Vec<Dispatch>> {
        let (graph, x) = (self.graph, node.inputs[0]);
        let (weight, value) = (graph.weight(w), graph.value(x));
        let (slots, x_slots) = (graph.value(node.inputs[1]).cols, value.cols / weight.n_in);
        let rounding = rounding_of(graph, self.model.options, w);
        let mut all = self.quantize_slots(x, rounding, x_slots)?;
        let grid = Grid { depth: Depth::Slots(slots), ..Grid::each_row(weight.n_out.div_ceil(32)) };
        let (n_in, n_out) = (weight.n_in as u32, weight.n_out as u32);
        let blocks = Layout::of(weight.dtype).blocks(weight.n_in) as u32;
        let (slots, x_slots) = (slots as u32, x_slots as u32);
        let results = [self.value(node.inputs[1]), self.value(output_of(node))];
        for piece in &self.model.weights[w.0].pieces {
            let (first, count) = (piece.first as u32, piece.count as u32);
            let weights = Bound::Whole { buffer: &piece.buffer, bytes: piece.bytes };
            let kernel = match rounding {
                Some(rounding) => {
                    let words = quantized_words(rounding, weight.n_in);
                    let acts = Bound::Rows {
                        buffer: &self.buffers.quantized,
                        words: words * x_slots as usize,
                    };
                    let row_words = words as u32;
                    let params = params::MatMulIntExperts {
                        n_in,
                        blocks,
                        n_out,
                        first,
                        count,
                        row_words,
                        slots,
                        x_slots,
                    };
                    let shader = match rounding {
                        Rounding::Q8(_) => shaders::mat_vec_int8_experts(weight.dtype),
                        Rounding::Q16 => shaders::mat_vec_int16_experts(weight.dtype),
                    };
                    let bound = [&[weights, acts, acts][..], &results].concat();
                    Kernel::new(shader, bound, &params, value.rows)
                }
                None => {
                    let params = params::MatMulF32Experts {
                        n_in,
                        blocks,
                        n_out,
                        first,
                        count,
                        slots,
                        x_slots,
                    };
                    let shader = shaders::mat_vec_f32_experts(weight.dtype);
                    let bound = [&[weights, self.value(x)][..], &results].concat();
                    Kernel::new(shader, bound, &params, value.rows)
                }
            };
            all.extend(self.dispatches(&kernel.over(grid.clone()))?);
        }
        Ok(all)
    }

    /// Quantises a value whose rows are `slots` rows each, unless the workspace holds it.
    fn quantize_slots(
        &mut self,
        x: ValueId,
        rounding: Option<Rounding>,
        slots: usize,
    ) -> Result<Vec<Dispatch>> {
        let Some(rounding) = rounding else { return Ok(Vec::new()) };
        if slots == 1 {
            let is_there = self.quantized == Some(Quantized { value: x, rounding });
            return if is_there {
                Ok(vec![])
            } else {
                self.quantize(x, rounding, Source::Value, ANY)
            };
        }
        // By slots it is of no use to products of whole rows.
        self.quantized = None;
        let value = self.graph.value(x);
        let n = value.cols / slots;
        let words = quantized_words(rounding, n);
        let params =
            params::QuantizeSlots { n: n as u32, row_words: words as u32, slots: slots as u32 };
        let acts = Bound::Rows { buffer: &self.buffers.quantized, words: words * slots };
        let shader = shaders::quantize_slots(rounding);
        let kernel = Kernel::new(shader, vec![self.value(x), acts], &params, value.rows);
        self.dispatches(&kernel.each_row(n.div_ceil(256) * slots))
    }
}
