//! The searches for the scales of blocks: llama.cpp's, step for step, as the bytes depend on every rounding.
//!
//! In all of them an error of a weight counts by its importance. Without an importance matrix that follows from the weights
//! themselves, in another way for each format.

use super::extreme;

/// Below this all weights of a group count as 0.
pub(super) const TINY: f32 = 1e-15;

/// The nearest integer, ties to even, for |x| < 2²². Beyond it the result is some integer, and the caller clamps it.
pub(super) fn nearest(x: f32) -> i32 {
    // Adding 1.5·2²³ leaves no bits for the fraction; the integer is then in the mantissa.
    let bits = (x + 12_582_912.0).to_bits();
    (bits & 0x007f_ffff) as i32 - 0x0040_0000
}

/// Each weight's square: how much an error counts where the large weights matter most.
pub(super) fn squares<const N: usize>(weights: &[f32; N]) -> [f32; N] {
    weights.map(|w| w * w)
}

/// The sum of squares, which the means of importance start from.
pub(super) fn sum_of_squares(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |sum, &w| sum + w * w)
}

/// How much an error counts with an importance matrix: by the matrix, times a size that small weights share, whose square
/// is `floor`.
pub(super) fn weighed<const N: usize>(
    weights: &[f32; N],
    importance: &[f32; N],
    floor: f32,
) -> [f32; N] {
    std::array::from_fn(|i| importance[i] * (floor + weights[i] * weights[i]).sqrt())
}

/// The sum of a group's importance.
pub(super) fn total<const N: usize>(importance: &[f32; N]) -> f32 {
    importance.iter().fold(0.0, |sum, &i| sum + i)
}

/// Finds s with w ≈ s·(q − half) for q of 0 to 2·half − 1, and writes q.
///
/// First the scale that makes the extreme weight −half, then 18 scales around it; each is refined by least squares
/// (s = Σi·w·l / Σi·l² with l = q − half and the importance i), and the one of least error stays.
pub(super) fn fit_scale<const N: usize>(
    weights: &[f32; N],
    importance: &[f32; N],
    half: u8,
    q: &mut [u8; N],
) -> f32 {
    let extreme = extreme(weights);
    if extreme.abs() < TINY {
        *q = [0; N];
        return 0.0;
    }
    let (half, max) = (i32::from(half), f32::from(half));
    let level = |inverse: f32, w: f32| nearest(inverse * w).clamp(-half, half - 1);
    let sums = |inverse: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for (&w, &importance) in weights.iter().zip(importance) {
            let l = level(inverse, w) as f32;
            sum_lx += importance * w * l;
            sum_l2 += importance * l * l;
        }
        (sum_lx, sum_l2)
    };
    let mut best_inverse = -max / extreme;
    let (sum_lx, sum_l2) = sums(best_inverse);
    let mut scale: f32 = if sum_l2 == 0.0 { 0.0 } else { sum_lx / sum_l2 };
    let mut best = scale * sum_lx;
    for i in (-9..=9).filter(|&i| i != 0) {
        let inverse = -(max + 0.1 * i as f32) / extreme;
        let (sum_lx, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            best_inverse = inverse;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    *q = weights.map(|w| (level(best_inverse, w) + half) as u8);
    scale
}

/// The same for the eight levels of Q3_K, without an importance matrix: here an error counts by w², and the levels are
/// changed one at a time, in up to five rounds, while the fit of all gets better.
pub(super) fn fit_levels(weights: &[f32; 16], q: &mut [u8; 16]) -> f32 {
    let extreme = extreme(weights);
    if extreme.abs() < TINY {
        *q = [0; 16];
        return 0.0;
    }
    let level = |x: f32| nearest(x).clamp(-4, 3);
    let inverse = -4.0 / extreme;
    let mut levels = weights.map(|w| level(inverse * w));
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (&w, &l) in weights.iter().zip(&levels) {
        let (importance, l) = (w * w, l as f32);
        sum_lx += importance * w * l;
        sum_l2 += importance * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&w, l) in weights.iter().zip(&mut levels) {
            let (importance, old) = (w * w, *l as f32);
            let mut lx: f32 = sum_lx - importance * w * old;
            if lx <= 0.0 || lx.is_nan() {
                continue;
            }
            let mut l2: f32 = sum_l2 - importance * old * old;
            let new = level(w * l2 / lx);
            if new == *l {
                continue;
            }
            lx += importance * w * new as f32;
            l2 += importance * new as f32 * new as f32;
            if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                (*l, sum_lx, sum_l2, changed) = (new, lx, l2, true);
            }
        }
        if !changed {
            break;
        }
    }
    *q = levels.map(|l| (l + 4) as u8);
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// Finds s with v ≈ s·q for the scales or minima v of a block's groups and q of 0 to `max`, and writes q; `importance` is
/// that of each group. A negative v, which a search can give, leaves the low byte of a negative q, as in llama.cpp.
pub(super) fn fit_positive<const N: usize>(
    values: &[f32; N],
    importance: &[f32; N],
    max: u8,
    q: &mut [u8; N],
) -> f32 {
    let greatest = values.iter().fold(0.0, |max: f32, &v| if max > v { max } else { v });
    if greatest < TINY {
        *q = [0; N];
        return 0.0;
    }
    let level = |x: f32| nearest(x).min(i32::from(max));
    let inverse = best_inverse(values, importance, max, greatest);
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for i in 0..N {
        let l = level(inverse * values[i]);
        q[i] = l as u8;
        sum_lx += importance[i] * values[i] * l as f32;
        sum_l2 += importance[i] * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            let (v, importance, old) = (values[i], importance[i], f32::from(q[i]));
            let mut lx: f32 = sum_lx - importance * v * old;
            let mut l2: f32 = sum_l2 - importance * old * old;
            if !(lx > 0.0 && l2 > 0.0) {
                continue;
            }
            let new = level(v * l2 / lx);
            if new == i32::from(q[i]) {
                continue;
            }
            lx += importance * v * new as f32;
            l2 += importance * new as f32 * new as f32;
            if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                (q[i], sum_lx, sum_l2, changed) = (new as u8, lx, l2, true);
            }
        }
        if !changed {
            break;
        }
    }
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}

