//! Ling 2 (inclusionAI, arXiv 2510.22115): norms of the heads of queries and keys, a dense first layer, experts that sigmoids
//! choose from a few groups, and one that every token has; half of each head is rotated. Halves are rotated together.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Gating, QkNorm, Result, SharedExpert, Spec};
use gguf::Value;

/// llama.cpp's base. The norms' epsilon has no default, as there.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Selection],
    fused_qkv: true,
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_count", Value::U32(1)),
        ("expert_shared_feed_forward_length", Value::U32(320)),
        ("expert_gating_func", Value::U32(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(2.5)),
        ("expert_group_count", Value::U32(4)),
        ("expert_group_used_count", Value::U32(2)),
        ("leading_dense_block_count", Value::U32(1)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts_and_foretellers(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Selection], ..spec };
    let mut experts = experts::stated(meta, Gating::Sigmoid)?;
    if let (Some(shared), Some(width)) = (&mut experts.shared, experts::shared_width(meta)?) {
        let n_ff = shared.n_ff / experts.n_ff.max(1) * width;
        *shared = SharedExpert { n_ff, ..*shared };
    }
    let spec =
        experts::in_layers(meta, spec, experts, Width::Own, Layers::behind_the_first(meta)?)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
