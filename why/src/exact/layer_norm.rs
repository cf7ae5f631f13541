//! `y = (x - mean) / sqrt(variance + eps) · w + b`.

use crate::bound::{Exact, TINY, U, gamma};

/// Factors and what is added, by the column of a group or of a row.
pub(super) struct Affine<'a> {
    pub(super) w: Option<&'a [f64]>,
    pub(super) b: Option<&'a [f64]>,
}

/// The mean of n numbers is wrong by γ_n of their mean magnitude, which is what a difference from it is wrong by, however small
/// the difference is. The root of the mean square of the differences is wrong by as much at most, and by the rounding of a sum
/// of n squares.
pub(super) fn layer_norm(x: &[f32], affine: &Affine<'_>, group: usize, eps: f32) -> Exact {
    let n = group as f64;
    let mut exact = Exact::with_room(x.len());
    for (g, x) in x.chunks(group.max(1)).enumerate() {
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let size = x.iter().map(|&v| f64::from(v).abs()).sum::<f64>() / n;
        let squares: f64 = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum();
        let scale = 1.0 / (squares / n + f64::from(eps)).sqrt();
        let off = gamma(group + 2) * size;
        let by = gamma(group / 2 + 8) + off * scale;
        for (i, &v) in x.iter().enumerate() {
            let of = |all: &[f64]| all[(g * group + i) % all.len()];
            let (w, b) = (affine.w.map_or(1.0, of), affine.b.map_or(0.0, of));
            let d = f64::from(v) - mean;
            let y = d * scale * w;
            let wrong = (off + U * f64::from(v).abs()) * scale * w.abs() + y.abs() * by;
            exact.push(y + b, wrong + (y + b).abs() * U + b.abs() * U + TINY, squares + size * n);
        }
    }
    exact
}
