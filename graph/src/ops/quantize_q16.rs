//! Rounding of activations to 15 bits and a sign: the other operand of `int16` products.
//! Fast version: `cpu/src/kernels/quantize_q16.rs`.

use crate::math::ROUND_MAGIC;

/// Elements that share a scale.
pub const BLOCK: usize = 32;

/// The largest quant: 127 · 128, so that a quant is `128 · high + low` with both within -127 ..= 127 (kernels multiply
/// the two one after the other with instructions for 8 bits, some of which do not take -128), and 32 products with
/// signed bytes stay far below 2³¹.
pub const MAX: f32 = 16_256.0;

/// A block whose largest magnitude is below this counts as zeros: from here on the scale and its inverse are normal
/// numbers of f32.
pub const TINY: f32 = f32::from_bits(0x0d80_0000); // 2⁻¹⁰⁰

/// One row of rounded activations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Q16Row {
    /// Quants, `-16256 ..= 16256`.
    pub q: Vec<i16>,
    /// Scale of each [`BLOCK`].
    pub d: Vec<f32>,
}

/// Rounds one row, whose length is a multiple of [`BLOCK`].
///
/// `d = amax / 16256`, `q = nearest(x · (16256 / amax))`, ties to even. `amax` is the largest magnitude *by bits*, so that
/// a NaN wins; a block with an infinite or NaN element gets d = NaN and zeros, which reaches the result instead of being
/// swallowed. A block below [`TINY`] has d = 0 and zeros.
pub fn quantize_q16(x: &[f32]) -> Q16Row {
    let mut row = Q16Row::default();
    for block in x.chunks(BLOCK) {
        let amax = f32::from_bits(block.iter().map(|v| v.abs().to_bits()).max().unwrap_or(0));
        if amax >= TINY && amax.is_finite() {
            let id = MAX / amax;
            row.q.extend(block.iter().map(|v| ((v * id + ROUND_MAGIC) - ROUND_MAGIC) as i16));
            row.d.push(amax / MAX);
        } else {
            row.q.extend(std::iter::repeat_n(0, block.len()));
            row.d.push(if amax < TINY { 0.0 } else { f32::NAN });
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_within_half_a_step_and_reports_the_infinite() {
        let x: Vec<f32> = (0..512).map(|i| (i as f32 * 0.31).sin() * 1e5).collect();
        let row = quantize_q16(&x);
        for i in 0..512 {
            let d = row.d[i / BLOCK];
            assert!((d * f32::from(row.q[i]) - x[i]).abs() <= d * 0.502, "{i}");
        }
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = x.clone();
            x[300] = bad;
            let row = quantize_q16(&x);
            assert!(row.d[300 / BLOCK].is_nan() && row.d[0].is_finite(), "{bad}");
        }
        for tiny in [-0.0, f32::MIN_POSITIVE, 7e-31] {
            let row = quantize_q16(&[tiny; 32]);
            assert!(row.d == [0.0] && row.q == [0; 32], "{tiny}");
        }
    }

    /// Worked out by hand: 2 is the largest, so a step is 2 / 16256, and 1 is 8128 steps.
    #[test]
    fn a_block_by_hand() {
        let mut x = [0.0; 32];
        (x[0], x[1], x[2], x[3]) = (2.0, -1.0, 1.5 / 8128.0, -2.5 / 8128.0);
        let row = quantize_q16(&x);
        // Ties go to the even neighbour: 1.5 to 2, -2.5 to -2.
        assert_eq!(row.q[..5], [16_256, -8128, 2, -2, 0]);
        assert_eq!(row.d, [2.0 / 16_256.0]);
        let largest = quantize_q16(&[f32::MAX; 32]);
        assert_eq!((largest.q[0], largest.d[0].is_finite()), (16_256, true));
        let least = quantize_q16(&[8e-31; 32]);
        assert_eq!(least.q[31], 16_256);
    }
}
