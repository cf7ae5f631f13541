//! Matrix units (wgpu's cooperative matrices): how the integer products of the contract become products of f16 numbers
//! with sums in f32, all of them exact.
//!
//! An f16 holds every integer up to 2048, an f32 up to 2^24. A weight is its quant times its integer scale, an activation
//! at most 127. Where that weight may be above 2048, its quant is split into high and low bits, each times the scale.

use crate::shaders::by_sixteen;
use crate::template::Defines;
use gguf::DType;
use gguf::quant::{Codes, Shape};
use graph::ints::{Form, form};

/// A device's matrix unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Rows and columns of a fragment: 8 or 16.
    pub size: u32,
    /// Threads that multiply a fragment together.
    pub subgroup: u32,
}

/// The units that devices are known to have: NVIDIA's, AMD's and Apple's shapes, and Mesa's in software.
pub fn known() -> [Matrix; 3] {
    [(16, 32), (8, 32), (8, 8)].map(|(size, subgroup)| Matrix { size, subgroup })
}

/// What a workgroup multiplies: `sub_rows` by `sub_tokens` subgroups, each with 32 rows of weights and 32 tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    sub_rows: u32,
    sub_tokens: u32,
}

/// Rows of weights and rows of activations of a subgroup.
const SUB: u32 = 32;
/// The largest activation.
const ACT_MOST: u32 = 127;
/// The integers that f16 and f32 hold without a gap.
const F16_WHOLE: u32 = 1 << 11;
const F32_WHOLE: u32 = 1 << 24;

impl Matrix {
    /// The tile of a workgroup: as many threads as rows, at least.
    pub(crate) fn tile(self) -> Tile {
        if self.subgroup >= SUB {
            Tile { sub_rows: 2, sub_tokens: 2 }
        } else {
            Tile { sub_rows: 1, sub_tokens: SUB / self.subgroup }
        }
    }

    /// Workgroups for `count` rows of weights by `rows` rows of activations.
    pub(crate) fn grid(self, count: u32, rows: u32) -> [u32; 3] {
        let tile = self.tile();
        [count.div_ceil(tile.rows()), rows.div_ceil(tile.tokens()), 1]
    }

    /// Bytes of a workgroup's memory that `mat_mul_coop.wgsl` takes at most: a stage of weights, split, or with minimums,
    /// a stage of activations, a fragment for each subgroup, and scales.
    pub(crate) fn shared_memory(self) -> u32 {
        let tile = self.tile();
        let (rows, tokens) = (tile.rows(), tile.tokens());
        let subgroups = tile.sub_rows * tile.sub_tokens;
        let stage = (rows + tokens) * 80 + (rows * 80).max((rows + tokens) * 48);
        stage + subgroups * self.size * (self.size + 4) * 4 + (rows + tokens) * 16
    }
}

impl Tile {
    pub(crate) fn rows(self) -> u32 {
        self.sub_rows * SUB
    }

    pub(crate) fn tokens(self) -> u32 {
        self.sub_tokens * SUB
    }
}

/// How the quants of a format are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exact {
    /// What is taken from a stored byte to get the quant.
    bias: u32,
    /// Low bits that are multiplied by themselves; 0 where nothing is split.
    shift: u32,
    /// Elements whose sum an f32 holds.
    span: usize,
}

impl Exact {
    fn of(form: &Form) -> Self {
        let bias = match form.codes {
            Codes::Plain { offset, .. } => offset as u32,
            Codes::Bytes | Codes::Table(_) => 128,
        };
        let stored = |q: i8| (i32::from(q) + bias as i32) as u32;
        let (least, most) = form.codes.values().fold((stored(0), stored(0)), |(least, most), q| {
            (least.min(stored(q)), most.max(stored(q)))
        });
        let magnitude = |shift: u32| {
            let (bias, least, most) = (bias >> shift, least >> shift, most >> shift);
            bias.abs_diff(least).max(bias.abs_diff(most))
        };
        let scale = match form.shape {
            Shape::One { .. } => 1,
            Shape::Runs { largest_scale, .. } => u32::from(largest_scale),
        };
        let span = |weight: u32| {
            let mut span = form.block_len();
            while u64::from(weight) * u64::from(ACT_MOST) * span as u64 > u64::from(F32_WHOLE) {
                span /= 2;
            }
            span
        };
        let whole = magnitude(0) * scale;
        if whole <= F16_WHOLE {
            return Self { bias, shift: 0, span: span(whole) };
        }
        // Three bits below: seven times any scale of eight bits is below 1024, and so is what lies above.
        let shift = 3;
        let parts = (magnitude(shift) * scale).max(7 * scale);
        debug_assert!(parts <= F16_WHOLE);
        Self { bias, shift, span: span(parts) }
    }
}

