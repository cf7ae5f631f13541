//! CodeShell (PKU): GPT-2's layers with a rotary embedding and grouped heads.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};
use graph::Unary;

/// The base of llama.cpp. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// All places of a layer.
const BIASES: &[Bias] = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn];

pub(super) const USUAL: Usual = Usual { biases: BIASES, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    Ok(Spec { biases: BIASES, ..spec }.without_gates(Unary::GeluTanh))
}
