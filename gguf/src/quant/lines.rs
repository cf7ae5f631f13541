//! What a block whose groups have a scale and a minimum is fitted to: Q2_K, Q4_K, Q5_K.

use super::fit::{Line, Search, fit_positive, fit_scale_min, round_from_min, total};

/// A line for each of `N` groups of `LEN` weights, 256 in all.
pub(super) struct Lines<const N: usize, const LEN: usize> {
    pub(super) scales: [f32; N],
    pub(super) mins: [f32; N],
    q: [u8; 256],
}

/// Scales and minima of groups as integers, times `scale` and `min` of `unit`.
pub(super) struct Integers<const N: usize> {
    pub(super) unit: Line,
    pub(super) scales: [u8; N],
    pub(super) mins: [u8; N],
}

impl<const N: usize, const LEN: usize> Lines<N, LEN> {
    /// Fits each group by the importance of its weights.
    pub(super) fn fit(weights: &[f32; 256], importance: &[f32; 256], search: &Search) -> Self {
        let (mut scales, mut mins, mut q) = ([0.0; N], [0.0; N], [0; 256]);
        let (groups, importance) = (weights.as_chunks::<LEN>().0, importance.as_chunks::<LEN>().0);
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            let line = fit_scale_min(&groups[j], &importance[j], search, q);
            (scales[j], mins[j]) = (line.scale, line.min);
        }
        Self { scales, mins, q }
    }

    /// The greatest scale and the greatest minimum; 0 where all are negative.
    pub(super) fn greatest(&self) -> Line {
        let greatest =
            |values: &[f32; N]| values.iter().fold(0.0, |max, &v| if v > max { v } else { max });
        Line { scale: greatest(&self.scales), min: greatest(&self.mins) }
    }

    /// Scales and minima as integers of 0 to `max` with an importance matrix, by which a group counts as its weights do.
    pub(super) fn integers(&self, importance: &[f32; 256], max: u8) -> Integers<N> {
        let groups = importance.as_chunks::<LEN>().0;
        let of_groups: [f32; N] = std::array::from_fn(|j| total(&groups[j]));
        let (mut scales, mut mins) = ([0; N], [0; N]);
        let scale = fit_positive(&self.scales, &of_groups, max, &mut scales);
        let min = fit_positive(&self.mins, &of_groups, max, &mut mins);
        Integers { unit: Line { scale, min }, scales, mins }
    }

    /// Rounds the weights to the lines of groups as they are stored, for quants of 0 to `max`.
    pub(super) fn round(
        self,
        weights: &[f32; 256],
        stored: impl Fn(usize) -> Line,
        max: u8,
    ) -> [u8; 256] {
        let Self { mut q, .. } = self;
        let groups = weights.as_chunks::<LEN>().0;
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            round_from_min(&groups[j], stored(j), max, q);
        }
        q
    }
}
