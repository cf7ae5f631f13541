//! Command R and R+ (Cohere): LayerNorm without biases, both branches beside one another, a factor on the logits; in the larger
//! model a norm of each head of queries and keys.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, FirstSum, ParallelNorms, QkNorm, Result, Spec};
use gguf::Value;

/// The base of llama.cpp and of Hugging Face's `CohereConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// Models of as many layers have norms of queries and keys, as in llama.cpp.
const QK_NORM_FROM: usize = 64;

pub(super) const USUAL: Usual = Usual {
    tied: true,
    biases: &[],
    keys: &[("logit_scale", Value::F32(0.0625))],
    ..Usual::LAYER_NORM
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(base(meta, DEFAULTS)?);
    let has_norms = spec.layers.len() >= QK_NORM_FROM;
    Ok(spec.map_attention(|_, attention| Attention {
        qk_norm: if has_norms { QkNorm::EachHead } else { QkNorm::None },
        ..attention
    }))
}

/// What the family has in common.
pub(super) fn base(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    let logit_scale = meta.opt_factor("logit_scale")?;
    let spec = llama::with_layer_norm(meta, defaults)?;
    Ok(Spec { logit_scale, biases: &[], ..spec }
        .in_parallel(ParallelNorms::One, FirstSum::FeedForward))
}
