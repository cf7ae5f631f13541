//! Quantises activations to 8 bits. Meaning: `graph::ops::quantize_q8`.
//!
//! The tokens of a step lie in groups of [`Isa::TOKENS`], a group's words (four quants each) side by side: a kernel that
//! multiplies a group reads one stream.
//!
//! v1: plain loops in the shape that compilers vectorise: 3.6 cycles an element with AVX-512, most of it in horizontal
//! sums and in the rounding of single scales to f16. v2 (this): vectors throughout, the scales of 16 blocks at once.

use super::lanes;
use super::rounded::{Activations, Groups, largest, nearest, words};
use crate::pool::Workers;
use crate::simd::{Isa, Kernel, LANES};
use graph::ints::Q8Format;
use std::cmp::Ordering;

/// Quantised activations of all tokens of a step, with the sums that the kernels want.
pub(crate) type Q8Rows = Groups<Q8Group>;

/// Some tokens' rows; in every field the tokens lie side by side: entry `i` of token t stands at `i · tokens + t`.
#[derive(Clone, Default)]
pub(crate) struct Q8Group {
    /// Tokens of this group.
    pub(crate) tokens: usize,
    /// Four quants to an i32, little-endian: `[n_in / 4]`.
    pub(crate) q: Vec<i32>,
    /// Scale of each block.
    pub(crate) d: Vec<f32>,
    /// Rounded `d · Σq` of each block ([`Q8Format::Q8x32`] only).
    pub(crate) s: Vec<f32>,
    /// Sums of 16 quants ([`Q8Format::Q8x256`] only).
    pub(crate) sums16: Vec<i32>,
    /// Sums of 32 quants.
    pub(crate) sums32: Vec<i32>,
    /// Two neighbours of `sums16` as the halves of a word ([`Q8Format::Q8x256`] only).
    pub(crate) pairs16: Vec<i32>,
    /// Two neighbours of `sums32` as the halves of a word ([`Q8Format::Q8x256`] only).
    pub(crate) pairs32: Vec<i32>,
}

impl Q8Rows {
    /// Quantises `x`.
    pub(crate) fn quantize(&mut self, format: Q8Format, x: Activations<'_>, workers: Workers<'_>) {
        let (level, n_in) = (workers.level, x.n_in);
        self.fill(x, workers, |group, x| {
            group.resize(format, n_in, x.len() / n_in);
            level.run(Quantize { format, x, n_in, group });
        });
    }
}

impl Q8Group {
    fn resize(&mut self, format: Q8Format, n_in: usize, tokens: usize) {
        let (block, k) = match format {
            Q8Format::Q8x32 => (32, 0),
            Q8Format::Q8x256 => (256, 1),
        };
        self.tokens = tokens;
        self.q.resize(n_in / 4 * tokens, 0);
        self.d.resize(n_in / block * tokens, 0.0);
        self.s.resize(n_in / 32 * tokens * (1 - k), 0.0);
        self.sums16.resize(n_in / 16 * tokens * k, 0);
        self.sums32.resize(n_in / 32 * tokens, 0);
        self.pairs16.resize(n_in / 32 * tokens * k, 0);
        self.pairs32.resize(n_in / 64 * tokens * k, 0);
    }
}

struct Quantize<'a> {
    format: Q8Format,
    x: &'a [f32],
    n_in: usize,
    group: &'a mut Q8Group,
}

impl Kernel for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (t, x) in self.x.chunks_exact(self.n_in).enumerate() {
            match self.format {
                Q8Format::Q8x32 => q8x32(isa, x, t, self.group),
                Q8Format::Q8x256 => q8x256(isa, x, t, self.group),
            }
        }
    }
}

/// The quants of 16 elements as words of four, and their lanes.
#[inline(always)]
fn round<I: Isa>(isa: I, x: I::F, id: f32) -> ([i32; 4], I::I) {
    // `x · id` is within ±127. (Not so in a block with NaN or infinity: there any quants will do, since d is NaN.)
    let quants = nearest(isa, isa.f_mul(x, isa.f_splat(id)));
    (words(isa, quants), quants)
}

