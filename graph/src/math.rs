//! The numerics contract for scalars and sums: written once from IEEE add, mul, fma, div, sqrt and integer steps, so
//! that every backend can give the same bits. Backends translate these lines; they do not invent their own.

use half::f16;

/// Elements in one chain of a float dot product (see [`dot_f32`]).
pub const DOT_CHUNK: usize = 256;

/// Partial sums of [`sum_strided`].
pub const SUM_LANES: usize = 64;

/// `a·b + c`, rounded once.
///
/// Not `f32::mul_add` everywhere: where the compiler may not use the processor's instruction, that calls a function of the
/// system's C library, and MinGW's rounds twice.
#[inline(always)]
pub fn fma(a: f32, b: f32, c: f32) -> f32 {
    #[allow(clippy::disallowed_methods, reason = "this is what all others call")]
    if cfg!(windows) { libm::fmaf(a, b, c) } else { a.mul_add(b, c) }
}

/// `Σ w[k]·x[k]`: chunks of [`DOT_CHUNK`] elements, each one chain of fused multiply-adds from +0 in index order;
/// the chunk sums are added in order, from +0.
///
/// One output needs no partial sums across lanes, so a kernel whose lanes are rows (CPU, repacked) or outputs (GPU
/// tiles) follows the rule by nature, and a long row still splits into chunks for parallel work.
pub fn dot_f32(w: &[f32], x: &[f32]) -> f32 {
    let mut total = 0.0;
    for (w, x) in w.chunks(DOT_CHUNK).zip(x.chunks(DOT_CHUNK)) {
        let mut acc = 0.0f32;
        for (w, x) in w.iter().zip(x) {
            acc = fma(*w, *x, acc);
        }
        total += acc;
    }
    total
}

/// Sum in [`SUM_LANES`] strided partial sums, each updated by `step(partial, element)`, then a halving tree:
/// lane `i` takes lane `i + 32`, then `i + 16`, … `i + 1`.
pub fn sum_strided(x: &[f32], step: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; SUM_LANES];
    for (i, &v) in x.iter().enumerate() {
        lanes[i % SUM_LANES] = step(lanes[i % SUM_LANES], v);
    }
    let mut half = SUM_LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// `log2(e)`.
pub const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// `1.5 · 2²³`: adding it rounds to the nearest integer, ties to even.
pub const ROUND_MAGIC: f32 = 12_582_912.0;
/// High part of `ln 2`: nine bits, so that `n · LN2_HI` is exact.
pub const LN2_HI: f32 = 0.693_359_4;
/// `ln 2 - LN2_HI`.
pub const LN2_LO: f32 = -2.121_944_4e-4;
/// Above this `exp` is +inf.
pub const EXP_MAX: f32 = 88.0;
/// Below this `exp` is +0. No result is denormal, since GPUs may flush those.
pub const EXP_MIN: f32 = -87.0;
/// Cephes' `expf` polynomial, highest power first; the second is 1.3981999507e-3 there, the next f32 below.
pub const EXP_POLY: [f32; 6] =
    [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1];

/// `eˣ` within 2 ulp on `[EXP_MIN, EXP_MAX]`; +0 below, +inf above, NaN for NaN.
pub fn exp(x: f32) -> f32 {
    if x < EXP_MIN {
        return 0.0;
    }
    if x > EXP_MAX {
        return f32::INFINITY;
    }
    let n = fma(x, LOG2_E, ROUND_MAGIC) - ROUND_MAGIC;
    let r = fma(n, -LN2_LO, fma(n, -LN2_HI, x));
    let mut p = EXP_POLY[0];
    for &c in &EXP_POLY[1..] {
        p = fma(p, r, c);
    }
    let y = fma(p, r * r, r) + 1.0;
    // Exact: y is near 1 and n is in -126 ..= 127. A NaN has n = 0 after the cast and stays a NaN in y.
    y * f32::from_bits(((n as i32 + 127) as u32) << 23)
}

/// `x · σ(x)`.
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `-2·sqrt(2/π)`.
pub const GELU_K: f32 = -1.595_769_2;
/// The cubic coefficient of GELU's tanh form.
pub const GELU_C: f32 = 0.044_715;

/// What [`swiglu_oai`] multiplies the gate by inside the exponential.
pub const OAI_K: f32 = -1.702;
/// Where it clamps.
pub const OAI_LIMIT: f32 = 7.0;

