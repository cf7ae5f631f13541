//! LFM2 (arXiv 2511.23404), dense: most layers have a gated convolution of a few rows in place of attention; those with
//! attention have a norm on each head of queries and keys, and rotate halves together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::{Numbers, Preset, Shape, Usual};
use crate::{
    Attention, Bias, Layer, Mixer, OutputNorm, QkNorm, Result, Rope, RopeFactors, ShortConv, Spec,
};
use gguf::Value;
use graph::RopePairs;

/// The base of Hugging Face's `Lfm2Config`. The norms' epsilon has no default, and a window is that of every layer with
/// attention, both as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 1e6, eps: None, window: Window::All, scale: inverse_root };
/// Bound on the rows of a convolution; models have three.
const MAX_ROWS: usize = 256;

pub(super) const USUAL: Usual =
    Usual { keys: &[("shortconv.l_cache", Value::U32(3))], attention_every: 2, ..Usual::TIED };

pub(super) const PRESETS: &[Preset] = &[Preset {
    name: "lfm2-350m",
    shape: Shape {
        n_layer: 16,
        n_embd: 1024,
        n_ff: 4608,
        n_head: 16,
        n_head_kv: 8,
        head_dim_k: 64,
        head_dim_v: 64,
        n_vocab: 65_536,
        n_ctx: 128_000,
        rope_base: 1e6,
        eps: 1e-5,
        tied: true,
        numbers: Numbers::Ordinary,
    },
}];

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::hybrid(meta, DEFAULTS)?;
    let d_conv = meta.count("shortconv.l_cache", 2..=MAX_ROWS)?;
    let halves = |rope| Rope { pairs: RopePairs::Halves, factors: RopeFactors::None, ..rope };
    let ropes = spec.ropes.drain(..).map(halves).collect();
    let spec = Spec { ropes, biases: &[Bias::Qkv], output_norm: OutputNorm::TokenEmbd, ..spec };
    Ok(spec
        .map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention })
        .map_layers(|_, layer| match layer.mixer {
            Mixer::Attention(Attention { n_head_kv: 0, .. }) => {
                Layer { mixer: Mixer::ShortConv(ShortConv { d_conv }), ..layer }
            }
            Mixer::Attention(_) | Mixer::Latent(_) | Mixer::ShortConv(_) => layer,
        }))
}
