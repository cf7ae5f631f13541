//! Arcee (AFM-4.5B): Llama with a squared ReLU in place of a gate.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Bias, Result, Spec};
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `ArceeConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let scale = meta.opt_factor("attention.scale")?;
    let biases = &[Bias::Qkv, Bias::AttnOut];
    Ok(Spec { biases, ..llama::base(meta, DEFAULTS)? }
        .without_gates(Unary::ReluSquared)
        .map_attention(|_, attention| Attention {
            scale: scale.unwrap_or(attention.scale),
            ..attention
        }))
}
