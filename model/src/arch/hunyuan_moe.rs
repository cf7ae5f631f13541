//! Hunyuan with experts (Tencent, arXiv 2411.02265): a norm on each head of queries and keys behind the rotary embedding, experts
//! and one that every token has. Halves are rotated together.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Experts, QkNorm, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `HunYuanMoEV1Config`, whose epsilon all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_feed_forward_length", Value::U32(320)),
    ],
    ..Usual::TIED
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv], ..spec };
    // Stated, but the experts are as wide as the feed-forward, as in llama.cpp.
    meta.opt_count("expert_feed_forward_length", 0..=llama::MAX_WIDTH)?;
    let n_ff = meta.per_layer("feed_forward_length", spec.layers.len(), 1..=llama::MAX_WIDTH)?[0];
    let shared = Some(crate::SharedExpert { gated: false, ..experts::shared(meta, n_ff)? });
    let experts = Experts { shared, ..experts::SOFTMAX };
    let spec = experts::in_place(meta, spec, experts, Width::Whole)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerTurnedHead, ..attention }))
}
