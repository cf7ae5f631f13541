//! Nemotron 3 and 4, Minitron (arXiv 2402.16819): LayerNorm, a squared ReLU in place of a gate, half of each head rotated.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `NemotronConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { half_rotary: true, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    let biases = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn];
    Ok(Spec { biases, ..spec }.without_gates(Unary::ReluSquared))
}