/// Two signed 16-bit halves of a word.
fn pair(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

/// Sixteen blocks of 32 at a time, so that their scales are one vector.
#[inline(always)]
fn q8x32<I: Isa>(isa: I, x: &[f32], t: usize, group: &mut Q8Group) {
    let n = group.tokens;
    let (mut first, mut rest) = (0, x);
    while !rest.is_empty() {
        let (x, more) = rest.split_at(rest.len().min(32 * LANES));
        rest = more;
        let (mut ids, mut sums) = ([0.0; LANES], [0; LANES]);
        let (zero, max) = (isa.f_splat(0.0), largest(isa, x));
        // Not finite: the largest finite number is below it, or not comparable.
        let d = isa.f_div(max, isa.f_splat(127.0));
        let d = isa.f_lt(max, isa.f_splat(f32::INFINITY), d, isa.f_splat(f32::NAN));
        let id = isa.f_lt(zero, max, isa.f_div(isa.f_splat(127.0), max), zero);
        isa.f_store(id, &mut ids);
        let words = group.q[8 * first * n..].chunks_exact_mut(8 * n);
        for (((x, words), &id), sum) in x.chunks_exact(32).zip(words).zip(&ids).zip(&mut sums) {
            let (a, b) = (isa.f_load(lanes(x, 0)), isa.f_load(lanes(x, LANES)));
            let ((low, a), (high, b)) = (round(isa, a, id), round(isa, b, id));
            *sum = isa.i_total(isa.i_add(a, b));
            for i in 0..4 {
                words[i * n + t] = low[i];
                words[(4 + i) * n + t] = high[i];
            }
        }
        let (mut ds, mut ss) = ([0.0; LANES], [0.0; LANES]);
        isa.f_store(isa.f_round_f16(d), &mut ds);
        let s = isa.f_mul(d, isa.f_from_i(isa.i_load(&sums)));
        isa.f_store(isa.f_round_f16(s), &mut ss);
        for b in 0..x.len() / 32 {
            let at = (first + b) * n + t;
            group.d[at] = ds[b];
            group.s[at] = ss[b];
            group.sums32[at] = sums[b];
        }
        first += LANES;
    }
}

#[inline(always)]
fn q8x256<I: Isa>(isa: I, x: &[f32], t: usize, group: &mut Q8Group) {
    let n = group.tokens;
    for (b, x) in x.chunks_exact(256).enumerate() {
        let (d, iscale) = scale256(isa, x);
        group.d[b * n + t] = d;
        let mut sums = [0i32; 16];
        let words = group.q[64 * b * n..].chunks_exact_mut(4 * n);
        for ((x, words), sum) in x.chunks_exact(LANES).zip(words).zip(&mut sums) {
            let (word, quants) = round(isa, isa.f_load(lanes(x, 0)), iscale);
            *sum = isa.i_total(quants);
            for i in 0..4 {
                words[i * n + t] = word[i];
            }
        }
        let mut sums32 = [0i32; 8];
        for i in 0..8 {
            sums32[i] = sums[2 * i] + sums[2 * i + 1];
            group.sums32[(8 * b + i) * n + t] = sums32[i];
            group.pairs16[(8 * b + i) * n + t] = pair(sums[2 * i], sums[2 * i + 1]);
        }
        for (i, sum) in sums.iter().enumerate() {
            group.sums16[(16 * b + i) * n + t] = *sum;
        }
        for i in 0..4 {
            group.pairs32[(4 * b + i) * n + t] = pair(sums32[2 * i], sums32[2 * i + 1]);
        }
    }
}

/// `d` and `iscale` of a block of 256: `-127 / max` with the element of largest magnitude, the first of equals.
#[inline(always)]
fn scale256<I: Isa>(isa: I, x: &[f32]) -> (f32, f32) {
    let sign = isa.i_splat(i32::MIN);
    // A positive number's bits are a positive integer, a negative one's turn positive with the sign bit flipped.
    let (mut plus, mut minus) = (isa.i_splat(0), isa.i_splat(0));
    for x in x.chunks_exact(LANES) {
        let bits = isa.f_bits(isa.f_load(lanes(x, 0)));
        plus = isa.i_max(plus, bits);
        minus = isa.i_max(minus, isa.i_sub(bits, sign));
    }
    let (plus, minus) = (isa.i_largest(plus), isa.i_largest(minus));
    let amax = f32::from_bits(plus.max(minus) as u32);
    if amax == 0.0 {
        return (0.0, 0.0);
    }
    if !amax.is_finite() {
        return (f32::NAN, 0.0);
    }
    let max = match plus.cmp(&minus) {
        Ordering::Greater => amax,
        Ordering::Less => -amax,
        Ordering::Equal => x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax),
    };
    let iscale = -127.0 / max;
    (1.0 / iscale, iscale)
}
