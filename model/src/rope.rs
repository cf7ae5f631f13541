//! Rotation frequencies from hyper-parameters: base, linear scaling, YaRN, and the factors that a file brings.
//!
//! Everything is computed in f64 with `libm`, so that the table has the same bits on every platform.

use graph::{LongFreqs, RopePairs, RopeTable, Temperature};
use std::f64::consts::PI;

/// YaRN's limits (arXiv 2309.00071, section 3.2): a pair that makes more than `FAST` full turns over the original
/// context keeps its frequency, one that makes fewer than `SLOW` is interpolated in full. llama.cpp reads other values for
/// few architectures.
pub(crate) const YARN_BETA_FAST: f32 = 32.0;
pub(crate) const YARN_BETA_SLOW: f32 = 1.0;

/// How the frequencies are stretched for longer contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Stretch of the context.
        factor: f32,
    },
    /// The frequencies of slow pairs are divided by `factor`, those of fast pairs kept, and those between blended
    /// (arXiv 2309.00071).
    Yarn {
        /// Stretch of the context.
        factor: f32,
        /// Context length before stretching.
        n_ctx_orig: usize,
        /// Full turns over it from which on a pair keeps its frequency.
        fast: f32,
        /// Full turns over it below which a pair is interpolated in full.
        slow: f32,
        /// How much of the attention factor the model makes up for elsewhere: 0 for none, 1 for all.
        log_mul: f32,
    },
}

/// Divisors of the frequencies, one for each pair, read from the file.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeFactors {
    /// None.
    None,
    /// `rope_freqs.weight`, at every context length (Llama 3.1 and later).
    Always(Vec<f32>),
    /// `rope_factors_long.weight` for sequences of more than `n_ctx_orig` positions, else `rope_factors_short.weight`
    /// (longrope, arXiv 2402.13753). As in Hugging Face's transformers the length of the sequence decides, not that of the
    /// context: what a model answers does not depend on how much memory its user gave it.
    ByLength {
        /// Divisors for sequences of up to `n_ctx_orig` positions.
        short: Vec<f32>,
        /// Divisors for longer ones.
        long: Vec<f32>,
        /// Context length before stretching.
        n_ctx_orig: usize,
    },
}

/// One layer's rotary embedding as hyper-parameters; layers share it by index into [`crate::Spec::ropes`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Elements of a head that are rotated; even.
    pub n_rot: usize,
    /// The longest wavelength's base, `theta`.
    pub base: f32,
    /// Pairing.
    pub pairs: RopePairs,
    /// Stretching.
    pub scaling: RopeScaling,
    /// Divisors from the file.
    pub factors: RopeFactors,
    /// Factor on sine and cosine besides YaRN's own.
    pub attn_factor: f32,
    /// Of queries alone: a temperature that grows with their position.
    pub temperature: Option<Temperature>,
}

impl Rope {
    /// The table: `freq[i] = base^(-2i / n_rot) / factor[i]`, then stretched.
    pub fn table(&self) -> RopeTable {
        let (factors, long) = match &self.factors {
            RopeFactors::None => (None, None),
            RopeFactors::Always(factors) => (Some(factors), None),
            RopeFactors::ByLength { short, long, n_ctx_orig } => {
                (Some(short), Some((long, *n_ctx_orig)))
            }
        };
        let long =
            long.map(|(long, above)| LongFreqs { freqs: self.table_of(Some(long)).freqs, above });
        RopeTable { long, ..self.table_of(factors.map(Vec::as_slice)) }
    }

    fn table_of(&self, factors: Option<&[f32]>) -> RopeTable {
        let base = f64::from(self.base);
        let unscaled = (0..self.n_rot / 2).map(|i| {
            let freq = libm::pow(base, -((2 * i) as f64) / self.n_rot as f64);
            freq / factors.map_or(1.0, |f| f64::from(f[i]))
        });
        let mscale = f64::from(self.attn_factor);
        let temperature = self.temperature;
        let table = |freqs, mscale| RopeTable { freqs, long: None, mscale, temperature };
        match self.scaling {
            RopeScaling::None => table(unscaled.collect(), mscale),
            RopeScaling::Linear { factor } => {
                table(unscaled.map(|freq| freq / f64::from(factor)).collect(), mscale)
            }
            RopeScaling::Yarn { factor, n_ctx_orig, fast, slow, log_mul } => {
                let factor = f64::from(factor);
                let ramp = YarnRamp::new(self.n_rot, n_ctx_orig, base, [fast, slow]);
                let stretch = |(i, freq): (usize, f64)| {
                    let share = ramp.share(i);
                    freq / factor * share + freq * (1.0 - share)
                };
                // Stretched attention is flatter; this makes up for it (arXiv 2309.00071, equation 22).
                let flat = |by: f64| 1.0 + 0.1 * by * libm::log(factor.max(1.0));
                let made_up = flat(1.0) / flat(f64::from(log_mul));
                table(unscaled.enumerate().map(stretch).collect(), mscale * made_up)
            }
        }
    }
}