/// The constants of `mat_mul_coop.wgsl` beside the format's.
pub(crate) fn defines(dtype: DType, matrix: Matrix) -> Defines {
    let Some(form) = form(dtype) else { return Defines::new() };
    let tile = matrix.tile();
    let (size, rows, tokens) = (matrix.size, tile.rows(), tile.tokens());
    let subgroups = tile.sub_rows * tile.sub_tokens;
    let threads = subgroups * matrix.subgroup;
    let each = size * size / matrix.subgroup;
    // Fragments begin at every `size`-th number, counted in fours.
    let starts = |n: u32| -> String {
        let fours = (0..n).step_by(size as usize).map(|k| (k / 4).to_string());
        fours.collect::<Vec<_>>().join(" ")
    };
    by_format(&form)
        .set("SIZE", &size)
        .set("ROWS", &rows)
        .set("TOKENS", &tokens)
        .set("THREADS", &threads)
        .set("SUBGROUPS", &subgroups)
        .set("A_EACH", &(2 * rows).div_ceil(threads))
        .set("X_EACH", &(2 * tokens).div_ceil(threads))
        .set("TOKEN_EACH", &tokens.div_ceil(threads))
        .set("MIN_EACH", &(min_words(&form) as u32 * rows).div_ceil(threads))
        .set("SUM_EACH", &(4 * tokens).div_ceil(threads))
        .set("SUB_ROWS", &tile.sub_rows)
        .set("FRAGMENTS", &(SUB / size))
        .set("EACH", &each)
        .set("K_STEPS", &starts(32))
        .set("SUM_K_STEPS", &starts(16))
}

/// Words of one row's integer minimums in a block, where the format has them.
fn min_words(form: &Form) -> usize {
    form.n_runs() / 4
}

fn by_format(form: &Form) -> Defines {
    let Exact { bias, shift, span } = Exact::of(form);
    let split = shift > 0;
    let to_unsigned = match form.codes {
        Codes::Plain { .. } => "",
        Codes::Bytes | Codes::Table(_) => " ^ 0x80808080u",
    };
    let by_sixteen = by_sixteen(form);
    let mask = |byte: u32| format!("0x{:08x}u", byte * 0x0101_0101);
    Defines::new()
        .flag("HIGH_LOW", split)
        .flag("SINGLE", !split && span == form.block_len())
        .set("SPAN_UNITS", &(span / 32))
        // Two sums below 2^24 are rounded once when they are added: what the integer sum gives as f32, too.
        .set("SUM_TYPE", if !split && form.block_len() / span == 2 { "f32" } else { "i32" })
        .set("TO_UNSIGNED", to_unsigned)
        .set("LESS", &format!("{}.0h", 1024 + (bias >> shift)))
        .set("SHIFT", &shift)
        .set("LOW_MASK", &mask((1 << shift) - 1))
        .set("HIGH_MASK", &mask(255 >> shift))
        .set("FIRST_RUN", if by_sixteen { "a_h{{I}}" } else { "0u" })
        .set("NEXT_RUN", if by_sixteen { "2u * next_u + a_h{{I}}" } else { "next_u" })
        .flag("MIN_TWICE", !by_sixteen)
        .set("MIN_WORDS", &min_words(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sum_fits() {
        for dtype in DType::ALL {
            let Some(form) = form(dtype) else { continue };
            let Exact { bias, shift, span } = Exact::of(&form);
            assert!(span >= 32 && form.block_len().is_multiple_of(span), "{dtype}: {span}");
            assert_eq!(bias % (1 << shift), 0, "{dtype}");
        }
        let of = |dtype| Exact::of(&form(dtype).unwrap());
        assert_eq!(of(DType::Q8_0), Exact { bias: 128, shift: 0, span: 32 });
        assert_eq!(of(DType::Q4_K), Exact { bias: 0, shift: 0, span: 128 });
        assert_eq!(of(DType::Q5_K), Exact { bias: 0, shift: 0, span: 64 });
        assert_eq!(of(DType::Q6_K), Exact { bias: 32, shift: 3, span: 128 });
        assert_eq!(of(DType::Q3_K), Exact { bias: 4, shift: 0, span: 256 });
    }
}
