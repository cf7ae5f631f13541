//! OLMoE (arXiv 2409.02060): Llama with a norm of all heads of queries and of keys together, and experts whose weights are a
//! softmax over all and stay as they are. Halves are rotated together.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Experts, QkNorm, Result, Spec};
use gguf::Value;

pub(super) const USUAL: Usual = Usual {
    keys: &[("expert_count", Value::U32(8)), ("expert_used_count", Value::U32(3))],
    ..Usual::PLAIN
};

/// The base of Hugging Face's `OlmoeConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv], ..spec };
    let experts = Experts { normalise: false, ..experts::SOFTMAX };
    let spec = experts::in_place(meta, spec, experts, Width::Whole)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerRow, ..attention }))
}
