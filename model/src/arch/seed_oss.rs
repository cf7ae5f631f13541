//! Seed-OSS (ByteDance): Qwen 2 whose norm before the feed-forward has Hugging Face's name.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, FfnNorm, Result, Spec};

/// Those of Hugging Face's `SeedOssConfig`, whose epsilon the models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv], ffn_norm: FfnNorm::PostAttention, ..spec })
}