/// Of nine inverse scales around that which makes the greatest value `max`, the one of least squared error.
fn best_inverse<const N: usize>(
    values: &[f32; N],
    importance: &[f32; N],
    max: u8,
    greatest: f32,
) -> f32 {
    let error = |inverse: f32, level: &dyn Fn(f32) -> f32| {
        let scale = 1.0 / inverse;
        let mut error = 0.0;
        for (&v, &importance) in values.iter().zip(importance) {
            let off: f32 = v - scale * level(inverse * v);
            error += importance * off * off;
        }
        error
    };
    let mut best_inverse = f32::from(max) / greatest;
    // The first is judged by the bytes that it gives, the others by their integers: the same but for negative values.
    let mut best: f32 = error(best_inverse, &|x| f32::from(nearest(x) as u8));
    for i in (-4..=4).filter(|&i| i != 0) {
        let inverse = (0.1 * i as f32 + f32::from(max)) / greatest;
        let tried = error(inverse, &|x| nearest(x).min(i32::from(max)) as f32);
        if tried < best {
            (best, best_inverse) = (tried, inverse);
        }
    }
    best_inverse
}

/// What a group's quants stand for: w = scale·q − min.
#[derive(Clone, Copy, Default)]
pub(super) struct Line {
    pub(super) scale: f32,
    pub(super) min: f32,
}

/// How [`fit_scale_min`] searches: it tries the inverse scales (first + i·step + max) / range for i = 0 to `steps`.
pub(super) struct Search {
    /// The greatest quant.
    pub(super) max: u8,
    /// The first offset.
    pub(super) first: f32,
    /// From one offset to the next.
    pub(super) step: f32,
    /// The last i.
    pub(super) steps: u8,
    /// What is summed.
    pub(super) errors: Errors,
    /// Which search it is in llama.cpp.
    pub(super) by: By,
}

/// How the errors of weights add up.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Errors {
    Absolute,
    Squared,
}

/// What decides on the importance of weights.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// The weights themselves. Numbers beyond 2²², which only a search that has gone astray meets, give some quant.
    Weights,
    /// A matrix. Such numbers give the greatest or least quant.
    Matrix,
}

impl Search {
    /// The search with an importance matrix, the same for all formats.
    pub(super) const fn by_matrix(max: u8) -> Self {
        let (first, step, steps) = (-0.9, 0.05, 36);
        Self { max, first, step, steps, errors: Errors::Squared, by: By::Matrix }
    }

    fn quant(&self, x: f32) -> u8 {
        nearest(x).clamp(0, i32::from(self.max)) as u8
    }

    /// The quant of a tried scale, of which x may be anything.
    fn tried(&self, x: f32) -> u8 {
        match self.by {
            By::Weights => self.quant(x),
            By::Matrix if x > 0.0 => self.quant(x.min(f32::from(self.max))),
            By::Matrix => 0,
        }
    }
}

