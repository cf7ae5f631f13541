//! Command R7B (Cohere2): Command R with a window in three of four layers; only those know positions.

use super::command_r;
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Result, Spec};
use gguf::Value;

/// The base of llama.cpp and of Hugging Face's `Cohere2Config`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// Every fourth layer sees all positions.
const DEFAULT_PATTERN: usize = 4;

pub(super) const USUAL: Usual = Usual {
    keys: &[("attention.sliding_window", Value::U32(40)), ("logit_scale", Value::F32(0.25))],
    ..command_r::USUAL
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = command_r::base(meta, DEFAULTS)?;
    // Both keys must be there, as in llama.cpp.
    let key = "attention.sliding_window";
    let window = meta.window(None)?.ok_or_else(|| meta.missing(key))?;
    spec.logit_scale.ok_or_else(|| meta.missing("logit_scale"))?;
    let windowed = llama::windowed(meta, spec.layers.len(), DEFAULT_PATTERN)?;
    Ok(spec.map_attention(|i, attention| Attention {
        rope: attention.rope.filter(|_| windowed[i]),
        window: Some(window).filter(|_| windowed[i]),
        ..attention
    }))
}
