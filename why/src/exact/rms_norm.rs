//! `y = x / sqrt(mean(x²) + eps) · w`.

use crate::bound::{Exact, TINY, gamma};

/// A sum of n squares is wrong by γ_n of itself, its root by half of that, and some roundings follow.
pub(super) fn rms_norm(x: &[f32], w: &[f64], eps: f32) -> Exact {
    let by = gamma(w.len() / 2 + 8);
    let mut exact = Exact::with_room(x.len());
    for group in x.chunks(w.len().max(1)) {
        let squares: f64 = group.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
        let scale = 1.0 / (squares / w.len() as f64 + f64::from(eps)).sqrt();
        for (&x, &w) in group.iter().zip(w) {
            let y = f64::from(x) * scale * w;
            exact.push(y, y.abs() * by + TINY, squares);
        }
    }
    exact
}
