//! A causal convolution of few rows, over all rows of a sequence: what a state keeps of them is no part of what is right.

use crate::bound::{Exact, TINY, gamma};
use graph::{GroupId, Step};

/// The rows that a step's tokens see.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    /// For each block the rows of its sequence, from position 0 on.
    pub(super) rows: &'a [Vec<f32>],
    pub(super) group: GroupId,
    pub(super) step: &'a Step,
    pub(super) cols: usize,
}

/// `y[p][c] = Σ_j w[c][d_conv - 1 - j] · x[p - j][c]` over the positions `p - j` from 0 on; wrong by a rounding for each row.
pub(super) fn ssm_conv(w: &[f64], seen: Seen<'_>) -> Exact {
    let Seen { rows, group, step, cols } = seen;
    let d_conv = w.len() / cols;
    let mut exact = Exact::with_room(step.tokens.len() * cols);
    for (&seq, &position) in step.seqs.iter().zip(&step.positions) {
        let (x, p) = (&rows[step.state_block(group, seq)], position as usize);
        for c in 0..cols {
            let (mut sum, mut size) = (0.0, 0.0);
            for j in 0..d_conv.min(p + 1) {
                let product = w[c * d_conv + d_conv - 1 - j] * f64::from(x[(p - j) * cols + c]);
                (sum, size) = (sum + product, size + product.abs());
            }
            exact.push(sum, gamma(d_conv + 1) * size + TINY, size);
        }
    }
    exact
}
