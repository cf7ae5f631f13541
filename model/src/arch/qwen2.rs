//! Qwen 2 and 2.5 (arXiv 2407.10671): biases on queries, keys and values; halves are rotated together.

use super::llama;
use crate::meta::Meta;
use crate::{Bias, Result, Rope, RopeFactors, Spec};
use graph::RopePairs;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::spec(meta)?;
    // No model of the family brings factors; a file that does is refused for its unknown tensor.
    let halves = |rope| Rope { pairs: RopePairs::Halves, factors: RopeFactors::None, ..rope };
    let ropes = spec.ropes.drain(..).map(halves).collect();
    Ok(Spec { ropes, biases: &[Bias::Qkv, Bias::Output], ..spec })
}