/// gpt-oss's gated unit: `g · σ(1.702 · g) · (u + 1)` of the gate that is at most 7 and an up that is clamped to ±7.
pub fn swiglu_oai(gate: f32, up: f32) -> f32 {
    let gate = if gate > OAI_LIMIT { OAI_LIMIT } else { gate };
    let up = if up > OAI_LIMIT { OAI_LIMIT } else { up };
    let up = if up < -OAI_LIMIT { -OAI_LIMIT } else { up };
    gate / (1.0 + exp(OAI_K * gate)) * (up + 1.0)
}

/// GELU's tanh form through the logistic function: `x · σ(2·sqrt(2/π)·(x + 0.044715 x³))`. No tanh, hence no NaN for
/// large |x|.
pub fn gelu_tanh(x: f32) -> f32 {
    let u = fma(GELU_C * (x * x), x, x);
    x / (1.0 + exp(GELU_K * u))
}

/// `max(x, 0)²`; 0 for NaN, as in ggml.
pub fn relu_squared(x: f32) -> f32 {
    let positive = if 0.0 < x { x } else { 0.0 };
    positive * positive
}

/// The nearest number from `-limit` to `limit`; NaN stays.
pub fn clamp(x: f32, limit: f32) -> f32 {
    let x = if x < -limit { -limit } else { x };
    if limit < x { limit } else { x }
}

/// `cap · tanh(x / cap)`, with `tanh y = 1 - 2 / (1 + e^(2y))`.
pub fn softcap(x: f32, cap: f32) -> f32 {
    cap * (1.0 - 2.0 / (1.0 + exp(2.0 * (x / cap))))
}

