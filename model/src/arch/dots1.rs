//! dots.llm1 (rednote, arXiv 2506.05767): norms of the heads of queries and keys, a dense first layer, experts that sigmoids
//! choose and one that every token has. Halves are rotated together.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Gating, QkNorm, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `Dots1Config`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Selection],
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_count", Value::U32(2)),
        ("expert_gating_func", Value::U32(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(2.5)),
        ("leading_dense_block_count", Value::U32(1)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv, Bias::Selection], ..spec };
    let experts = experts::stated(meta, Gating::Sigmoid)?;
    let spec =
        experts::in_layers(meta, spec, experts, Width::Own, Layers::behind_the_first(meta)?)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
