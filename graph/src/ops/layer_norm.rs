//! LayerNorm (arXiv 1607.06450): `y = (x - mean) / sqrt(variance + eps) · w + b`, over groups of columns.
//! Fast version: `cpu/src/kernels/layer_norm.rs`.

use crate::math::{fma, sum_strided};

/// The factors of a norm and what it adds: one for each column of a group, or of a row of several groups.
#[derive(Clone, Copy, Debug, Default)]
pub struct Affine<'a> {
    /// `None` for 1.
    pub w: Option<&'a [f32]>,
    /// `None` for 0; only where there are factors.
    pub b: Option<&'a [f32]>,
}

/// Normalises each group of `group` elements of `x` into `out`.
///
/// Order: the mean is the sum of [`sum_strided`] `/ n`; then 64 strided chains of `fma(d, d, sum)` over `d = x - mean`, the
/// halving tree, `/ n`, `+ eps`, `1 / sqrt`; then `(d · scale) · w`, or `fma(d · scale, w, b)`.
pub fn layer_norm(x: &[f32], affine: Affine<'_>, group: usize, eps: f32, out: &mut [f32]) {
    for (g, (x, out)) in x.chunks(group).zip(out.chunks_mut(group)).enumerate() {
        let mean = sum_strided(x, |acc, v| acc + v) / group as f32;
        let squares = sum_strided(x, |acc, v| fma(v - mean, v - mean, acc));
        let scale = 1.0 / (squares / group as f32 + eps).sqrt();
        for i in 0..group {
            let of = |all: &[f32]| all[(g * group + i) % all.len()];
            let y = (x[i] - mean) * scale;
            out[i] = match (affine.w.map(of), affine.b.map(of)) {
                (Some(w), Some(b)) => fma(y, w, b),
                (Some(w), None) => y * w,
                (None, _) => y,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1, 3, 5, 7: mean 4, variance (9 + 1 + 1 + 9) / 4 = 5; with eps 4 the root is 3.
    #[test]
    fn four_numbers_by_hand() {
        let mut out = [0.0; 4];
        layer_norm(&[1.0, 3.0, 5.0, 7.0], Affine::default(), 4, 4.0, &mut out);
        for (y, want) in out.iter().zip([-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0]) {
            assert!((y - want).abs() < 1e-6, "{out:?}");
        }
    }

    /// The formula in f64, with factors for each column of a group and of a row.
    #[test]
    fn equals_the_formula() {
        let x: Vec<f32> = (0..300).map(|i| (i as f32 * 0.7).sin() * 3.0 + 5.0).collect();
        let all: Vec<f32> = (0..300).map(|i| 0.5 + i as f32 * 0.01).collect();
        for n in [100, 300] {
            let (w, b) = (Some(&all[..n]), Some(&all[..n]));
            let mut out = vec![0.0; 300];
            layer_norm(&x, Affine { w, b }, 100, 1e-5, &mut out);
            for (i, &y) in out.iter().enumerate() {
                let group = &x[i / 100 * 100..][..100];
                let mean = group.iter().map(|&v| f64::from(v)).sum::<f64>() / 100.0;
                let squares = group.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>();
                let by = 1.0 / (squares / 100.0 + 1e-5).sqrt();
                let w = f64::from(all[i % n]);
                let want = (f64::from(x[i]) - mean) * by * w + w;
                assert!((f64::from(y) - want).abs() < 2e-5, "{i}: {y} {want}");
            }
        }
    }
}
