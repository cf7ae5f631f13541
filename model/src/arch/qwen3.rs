//! Qwen 3 (arXiv 2505.09388): Qwen 2 with a norm on each head of queries and keys.

use super::llama::{Defaults, Window, inverse_root};
use super::qwen2;
use crate::meta::Meta;
use crate::{Attention, Bias, QkNorm, Result, Spec};

/// What Hugging Face's `Qwen3Config` has where a model's configuration says nothing; all of Qwen 3 have its epsilon. The
/// window is as in Qwen 2.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = Spec { biases: &[Bias::Qkv], ..qwen2::base(meta, DEFAULTS)? };
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