/// f32 to f16 and back, to nearest even.
pub fn round_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// Cosine and sine of `position · freq` times `mscale`, from f64 in software (crate libm), so that tables are the same
/// bits on every platform.
pub fn rope_angle(position: u32, freq: f64, mscale: f64) -> (f32, f32) {
    let angle = f64::from(position) * freq;
    ((libm::cos(angle) * mscale) as f32, (libm::sin(angle) * mscale) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first is one that MinGW's function gets wrong, by exact fractions: the sum lies 0.0075 above 49224d3d and 0.055
    /// below 49224d3e. The second and third are right only with one rounding, the last where a denormal is the result.
    #[test]
    fn fma_rounds_once() {
        for [a, b, c, want] in [
            [0x4e32_ab66, 0x3a68_8c49, 0xaaf2_b123, 0x4922_4d3d],
            [0x3f80_0001, 0x3f80_0001, 0xbf80_0002, 0x2880_0000],
            [0x3f80_0001, 0x3f7f_fffe, 0xbf80_0000, 0xa880_0000],
            [0x0080_0001, 0x3f00_0000, 0x0000_0000, 0x0040_0000],
        ] {
            let [a, b, c] = [a, b, c].map(f32::from_bits);
            assert_eq!(fma(a, b, c).to_bits(), want, "{a} {b} {c}");
        }
    }

    /// What Windows computes with has the bits of the function that others call.
    #[test]
    fn fma_is_the_same_in_software() {
        let mut rng = crate::cases::Rng::new(7);
        for _ in 0..200_000 {
            let [a, b, c] = [(); 3].map(|()| f32::from_bits(rng.bits() as u32));
            let (ours, software) = (fma(a, b, c), libm::fmaf(a, b, c));
            let same = ours.to_bits() == software.to_bits() || (ours.is_nan() && software.is_nan());
            assert!(same, "{a:e} {b:e} {c:e}: {ours:e} and {software:e}");
        }
    }

    #[test]
    fn exp_is_close_and_monotone_at_the_ends() {
        let mut worst = 0.0f64;
        for i in 0..2_000_000 {
            let x = EXP_MIN + (EXP_MAX - EXP_MIN) * (i as f32 / 2_000_000.0);
            let want = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) / want - 1.0).abs());
        }
        assert!(worst < 2.0 * f64::from(f32::EPSILON), "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(200.0), f32::INFINITY);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(f32::NAN).is_nan());
        assert!(exp(EXP_MIN) >= f32::MIN_POSITIVE);
    }

    /// The constants as Cephes prints them (`single/expf.c`), but for the second, which is one ulp larger here: a slip
    /// that moves a result by 2e-13 of itself before it is rounded, and is part of the contract now.
    #[test]
    fn exp_has_the_constants_of_cephes() {
        let printed = [
            ("1.9875691500E-4", 0),
            ("1.3981999507E-3", 1),
            ("8.3334519073E-3", 0),
            ("4.1665795894E-2", 0),
            ("1.6666665459E-1", 0),
            ("5.0000001201E-1", 0),
        ];
        for (ours, (text, ulps)) in EXP_POLY.iter().zip(printed) {
            assert_eq!(ours.to_bits(), text.parse::<f32>().unwrap().to_bits() + ulps, "{text}");
        }
        assert_eq!(LN2_HI.to_bits(), "0.693359375".parse::<f32>().unwrap().to_bits());
        assert_eq!(LN2_LO.to_bits(), "-2.12194440e-4".parse::<f32>().unwrap().to_bits());
        assert_eq!(LOG2_E.to_bits(), "1.44269504088896341".parse::<f32>().unwrap().to_bits());
    }

    /// Results in bits, computed in Python with exact fractions and a rounding to f32 after each step of the rule. The
    /// first five are arguments for which a last coefficient of the polynomial that is one ulp off would show.
    #[test]
    fn exp_and_what_is_made_of_it_have_these_bits() {
        for (x, want) in [
            (0xc11414c6, 0x38c88a84),
            (0xc28e12dc, 0x0c36f9dd),
            (0x42888458, 0x70b20dfd),
            (0x421d13f9, 0x5bc96662),
            (0xc23a64b7, 0x1ddab244),
        ] {
            assert_eq!(exp(f32::from_bits(x)).to_bits(), want, "{x:08x}");
        }
        for (x, want) in [
            (-3.75, [0x3cc0a84a, 0xbdb07759, 0xb965e70e, 0xc06ec203]),
            (-1.0, [0x3ebc5ab2, 0xbe89b2b1, 0xbe229e90, 0xbf7fe790]),
            (-0.34, [0x3f363694, 0xbe10c4ab, 0xbdff81ff, 0xbeae12a8]),
            (0.1, [0x3f8d763e, 0x3d57080f, 0x3d5d1d05, 0x3dcccdb0]),
            (0.69, [0x3fff3212, 0x3eeb45d6, 0x3f055521, 0x3f309bc2]),
            (2.5, [0x4142eb7f, 0x4013dcd9, 0x401f08dc, 0x401fa173]),
            (10.125, [0x46c2fe83, 0x4121fe57, 0x41220000, 0x411c1df2]),
        ] {
            let got = [exp(x), silu(x), gelu_tanh(x), softcap(x, 30.0)].map(f32::to_bits);
            assert_eq!(got, want, "{x}");
        }
    }

    #[test]
    fn gates_are_close_and_finite() {
        for i in -100_000..100_000 {
            let x = i as f32 * 0.01;
            let v = f64::from(x);
            let silu64 = v / (1.0 + (-v).exp());
            assert!((f64::from(silu(x)) - silu64).abs() <= 1e-6 * silu64.abs() + 1e-30, "{x}");
            let u = (2.0 / std::f64::consts::PI).sqrt() * (v + 0.044715 * v * v * v);
            let gelu64 = 0.5 * v * (1.0 + u.tanh());
            assert!((f64::from(gelu_tanh(x)) - gelu64).abs() <= 1e-5 * gelu64.abs() + 1e-6, "{x}");
            let cap64 = 30.0 * (v / 30.0).tanh();
            assert!((f64::from(softcap(x, 30.0)) - cap64).abs() <= 1e-5, "{x}");
        }
        assert!(gelu_tanh(-1e30).abs() == 0.0 && gelu_tanh(1e30) == 1e30);
    }

    #[test]
    fn ends_are_cut_off() {
        for (x, squared, clamped) in
            [(-3.0, 0.0, -2.5), (-0.5, 0.0, -0.5), (0.5, 0.25, 0.5), (3.0, 9.0, 2.5)]
        {
            assert_eq!((relu_squared(x), clamp(x, 2.5)), (squared, clamped), "{x}");
        }
        assert!(relu_squared(f32::NAN) == 0.0 && clamp(f32::NAN, 2.5).is_nan());
        assert_eq!((relu_squared(f32::NEG_INFINITY), clamp(f32::INFINITY, 2.5)), (0.0, 2.5));
    }

    #[test]
    fn the_sum_tree_is_the_written_one() {
        let x: Vec<f32> = (0..130).map(|i| (i as f32).sin()).collect();
        let lane = |i: usize| x.iter().skip(i).step_by(64).fold(0.0f32, |a, v| a + v);
        let mut tree: Vec<f32> = (0..64).map(lane).collect();
        for half in [32, 16, 8, 4, 2, 1] {
            tree = (0..half).map(|i| tree[i] + tree[i + half]).collect();
        }
        assert_eq!(sum_strided(&x, |a, v| a + v).to_bits(), tree[0].to_bits());
    }
}
