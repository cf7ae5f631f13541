//! Rounding of activations to 8 bits, exactly as ggml's x86 backend does: the other operand of `int8` products.
//! Fast version: `cpu/src/kernels/quantize_q8.rs`.

use crate::ints::Q8Format;
use crate::math::{ROUND_MAGIC, round_f16};

/// One row of rounded activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Q8Row {
    /// Quants, `-127 ..= 127`.
    pub q: Vec<i8>,
    /// Scale of each block (f16-rounded for [`Q8Format::Q8x32`]).
    pub d: Vec<f32>,
    /// `f16(d · Σq)` of each block of 32, with d before its rounding to f16: Q8_1's `s`. Empty for
    /// [`Q8Format::Q8x256`].
    pub s: Vec<f32>,
}

/// To the nearest integer, ties to even; |x| stays far below 2²².
fn nearest(x: f32) -> i32 {
    ((x + ROUND_MAGIC) - ROUND_MAGIC) as i32
}

/// Rounds one row. Its length is a multiple of the format's block.
///
/// Q8x32: `d = amax / 127`, `q = nearest(x · (127 / amax))`; d is kept as f16, whose overflow to infinity
/// (|x| > 8.3e6) is not hidden. `amax` is the largest magnitude *by bits*, so that a NaN wins; a block with an infinite
/// or NaN element gets d = NaN, which reaches the result instead of being swallowed. Q8x256: with `max` the element of largest magnitude (the first of equals),
/// `iscale = -127 / max`, `q = min(127, nearest(iscale · x))`, `d = 1 / iscale`. A block of zeros has d = 0.
pub fn quantize_q8(format: Q8Format, x: &[f32]) -> Q8Row {
    let mut row = Q8Row::default();
    match format {
        Q8Format::Q8x32 => x.chunks(32).for_each(|block| quantize_q8x32(block, &mut row)),
        Q8Format::Q8x256 => x.chunks(256).for_each(|block| quantize_q8x256(block, &mut row)),
    }
    row
}

/// The largest magnitude, NaN above infinity above the rest.
fn amax(block: &[f32]) -> f32 {
    f32::from_bits(block.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0))
}

fn quantize_q8x32(block: &[f32], row: &mut Q8Row) {
    let amax = amax(block);
    let d = if amax.is_finite() { amax / 127.0 } else { f32::NAN };
    let id = if amax == 0.0 { 0.0 } else { 127.0 / amax };
    let first = row.q.len();
    row.q.extend(block.iter().map(|v| nearest(v * id) as i8));
    let sum: i32 = row.q[first..].iter().map(|&q| i32::from(q)).sum();
    row.d.push(round_f16(d));
    row.s.push(round_f16(d * sum as f32));
}

fn quantize_q8x256(block: &[f32], row: &mut Q8Row) {
    let amax = amax(block);
    if amax == 0.0 || !amax.is_finite() {
        row.q.extend(std::iter::repeat_n(0, block.len()));
        row.d.push(if amax == 0.0 { 0.0 } else { f32::NAN });
        return;
    }
    let max = block.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax);
    let iscale = -127.0 / max;
    row.q.extend(block.iter().map(|v| nearest(iscale * v).min(127) as i8));
    row.d.push(1.0 / iscale);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_within_half_a_step_and_reports_the_infinite() {
        let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.31).sin() * 1e5).collect();
        for (format, block) in [(Q8Format::Q8x32, 32), (Q8Format::Q8x256, 256)] {
            let row = quantize_q8(format, &x);
            for i in 0..512 {
                let d = row.d[i / block];
                assert!((d * f32::from(row.q[i]) - x[i]).abs() <= d.abs() * 0.57, "{format:?} {i}");
            }
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = x.clone();
                x[300] = bad;
                let row = quantize_q8(format, &x);
                assert!(row.d[300 / block].is_nan() && row.d[0].is_finite(), "{format:?} {bad}");
            }
            let zero = quantize_q8(format, &[-0.0; 256]);
            assert!(zero.d.iter().all(|&d| d == 0.0) && zero.q.iter().all(|&q| q == 0));
        }
    }
}
