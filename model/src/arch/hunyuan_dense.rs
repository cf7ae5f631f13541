//! Hunyuan dense (Tencent): a norm on each head of queries and keys behind the rotary embedding; halves are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Bias, QkNorm, Result, Rope, Spec};
use graph::RopePairs;

/// Those of Hugging Face's `HunYuanDenseV1Config`, whose epsilon all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::base_of_one_expert(meta, DEFAULTS)?;
    // Newer files leave it to the reader to stretch the base (NTK-aware, as the model's code does).
    let alpha = meta.opt_factor("rope.scaling.alpha")?;
    let stretched = |rope: Rope| {
        let base = alpha.map_or(rope.base, |alpha| stretched_base(rope.base, alpha, rope.n_rot));
        Rope { base, pairs: RopePairs::Halves, ..rope }
    };
    let ropes = spec.ropes.drain(..).map(stretched).collect();
    Ok(Spec { ropes, biases: &[Bias::Qkv], ..spec }
        .map_attention(|_, attention| Attention { qk_norm: QkNorm::PerTurnedHead, ..attention }))
}

/// `base · alpha^(n / (n - 2))`
fn stretched_base(base: f32, alpha: f32, n: usize) -> f32 {
    let power = n as f64 / (n as f64 - 2.0).max(1.0);
    (f64::from(base) * libm::pow(f64::from(alpha), power)) as f32
}
