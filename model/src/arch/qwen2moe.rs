//! Qwen 1.5 and 2 with experts (arXiv 2407.10671): Qwen 2 with a softmax over all experts, whose weights stay as they are, and
//! an expert that every token has, behind a gate.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, MAX_WIDTH, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Experts, Result, Spec};
use gguf::Value;

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Qkv],
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_feed_forward_length", Value::U32(768)),
    ],
    ..Usual::PLAIN
};

/// As in Qwen 2.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv], ..spec };
    let n_ff = meta.per_layer("feed_forward_length", spec.layers.len(), 1..=MAX_WIDTH)?[0];
    let shared = Some(experts::shared(meta, n_ff)?);
    let experts = Experts { normalise: false, shared, ..experts::SOFTMAX };
    experts::in_place(meta, spec, experts, Width::Own)
}
