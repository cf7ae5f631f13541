//! gpt-oss (OpenAI, arXiv 2508.10925): experts with biases and a clamped unit, chosen by the router's numbers themselves, with a
//! softmax over the chosen; attention sinks, a window in every second layer, YaRN. Halves are rotated together.
//!
//! The model's own code does not round YaRN's limits to whole pairs; llama.cpp does, and karat with it.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use super::mistral3;
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Experts, FfnNorm, Gating, Result, Rope, Spec};
use gguf::Value;
use graph::Act;

/// Those of Hugging Face's `GptOssConfig`, which both models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 150_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };
/// From the same.
const DEFAULT_WINDOW: u32 = 128;
/// The first of two layers has the window.
const DEFAULT_PATTERN: usize = 2;
/// Index of the rotary embedding of the layers with a window, where they have their own.
const LOCAL: usize = 1;

const BIASES: &[Bias] = &[Bias::Qkv, Bias::AttnOut, Bias::Router, Bias::Experts];

pub(super) const USUAL: Usual = Usual {
    biases: BIASES,
    yarn: true,
    keys: &[
        ("attention.sliding_window", Value::U32(9)),
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("rope.scaling.factor", Value::F32(8.0)),
        ("rope.scaling.original_context_length", Value::U32(64)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    spec.ropes[0].scaling = mistral3::scaling(meta, spec.ropes[0].scaling)?;
    let local = meta.opt_positive("rope.freq_base_swa")?.filter(|&base| base != spec.ropes[0].base);
    if let Some(base) = local {
        spec.ropes.push(Rope { base, ..spec.ropes[0].clone() });
    }
    let window = meta.window(Some(DEFAULT_WINDOW))?;
    let windowed = llama::windowed(meta, spec.layers.len(), DEFAULT_PATTERN)?;
    let experts = Experts {
        act: Act::SwigluOai,
        gating: Gating::Chosen,
        normalise: false,
        ..experts::SOFTMAX
    };
    let spec = Spec { biases: BIASES, ffn_norm: FfnNorm::PostAttention, ..spec };
    let spec = experts::in_place(meta, spec, experts, Width::Own)?;
    Ok(spec.map_attention(|i, attention| Attention {
        sinks: true,
        window: window.filter(|_| windowed[i]),
        rope: if windowed[i] && local.is_some() { Some(LOCAL) } else { attention.rope },
        ..attention
    }))
}
