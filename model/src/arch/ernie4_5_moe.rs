//! ERNIE 4.5 with experts (Baidu, arXiv 2506.23146): ERNIE 4.5 whose layers behind the first ones have experts, chosen with a
//! bias that is no part of their weights.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Experts, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `Ernie4_5_MoeConfig`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 500_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Selection],
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_feed_forward_length", Value::U32(320)),
        ("interleave_moe_layer_step", Value::U32(1)),
        ("leading_dense_block_count", Value::U32(1)),
    ],
    ..Usual::TIED
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    // llama.cpp reads sections here, which change nothing for text.
    llama::text_sections(meta)?;
    let spec = llama::without_factors(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv, Bias::Selection], ..spec };
    let experts = Experts { shared: experts::opt_shared(meta)?, ..experts::SOFTMAX };
    let layers = Layers::with_period(meta)?;
    experts::in_layers(meta, spec, experts, Width::Own, layers)
}
