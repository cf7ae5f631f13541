//! GLM 4.5 to 4.7 (arXiv 2508.06471): a dense first layer, experts that sigmoids choose and one that every token has, biases
//! on queries, keys and values, in the largest model norms of the heads of queries and keys; a part of each head is rotated.
//! Halves are rotated together.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, FfnNorm, Gating, QkNorm, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `Glm4MoeConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Qkv, Bias::Selection],
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_count", Value::U32(1)),
        ("expert_gating_func", Value::U32(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(1.5)),
        ("leading_dense_block_count", Value::U32(1)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    // For text the sections change nothing.
    llama::text_sections(meta)?;
    let spec = llama::halves(llama::with_experts_and_foretellers(meta, DEFAULTS)?);
    let biases = &[Bias::Qkv, Bias::Selection];
    let spec = Spec { biases, ffn_norm: FfnNorm::PostAttention, ..spec };
    let experts = experts::stated(meta, Gating::Sigmoid)?;
    let spec =
        experts::in_layers(meta, spec, experts, Width::Own, Layers::behind_the_first(meta)?)?;
    // No key says it.
    let is_normed = meta.file.tensor("blk.0.attn_q_norm.weight").is_some();
    let qk_norm = if is_normed { QkNorm::PerHead } else { QkNorm::None };
    Ok(spec.map_attention(|_, attention| Attention { qk_norm, ..attention }))
}
