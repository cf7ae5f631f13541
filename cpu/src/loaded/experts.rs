//! The ops of a layer of experts: the router, products with the chosen matrices, and what joins their slots.

use super::{LoadedCpu, RoundedOf, Work};
use crate::experts::Given;
use crate::kernels::elementwise::{Elementwise, Map};
use crate::kernels::mat_mul::{self, MatMul, Product};
use crate::kernels::mat_mul_f32::{self, MatMulF32, STEP, Source};
use crate::kernels::rounded::Activations;
use crate::kernels::route::Router;
use crate::pool::{Matrix, Pool, Workers};
use graph::ops::experts;
use graph::{Node, Route, Weight, WeightId};
use std::sync::Arc;

impl LoadedCpu {
    /// For each slot the product with the matrix that was chosen for it.
    pub(super) fn mat_mul_id(
        &mut self,
        w: WeightId,
        node: &Node,
        values: &[Vec<f32>],
        out: &mut [f32],
    ) {
        let given = |i: usize| {
            let id = node.inputs[i];
            Given { id, data: &values[id.0] }
        };
        let (x, chosen) = (given(0), given(1));
        let graph = Arc::clone(&self.graph);
        let weight = graph.weight(w);
        let Weight { n_in, n_out, n_mats, .. } = *weight;
        let rounding = self.weights.rounding(w);
        let Work { experts, rounded, rounded_of, .. } = &mut self.work;
        experts.group(chosen, n_mats, self.level.tokens());
        experts.gather(x, n_in, &mut self.pool);
        if let Some(rounding) = rounding {
            let wanted = Some(RoundedOf { x: x.id, chosen: Some(chosen.id), rounding });
            if *rounded_of != wanted {
                let workers = Workers { level: self.level, pool: &mut self.pool };
                let counts = Some(experts.counts.as_slice());
                let x = Activations { x: experts.gathered(), n_in, counts };
                rounded.round(rounding, x, workers);
                *rounded_of = wanted;
            }
        }
        let runs: Vec<_> = experts.runs.iter().map(|run| run.places.clone()).collect();
        // One token's weights are a stream: long parts, as many as keep the threads busy.
        let wanted = (self.pool.threads() * 4).div_ceil(runs.len().max(1));
        let longest = if runs.iter().all(|run| run.len() == 1) { usize::MAX } else { STEP };
        let step = n_out.div_ceil(wanted).next_multiple_of(STEP).min(longest);
        let (weights, level, rows) = (&self.weights, self.level, rounded.rows());
        self.pool.runs(Matrix { out, cols: n_out, step }, &runs, &experts.order, |run, out| {
            let matrix = weights.matrix(w, weight, experts.runs[run].expert);
            match (matrix, rounding) {
                (Source::Tiles(tiles), Some(_)) => mat_mul::with_workspace(|workspace| {
                    let product = Product::Plain(tiles);
                    level.run(MatMul { product, rows, out, workspace });
                }),
                (weight @ (Source::Tiles(_) | Source::Rows { .. }), _) => {
                    let x = experts.gathered();
                    mat_mul_f32::with_workspace(|workspace| {
                        level.run(MatMulF32 { weight, n_in, x, out, workspace });
                    });
                }
            }
        });
    }

    pub(super) fn route(
        &mut self,
        route: Route,
        node: &Node,
        values: &[Vec<f32>],
        out: &mut [f32],
    ) {
        let level = self.level;
        let cols_of = |v: graph::ValueId| self.graph.value(v).cols;
        let (from, cols) = (cols_of(node.inputs[0]), node.output.map_or(1, cols_of));
        let n = node.inputs.get(1).map_or(0, |v| cols_of(*v));
        let x = values[node.inputs[0].0].as_slice();
        let chosen = node.inputs.get(1).map_or(&[][..], |v| values[v.0].as_slice());
        each_slot(&mut self.pool, out, cols, |t, out| {
            let (x, chosen) = (&x[t * from..][..from], &chosen[t * n..][..n]);
            level.run(Router { route, x, chosen, out });
        });
    }

    pub(super) fn add_id(&mut self, b: WeightId, x: &[f32], experts: &[f32], out: &mut [f32]) {
        let (level, n) = (self.level, self.graph.weight(b).n_in);
        let biases = self.weights.vector(b);
        each_slot(&mut self.pool, out, n, |i, out| {
            let (a, b) = (&x[i * n..][..n], &biases[experts[i] as usize * n..][..n]);
            level.run(Elementwise { map: Map::Add, a, b, out });
        });
    }

    pub(super) fn weighted(&mut self, x: &[f32], weights: &[f32], out: &mut [f32]) {
        let (level, n) = (self.level, x.len() / weights.len().max(1));
        each_slot(&mut self.pool, out, n.max(1), |i, out| {
            let a = &x[i * n..][..n];
            level.run(Elementwise { map: Map::Scale(weights[i]), a, b: a, out });
        });
    }

    pub(super) fn sum_slots(&mut self, slots: usize, x: &[f32], cols: usize, out: &mut [f32]) {
        each_slot(&mut self.pool, out, cols, |t, out| {
            experts::sum_slots(&x[t * slots * cols..][..slots * cols], cols, slots, out);
        });
    }
}

/// Each row, or each of its slots, by itself: `f` gets the number of the slot and its columns.
fn each_slot(pool: &mut Pool, out: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    pool.rows(out, cols, |first, out| {
        out.chunks_exact_mut(cols).enumerate().for_each(|(i, out)| f(first + i, out));
    });
}
