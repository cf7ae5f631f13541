//! Qwen 3 (arXiv 2505.09388): Qwen 2 with a norm on each head of queries and keys.

use super::qwen2;
use crate::meta::Meta;
use crate::{Bias, QkNorm, Result, Spec};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    Ok(Spec { qk_norm: QkNorm::PerHead, biases: &[Bias::Qkv], ..qwen2::spec(meta)? })
}
