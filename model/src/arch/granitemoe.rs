//! Granite 3 and 4 with experts (IBM): Granite whose feed-forwards are experts, as wide as these, and one that every token may
//! have.

use super::granite;
use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Experts, Result, Spec};
use gguf::Value;

/// The base of Hugging Face's `GraniteMoeConfig`. The norms' epsilon has no default, as in llama.cpp: models have 1e-6, the
/// config says the same.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("embedding_scale", Value::F32(12.0)),
        ("residual_scale", Value::F32(0.22)),
        ("attention.scale", Value::F32(0.0625)),
        ("logit_scale", Value::F32(8.0)),
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_shared_feed_forward_length", Value::U32(320)),
    ],
    ..Usual::TIED
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let biases = granite::BIASES;
    let spec = Spec { biases, ..llama::with_experts(meta, DEFAULTS)? };
    let spec = granite::with_factors(meta, spec)?;
    if experts::count(meta)?.is_none() {
        return Ok(spec);
    }
    let experts = Experts { shared: experts::opt_shared(meta)?, ..experts::SOFTMAX };
    experts::in_place(meta, spec, experts, Width::Whole)
}
