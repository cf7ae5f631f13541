//! The rounded activations of a step, in whatever way the weights want them, and what both ways of rounding share.

use super::lanes;
use super::quantize_q8::Q8Rows;
use super::quantize_q16::Q16Rows;
use crate::pool::Workers;
use crate::simd::{Isa, LANES};
use graph::ints::Rounding;
use graph::math::ROUND_MAGIC;

/// Room for rounded activations: of one way at a time.
#[derive(Default)]
pub(crate) struct Rounded {
    q8: Q8Rows,
    q16: Q16Rows,
    is_q16: bool,
}

/// Activations to be rounded.
#[derive(Clone, Copy)]
pub(crate) struct Activations<'a> {
    /// `[tokens, n_in]`
    pub(crate) x: &'a [f32],
    pub(crate) n_in: usize,
    /// How many of the tokens of each group there are; `None` for all.
    pub(crate) counts: Option<&'a [usize]>,
}

/// Rounded activations, `[tokens, n_in]`.
#[derive(Clone, Copy)]
pub(crate) enum RoundedRows<'a> {
    Q8(&'a Q8Rows),
    Q16(&'a Q16Rows),
}

impl Rounded {
    /// Rounds `x`.
    pub(crate) fn round(&mut self, rounding: Rounding, x: Activations<'_>, workers: Workers<'_>) {
        self.is_q16 = rounding == Rounding::Q16;
        match rounding {
            Rounding::Q8(format) => self.q8.quantize(format, x, workers),
            Rounding::Q16 => self.q16.quantize(x, workers),
        }
    }

    /// What was rounded last.
    pub(crate) fn rows(&self) -> RoundedRows<'_> {
        if self.is_q16 { RoundedRows::Q16(&self.q16) } else { RoundedRows::Q8(&self.q8) }
    }
}

impl RoundedRows<'_> {
    /// Tokens in all.
    pub(crate) fn tokens(&self) -> usize {
        match self {
            Self::Q8(rows) => rows.tokens(),
            Self::Q16(rows) => rows.tokens(),
        }
    }
}

/// The rows of all tokens of a step in groups of [`Isa::TOKENS`]: what a kernel multiplies at a time.
#[derive(Default)]
pub(crate) struct Groups<G> {
    tokens: usize,
    /// Tokens of a whole group.
    width: usize,
    groups: Vec<G>,
}

impl<G: Clone + Default + Send> Groups<G> {
    /// Has every group filled from its rows of `x`.
    pub(super) fn fill(
        &mut self,
        x: Activations<'_>,
        workers: Workers<'_>,
        round: impl Fn(&mut G, &[f32]) + Sync,
    ) {
        let Workers { level, pool } = workers;
        let Activations { x, n_in, counts } = x;
        self.tokens = x.len() / n_in;
        self.width = level.tokens();
        let width = self.width;
        let n_groups = self.tokens.div_ceil(width);
        if self.groups.len() < n_groups {
            self.groups.resize(n_groups, G::default());
        }
        pool.rows(&mut self.groups[..n_groups], 1, |first, groups| {
            for (i, group) in groups.iter_mut().enumerate() {
                let from = (first + i) * width * n_in;
                let there = counts.map_or(width, |counts| counts[first + i]);
                round(group, &x[from..x.len().min(from + there * n_in)]);
            }
        });
    }

    /// Tokens in all.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The groups that hold the tokens from `start` (the first of a group) to `end`.
    #[inline(always)]
    pub(crate) fn groups(&self, start: usize, end: usize) -> &[G] {
        &self.groups[start / self.width..end.div_ceil(self.width)]
    }
}

/// The bits of |x|: as integers they are in the order of the magnitudes, infinity and then NaN above the rest.
#[inline(always)]
pub(super) fn magnitude<I: Isa>(isa: I, x: I::F) -> I::I {
    isa.i_and(isa.f_bits(x), isa.i_splat(0x7fff_ffff))
}

/// The largest magnitude of each 32 elements of up to sixteen times as many; 0 in the lanes beyond.
#[inline(always)]
pub(super) fn largest<I: Isa>(isa: I, x: &[f32]) -> I::F {
    let mut amax = [0; LANES];
    for (amax, x) in amax.iter_mut().zip(x.chunks_exact(32)) {
        let (a, b) = (isa.f_load(lanes(x, 0)), isa.f_load(lanes(x, LANES)));
        *amax = isa.i_largest(isa.i_max(magnitude(isa, a), magnitude(isa, b)));
    }
    isa.f_from_bits(isa.i_load(&amax))
}

/// To the nearest integer, ties to even; |x| is below 2²². (NaN and infinity give any integer.)
#[inline(always)]
pub(super) fn nearest<I: Isa>(isa: I, x: I::F) -> I::I {
    let magic = isa.f_splat(ROUND_MAGIC);
    isa.i_sub(isa.f_bits(isa.f_add(x, magic)), isa.f_bits(magic))
}

/// The low bytes of sixteen lanes, four to a word, the first in its lowest byte.
#[inline(always)]
pub(super) fn words<I: Isa>(isa: I, x: I::I) -> [i32; 4] {
    let mut words = [0; 4];
    for (word, four) in words.iter_mut().zip(isa.i_low_bytes(x).as_chunks::<4>().0) {
        *word = i32::from_le_bytes(*four);
    }
    words
}
