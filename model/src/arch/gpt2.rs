//! GPT-2 (Radford et al., 2019): learned positions, LayerNorm, biases everywhere.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Positions, Result, Spec};
use graph::Unary;

/// The base of llama.cpp, though no layer is rotated. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// All places of a layer.
const BIASES: &[Bias] = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn];

pub(super) const USUAL: Usual =
    Usual { tied: true, biases: BIASES, fused_qkv: true, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::with_layer_norm(meta, DEFAULTS)?;
    Ok(Spec { positions: Positions::Learned, biases: BIASES, ..spec }
        .without_gates(Unary::GeluTanh)
        .without_rope())
}
