//! A causal convolution of few rows, each column by itself, as ggml's SSM_CONV: Mamba (arXiv 2312.00752, section 3.4) has
//! it before its state space, LFM2 in place of attention.
//! Fast versions: `cpu/src/kernels/ssm_conv.rs`, `gpu/src/kernels/ssm/conv.wgsl`.

use crate::math::fma;

/// The rows of one sequence that a step sees: what its state holds, then the step's own.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The last rows of earlier steps, the newest last; zeros where the sequence begins.
    pub state: &'a [f32],
    /// The rows of this step.
    pub x: &'a [f32],
    /// Columns of both.
    pub cols: usize,
}

impl Rows<'_> {
    /// Row `i`, counted from the oldest of the state.
    pub fn row(&self, i: usize) -> &[f32] {
        let kept = self.state.len() / self.cols;
        match i.checked_sub(kept) {
            None => &self.state[i * self.cols..][..self.cols],
            Some(i) => &self.x[i * self.cols..][..self.cols],
        }
    }

    /// The state for the next step: the last rows.
    pub fn next_state(&self) -> Vec<f32> {
        let (kept, new) = (self.state.len() / self.cols, self.x.len() / self.cols);
        (new..new + kept).flat_map(|i| self.row(i).iter().copied()).collect()
    }
}

/// `y[t][c] = Σ_k w[c][k] · row(t + k)[c]` for the step's rows, where `row(t + d_conv - 1)` is row `t` itself: a chain of
/// fma from 0 over `k`, the oldest row first.
///
/// `w` is `[cols, d_conv]`; the state has `d_conv - 1` rows.
pub fn ssm_conv(w: &[f32], rows: Rows<'_>, out: &mut [f32]) {
    let d_conv = w.len() / rows.cols;
    for (t, out) in out.chunks_mut(rows.cols).enumerate() {
        for (c, y) in out.iter_mut().enumerate() {
            let w = &w[c * d_conv..][..d_conv];
            *y = (0..d_conv).fold(0.0f32, |acc, k| fma(w[k], rows.row(t + k)[c], acc));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand: weights 1, 10, 100 for the row two before, the row before and the row itself.
    #[test]
    fn sums_the_last_rows_and_keeps_them() {
        let w = [1.0, 10.0, 100.0, -1.0, 0.0, 2.0];
        let first = Rows { state: &[0.0; 4], x: &[1.0, 7.0, 2.0, 8.0, 3.0, 9.0], cols: 2 };
        let mut out = [0.0; 6];
        ssm_conv(&w, first, &mut out);
        assert_eq!(out, [100.0, 14.0, 210.0, 16.0, 321.0, 18.0 - 7.0]);
        assert_eq!(first.next_state(), [2.0, 8.0, 3.0, 9.0]);
        // One row: the state keeps one of its own.
        let state = first.next_state();
        let second = Rows { state: &state, x: &[4.0, 1.0], cols: 2 };
        let mut out = [0.0; 2];
        ssm_conv(&w, second, &mut out);
        assert_eq!(out, [432.0, 2.0 - 8.0]);
        assert_eq!(second.next_state(), [3.0, 9.0, 4.0, 1.0]);
    }
}
