//! The rounded activations of a step, in whatever way the weights want them.

use super::quantize_q8::Q8Rows;
use super::quantize_q16::Q16Rows;
use crate::pool::Workers;
use graph::ints::Rounding;

/// Room for rounded activations: of one way at a time.
#[derive(Default)]
pub(crate) struct Rounded {
    q8: Q8Rows,
    q16: Q16Rows,
    is_q16: bool,
}

/// Rounded activations, `[tokens, n_in]`.
#[derive(Clone, Copy)]
pub(crate) enum RoundedRows<'a> {
    Q8(&'a Q8Rows),
    Q16(&'a Q16Rows),
}

impl Rounded {
    /// Rounds `x`, `[tokens, n_in]`.
    pub(crate) fn round(
        &mut self,
        rounding: Rounding,
        x: &[f32],
        n_in: usize,
        workers: Workers<'_>,
    ) {
        self.is_q16 = rounding == Rounding::Q16;
        match rounding {
            Rounding::Q8(format) => self.q8.quantize(format, x, n_in, workers),
            Rounding::Q16 => self.q16.quantize(x, n_in, workers),
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
