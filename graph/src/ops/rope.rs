//! Rotary position embedding (arXiv 2104.09864): pairs of elements rotate by `position · freq`.
//! Fast version: `cpu/src/kernels/rope.rs`.

use crate::RopePairs;
use crate::math::{fma, rope_angle};

/// Cosines and sines of one position, one entry for each pair.
pub fn angles(freqs: &[f64], mscale: f64, position: u32) -> Vec<(f32, f32)> {
    freqs.iter().map(|&f| rope_angle(position, f, mscale)).collect()
}

/// Rotates the heads (`head_dim` elements each) of one row in place. Elements past the pairs stay.
///
/// `x0' = fma(x0, cos, -(x1 · sin))`, `x1' = fma(x0, sin, x1 · cos)`.
pub fn rope(row: &mut [f32], head_dim: usize, pairs: RopePairs, angles: &[(f32, f32)]) {
    let n = angles.len();
    for head in row.chunks_mut(head_dim) {
        for (i, &(cos, sin)) in angles.iter().enumerate() {
            let (a, b) = match pairs {
                RopePairs::Adjacent => (2 * i, 2 * i + 1),
                RopePairs::Halves => (i, i + n),
            };
            let (x0, x1) = (head[a], head[b]);
            head[a] = fma(x0, cos, -(x1 * sin));
            head[b] = fma(x0, sin, x1 * cos);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_by_the_angle_and_keeps_the_tail() {
        let freqs = [1.0, 0.01];
        for (pairs, a, b) in
            [(RopePairs::Adjacent, [0, 2], [1, 3]), (RopePairs::Halves, [0, 1], [2, 3])]
        {
            let mut row = [1.0, 2.0, 3.0, 4.0, 5.0];
            let before = row;
            let position = 100_000;
            rope(&mut row, 5, pairs, &angles(&freqs, 1.0, position));
            for i in 0..2 {
                let (sin, cos) = (f64::from(position) * freqs[i]).sin_cos();
                let (x0, x1) = (f64::from(before[a[i]]), f64::from(before[b[i]]));
                assert!((f64::from(row[a[i]]) - (x0 * cos - x1 * sin)).abs() < 1e-5);
                assert!((f64::from(row[b[i]]) - (x0 * sin + x1 * cos)).abs() < 1e-5);
            }
            assert_eq!(row[4], 5.0);
        }
    }
}
