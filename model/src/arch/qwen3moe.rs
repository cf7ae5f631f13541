//! Qwen 3 with experts (arXiv 2505.09388): Qwen 3 with a softmax over all experts, the weights of the chosen divided by their
//! sum.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, QkNorm, Result, Spec};
use gguf::Value;

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
    ],
    ..Usual::PLAIN
};

/// As in Qwen 3.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    // 0 is what files of models without an expert for every token may say.
    meta.opt_count(experts::SHARED_WIDTH, 0..=0)?;
    let spec = Spec { biases: &[Bias::Qkv], ..spec };
    let spec = experts::in_place(meta, spec, experts::SOFTMAX, Width::Own)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
