//! The searches for the scales of K-quants: llama.cpp's, step for step, as the bytes depend on every rounding.

/// Below this all weights of a group count as 0.
pub(super) const TINY: f32 = 1e-15;

/// The nearest integer, ties to even, for |x| < 2²². Beyond it the result is some integer, and the caller clamps it.
pub(super) fn nearest(x: f32) -> i32 {
    // Adding 1.5·2²³ leaves no bits for the fraction; the integer is then in the mantissa.
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Which inverse scales [`fit_scale_min`] tries: (first + i/10 + max) / range for i = 0 to `steps`.
pub(super) struct Search {
    /// The greatest quant.
    pub(super) max: i32,
    /// The first offset.
    pub(super) first: f32,
    /// The last i.
    pub(super) steps: u8,
}

/// Finds s with w ≈ s·(q − 32) for q of 0 to 63, weighting errors by w², and writes q.
///
/// First the scale that makes the extreme weight −32, then 18 scales around it; each is refined by least squares
/// (s = Σw²·w·l / Σw²·l²), and the one of least error stays.
pub(super) fn fit_scale(weights: &[f32; 16], q: &mut [u8; 16]) -> f32 {
    const MAX: f32 = 32.0;
    let extreme =
        weights.iter().fold(0.0, |max: f32, &w| if w.abs() > max.abs() { w } else { max });
    if extreme.abs() < TINY {
        *q = [0; 16];
        return 0.0;
    }
    let level = |inverse: f32, w: f32| nearest(inverse * w).clamp(-32, 31);
    let sums = |inverse: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for &w in weights {
            let l = level(inverse, w) as f32;
            let importance = w * w;
            sum_lx += importance * w * l;
            sum_l2 += importance * l * l;
        }
        (sum_lx, sum_l2)
    };
    let mut best_inverse = -MAX / extreme;
    let (sum_lx, sum_l2) = sums(best_inverse);
    let mut scale: f32 = if sum_l2 == 0.0 { 0.0 } else { sum_lx / sum_l2 };
    let mut best = scale * sum_lx;
    for i in (-9..=9).filter(|&i| i != 0) {
        let inverse = -(MAX + 0.1 * i as f32) / extreme;
        let (sum_lx, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            best_inverse = inverse;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    *q = weights.map(|w| (level(best_inverse, w) + 32) as u8);
    scale
}

/// Finds s and m with w ≈ s·q − m for q of 0 to `search.max` and m ≥ 0, and writes q.
///
/// An error counts by |w| plus the root mean square of the group. Each inverse scale of the search gives quants, these
/// give s and m by weighted least squares, and the pair of least error stays.
pub(super) fn fit_scale_min(weights: &[f32; 32], q: &mut [u8; 32], search: &Search) -> (f32, f32) {
    let sum_squares = weights.iter().fold(0.0, |sum, &w| sum + w * w);
    let mean: f32 = (sum_squares / 32.0_f32).sqrt();
    let importance = weights.map(|w| mean + w.abs());
    let (mut least, mut greatest) = (weights[0], weights[0]);
    let mut sum_i = importance[0];
    let mut sum_x = sum_i * weights[0];
    for i in 1..32 {
        least = if weights[i] < least { weights[i] } else { least };
        greatest = if weights[i] > greatest { weights[i] } else { greatest };
        sum_i += importance[i];
        sum_x += importance[i] * weights[i];
    }
    least = if least > 0.0 { 0.0 } else { least };
    if greatest == least {
        *q = [0; 32];
        return (0.0, -least);
    }
    let max = search.max as f32;
    let error = |scale: f32, min: f32, q: &[u8; 32]| {
        let mut error = 0.0;
        for i in 0..32 {
            let off = scale * f32::from(q[i]) + min - weights[i];
            error += importance[i] * (off * off);
        }
        error
    };
    let quants = |inverse: f32, min: f32| {
        weights.map(|w| nearest(inverse * (w - min)).clamp(0, search.max) as u8)
    };

    let inverse = max / (greatest - least);
    let (mut scale, mut min) = (1.0 / inverse, least);
    *q = quants(inverse, min);
    let mut best: f32 = error(scale, min, q);
    for i in 0..=search.steps {
        // llama.cpp's later steps start from the minimum found so far, not from the least weight.
        let inverse = (search.first + 0.1 * f32::from(i) + max) / (greatest - min);
        let tried = quants(inverse, min);
        let (mut sum_l, mut sum_l2, mut sum_lx) = (0.0, 0.0, 0.0);
        for i in 0..32 {
            let l = f32::from(tried[i]);
            let il = importance[i] * l;
            sum_l += il;
            sum_l2 += il * l;
            sum_lx += il * weights[i];
        }
        let determinant: f32 = sum_i * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut tried_scale = (sum_i * sum_lx - sum_x * sum_l) / determinant;
            let mut tried_min = (sum_l2 * sum_x - sum_l * sum_lx) / determinant;
            if tried_min > 0.0 {
                (tried_scale, tried_min) = (sum_lx / sum_l2, 0.0);
            }
            let tried_error = error(tried_scale, tried_min, &tried);
            if tried_error < best {
                (best, scale, min, *q) = (tried_error, tried_scale, tried_min, tried);
            }
        }
    }
    (scale, -min)
}
