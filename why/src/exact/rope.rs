//! Rotary position embedding: pairs rotate by `position · freq`.

use crate::Tolerance;
use crate::bound::{Exact, TINY, U};
use graph::{RopePairs, RopeTable, Step};

/// A rotary embedding of rows of `cols` elements.
#[derive(Clone, Copy)]
pub(super) struct Rotation<'a> {
    pub(super) table: &'a RopeTable,
    pub(super) head_dim: usize,
    pub(super) pairs: RopePairs,
    pub(super) cols: usize,
}

/// Rotates the heads of every row; elements past the pairs stay. ggml makes its angles by repeated products in f32: that of
/// pair i is rounded some i times.
pub(super) fn rope(x: &[f32], rotation: Rotation<'_>, step: &Step, tolerance: Tolerance) -> Exact {
    let Rotation { table, head_dim, pairs, cols } = rotation;
    let n = table.freqs.len();
    let mut exact =
        Exact { value: x.iter().map(|&v| f64::from(v)).collect(), bound: vec![0.0; x.len()] };
    for (row, &position) in step.positions.iter().enumerate() {
        let mscale = table.mscale_at(position);
        for (i, &freq) in table.freqs_of(step, row).iter().enumerate() {
            let angle = f64::from(position) * freq;
            let (sin, cos) = (angle.sin() * mscale, angle.cos() * mscale);
            let wrong = match tolerance {
                Tolerance::Bits => 0.0,
                Tolerance::Rounding => angle.abs() * (i + 8) as f64 * U,
            };
            for head in (row * cols..(row + 1) * cols).step_by(head_dim) {
                let (a, b) = match pairs {
                    RopePairs::Adjacent => (head + 2 * i, head + 2 * i + 1),
                    RopePairs::Halves => (head + i, head + i + n),
                };
                let (x0, x1) = (f64::from(x[a]), f64::from(x[b]));
                let bound = (x0.abs() + x1.abs()) * mscale.abs() * (4.0 * U + wrong) + TINY;
                (exact.value[a], exact.value[b]) = (x0 * cos - x1 * sin, x0 * sin + x1 * cos);
                (exact.bound[a], exact.bound[b]) = (bound, bound);
            }
        }
    }
    exact
}
