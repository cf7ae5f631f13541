//! ChatGLM 2 and 3, and GLM 4 of 9B as it came first (arXiv 2406.12793): gate and up in one tensor, half of each head rotated.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, GateUp, Gated, Result, Spec};

/// The base of llama.cpp. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual =
    Usual { biases: &[Bias::Qkv], fused_qkv: true, half_rotary: true, ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv], ..spec }
        .map_gated(|gated| Gated { gate_up: GateUp::Fused, ..gated }))
}
