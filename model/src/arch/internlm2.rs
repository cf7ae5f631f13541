//! InternLM 2 and 2.5 (arXiv 2403.17297): Llama, whose fused projection the converter takes apart.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Bias, Result, Spec};

/// The base of Hugging Face's `InternLM2Config`. The norms' epsilon has no default, as in llama.cpp: models have 1e-5, the
/// config says 1e-6.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv], ..spec })
}
