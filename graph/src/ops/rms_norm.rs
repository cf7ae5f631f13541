//! Root-mean-square norm (arXiv 1910.07467): `y = x / sqrt(mean(x²) + eps) · w`, over groups of `w.len()`.
//! Fast version: `cpu/src/kernels/rms_norm.rs`.

use crate::math::{fma, sum_strided};

/// Normalises each group of `w.len()` elements of `x` into `out`.
///
/// Order: 64 strided chains of `fma(x, x, sum)`, the halving tree, `sum / n`, `+ eps`, `1 / sqrt`, then
/// `(x · scale) · w`.
pub fn rms_norm(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
    for (x, out) in x.chunks(w.len()).zip(out.chunks_mut(w.len())) {
        let sum = sum_strided(x, |acc, v| fma(v, v, acc));
        let scale = 1.0 / (sum / w.len() as f32 + eps).sqrt();
        for i in 0..w.len() {
            out[i] = (x[i] * scale) * w[i];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_formula() {
        let x: Vec<f32> = (0..300).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let w: Vec<f32> = (0..100).map(|i| 0.5 + i as f32 * 0.01).collect();
        let mut out = vec![0.0; 300];
        rms_norm(&x, &w, 1e-5, &mut out);
        for g in 0..3 {
            let group = &x[100 * g..100 * (g + 1)];
            let mean = group.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / 100.0;
            for i in 0..100 {
                let want = f64::from(group[i]) / (mean + 1e-5).sqrt() * f64::from(w[i]);
                assert!((f64::from(out[100 * g + i]) - want).abs() < 1e-6);
            }
        }
    }
}
