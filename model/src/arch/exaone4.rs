//! EXAONE 4 (arXiv 2507.11407): norms only on what attention and feed-forward add, and on each head of queries and keys. The
//! 32B model has a window in three of four layers, and only those know positions.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Bias, Layer, Norms, QkNorm, Result, Rope, Spec};
use graph::RopePairs;

/// Those of Hugging Face's `Exaone4Config`, which both models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };
/// Every fourth layer sees all positions.
const DEFAULT_PATTERN: usize = 4;
/// The 32B model, which llama.cpp gives a window of 4096 where the file says none.
const N_LAYER_32B: usize = 64;
const WINDOW_32B: u32 = 4096;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::base(meta, DEFAULTS)?;
    let halves = |rope| Rope { pairs: RopePairs::Halves, ..rope };
    let ropes = spec.ropes.drain(..).map(halves).collect();
    let n_layer = spec.layers.len();
    let window = meta.window((n_layer == N_LAYER_32B).then_some(WINDOW_32B))?;
    let windowed = llama::windowed(meta, n_layer, DEFAULT_PATTERN)?;
    Ok(Spec { ropes, biases: &[Bias::Qkv], ..spec }
        .map_layers(|_, layer| Layer { norms: Norms::After, ..layer })
        .map_attention(|i, attention| Attention {
            qk_norm: QkNorm::PerHead,
            rope: attention.rope.filter(|_| window.is_none() || windowed[i]),
            window: window.filter(|_| windowed[i]),
            ..attention
        }))
}