/// The pairs between which YaRN goes over from keeping frequencies to interpolating them, as ggml rounds them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct YarnRamp {
    /// Pairs up to this one keep their frequency.
    low: f64,
    /// From this pair on, frequencies are interpolated in full.
    high: f64,
}

impl YarnRamp {
    fn new(n_rot: usize, n_ctx_orig: usize, base: f64, turns: [f32; 2]) -> Self {
        let [fast, slow] = turns.map(f64::from);
        let n = n_rot as f64;
        // The pair that makes `turns` full turns over the original context.
        let pair = |turns: f64| {
            n * libm::log(n_ctx_orig as f64 / (turns * 2.0 * PI)) / (2.0 * libm::log(base))
        };
        Self { low: libm::floor(pair(fast)).max(0.0), high: libm::ceil(pair(slow)).min(n - 1.0) }
    }

    /// How much of pair `i`'s frequency is interpolated: 0 to 1.
    fn share(self, i: usize) -> f64 {
        ((i as f64 - self.low) / (self.high - self.low).max(0.001)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(n_rot: usize, base: f32) -> Rope {
        Rope {
            n_rot,
            base,
            pairs: RopePairs::Adjacent,
            scaling: RopeScaling::None,
            factors: RopeFactors::None,
            attn_factor: 1.0,
            temperature: None,
        }
    }

    #[test]
    fn powers_of_the_base() {
        let table = plain(8, 10_000.0).table();
        assert_eq!(table.mscale, 1.0);
        for (found, wanted) in table.freqs.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((found / wanted - 1.0).abs() < 1e-15, "{found} {wanted}");
        }
    }

    #[test]
    fn linear_divides_all() {
        let rope = Rope { scaling: RopeScaling::Linear { factor: 8.0 }, ..plain(8, 10_000.0) };
        assert_eq!(rope.table().freqs[0], 0.125);
    }

    #[test]
    fn llama3_factors_divide_each() {
        let rope =
            Rope { factors: RopeFactors::Always(vec![1.0, 2.0, 4.0, 8.0]), ..plain(8, 10_000.0) };
        let (table, unscaled) = (rope.table().freqs, plain(8, 10_000.0).table().freqs);
        assert_eq!(table, [unscaled[0], unscaled[1] / 2.0, unscaled[2] / 4.0, unscaled[3] / 8.0]);
    }

    #[test]
    fn longrope_has_two_sets() {
        let factors = RopeFactors::ByLength { short: vec![1.0], long: vec![4.0], n_ctx_orig: 4096 };
        let rope = Rope { factors, attn_factor: 1.19, ..plain(2, 10_000.0) };
        let long = Some(LongFreqs { freqs: vec![0.25], above: 4096 });
        assert_eq!(
            rope.table(),
            RopeTable { freqs: vec![1.0], long, mscale: f64::from(1.19f32), temperature: None }
        );
    }

    /// Ministral 3's: what the factor would add is made up for in full.
    #[test]
    fn yarn_with_a_logarithm_s_factor_of_1_leaves_sizes_as_they_are() {
        let scaling = RopeScaling::Yarn {
            factor: 16.0,
            n_ctx_orig: 16384,
            fast: 32.0,
            slow: 1.0,
            log_mul: 1.0,
        };
        let rope = Rope { scaling, ..plain(128, 1_000_000.0) };
        assert_eq!(rope.table().mscale, 1.0);
    }

    /// 1 + 0.1·ln(1 + 40000/16384 rounded down) = 1 + 0.1·ln 3.
    #[test]
    fn a_temperature_grows_with_the_position() {
        let temperature = Some(Temperature { scale: 0.1, length: 16384 });
        let table = Rope { temperature, ..plain(8, 10_000.0) }.table();
        assert_eq!((table.mscale_at(0), table.mscale_at(16383)), (1.0, 1.0));
        assert!((table.mscale_at(40_000) - 1.109_861_228_866_811).abs() < 1e-15);
    }

    /// Qwen2.5's long-context setting. corr(32) = 128·ln(32768/(64π))/(2·ln 1e6) = 23.59…, corr(1) = 39.65….
    #[test]
    fn yarn_keeps_fast_and_stretches_slow() {
        let rope = Rope {
            scaling: RopeScaling::Yarn {
                factor: 4.0,
                n_ctx_orig: 32768,
                fast: YARN_BETA_FAST,
                slow: YARN_BETA_SLOW,
                log_mul: 0.0,
            },
            ..plain(128, 1_000_000.0)
        };
        assert_eq!(YarnRamp::new(128, 32768, 1e6, [32.0, 1.0]), YarnRamp { low: 23.0, high: 40.0 });
        let (table, unscaled) = (rope.table(), plain(128, 1_000_000.0).table().freqs);
        assert_eq!(table.freqs[..24], unscaled[..24]);
        for i in 40..64 {
            assert_eq!(table.freqs[i], unscaled[i] / 4.0, "{i}");
        }
        let ramp = (30.0 - 23.0) / (40.0 - 23.0);
        let wanted = unscaled[30] / 4.0 * ramp + unscaled[30] * (1.0 - ramp);
        assert!((table.freqs[30] / wanted - 1.0).abs() < 1e-15);
        assert!((table.mscale - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-15);
    }
}
