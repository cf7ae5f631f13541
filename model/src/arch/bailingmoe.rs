//! Ling (inclusionAI, arXiv 2503.05139): Llama with experts, and one that every token has.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Gating, Result, Spec};
use gguf::Value;

/// llama.cpp's base. The norms' epsilon has no default, as there.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_count", Value::U32(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(1.5)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = Spec { biases: &[Bias::Qkv], ..llama::with_experts(meta, DEFAULTS)? };
    let experts = experts::stated(meta, Gating::Softmax)?;
    experts::in_layers(meta, spec, experts, Width::Own, Layers::behind_the_first(meta)?)
}