/// The minimum of a group and the sums that least squares needs of it whatever the quants.
struct Group {
    least: f32,
    greatest: f32,
    sum_i: f32,
    sum_x: f32,
}

impl Group {
    fn of<const N: usize>(weights: &[f32; N], importance: &[f32; N]) -> Self {
        let (mut least, mut greatest) = (weights[0], weights[0]);
        let mut sum_i = importance[0];
        let mut sum_x = sum_i * weights[0];
        for i in 1..N {
            least = if weights[i] < least { weights[i] } else { least };
            greatest = if weights[i] > greatest { weights[i] } else { greatest };
            sum_i += importance[i];
            sum_x += importance[i] * weights[i];
        }
        let least = if least > 0.0 { 0.0 } else { least };
        Self { least, greatest, sum_i, sum_x }
    }

    /// The line of least squares for given quants, with its minimum not yet negated; `None` where there is none.
    fn least_squares<const N: usize>(
        &self,
        weights: &[f32; N],
        importance: &[f32; N],
        q: &[u8; N],
    ) -> Option<Line> {
        let (mut sum_l, mut sum_l2, mut sum_lx) = (0.0, 0.0, 0.0);
        for i in 0..N {
            let l = f32::from(q[i]);
            let il = importance[i] * l;
            sum_l += il;
            sum_l2 += il * l;
            sum_lx += il * weights[i];
        }
        let Self { sum_i, sum_x, .. } = self;
        let determinant: f32 = sum_i * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let min = (sum_l2 * sum_x - sum_l * sum_lx) / determinant;
            let scale = (sum_i * sum_lx - sum_x * sum_l) / determinant;
            let through_0 = Line { scale: sum_lx / sum_l2, min: 0.0 };
            return Some(if min > 0.0 { through_0 } else { Line { scale, min } });
        }
        None
    }
}

/// Finds s and m with w ≈ s·q − m for q of 0 to `search.max` and m ≥ 0, and writes q.
///
/// Each inverse scale of the search gives quants, these give s and m by weighted least squares, and the pair of least
/// error stays.
pub(super) fn fit_scale_min<const N: usize>(
    weights: &[f32; N],
    importance: &[f32; N],
    search: &Search,
    q: &mut [u8; N],
) -> Line {
    let group = Group::of(weights, importance);
    let Group { least, greatest, .. } = group;
    if greatest == least {
        *q = [0; N];
        return Line { scale: 0.0, min: -least };
    }
    let max = f32::from(search.max);
    let error = |line: Line, q: &[u8; N]| {
        let mut error = 0.0;
        for i in 0..N {
            let off = line.scale * f32::from(q[i]) + line.min - weights[i];
            error += importance[i]
                * match search.errors {
                    Errors::Absolute => off.abs(),
                    Errors::Squared => off * off,
                };
        }
        error
    };

    let inverse = max / (greatest - least);
    let mut line = Line { scale: 1.0 / inverse, min: least };
    *q = weights.map(|w| search.quant(inverse * (w - least)));
    let mut best: f32 = error(line, q);
    for i in 0..=search.steps {
        // llama.cpp's later steps start from the minimum found so far, not from the least weight.
        let inverse = (search.first + search.step * f32::from(i) + max) / (greatest - line.min);
        let tried = weights.map(|w| search.tried(inverse * (w - line.min)));
        if let Some(tried_line) = group.least_squares(weights, importance, &tried) {
            let tried_error = error(tried_line, &tried);
            if tried_error < best {
                (best, line, *q) = (tried_error, tried_line, tried);
            }
        }
    }
    Line { min: -line.min, ..line }
}

/// Rounds weights to `scale`·(q − half). A group whose scale was rounded to 0 keeps the quants of the search, as in
/// llama.cpp.
pub(super) fn round<const N: usize>(weights: &[f32; N], scale: f32, half: i32, q: &mut [u8; N]) {
    if scale != 0.0 {
        *q = weights.map(|w| (nearest(w / scale).clamp(-half, half - 1) + half) as u8);
    }
}

/// The same for q of 0 to `max` on a line.
pub(super) fn round_from_min<const N: usize>(
    weights: &[f32; N],
    line: Line,
    max: u8,
    q: &mut [u8; N],
) {
    let Line { scale, min } = line;
    if scale != 0.0 {
        *q = weights.map(|w| nearest((w + min) / scale).clamp(0, i32::from(max)) as u8);
    }
}
