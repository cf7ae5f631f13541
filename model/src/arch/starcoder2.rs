//! StarCoder 2 (arXiv 2402.19173), Granite Code of 20B: LayerNorm, biases everywhere, no gates, a rotary embedding.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `Starcoder2Config`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// All places of a layer.
const BIASES: &[Bias] = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn];

pub(super) const USUAL: Usual = Usual { tied: true, biases: BIASES, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    Ok(Spec { biases: BIASES, ..spec }.without_gates(Unary::GeluTanh))
}
