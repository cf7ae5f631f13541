//! MiniMax M2 (MiniMax): a norm of all heads of queries and of keys together, experts that sigmoids choose; half of each head is
//! rotated. Halves are rotated together.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Experts, Gating, QkNorm, Result, Spec};
use gguf::Value;

/// llama.cpp's base. The norms' epsilon has no default, as there.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Selection],
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_gating_func", Value::U32(2)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv, Bias::Selection], ..spec };
    // Stated, but the experts are as wide as the feed-forward, as in llama.cpp.
    meta.opt_count("expert_feed_forward_length", 0..=llama::MAX_WIDTH)?;
    let gating = experts::gating(meta, Gating::Sigmoid)?;
    let experts = Experts { gating, ..experts::SOFTMAX };
    let spec = experts::in_place(meta, spec, experts, Width::Whole)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerRow, ..attention }))
}
