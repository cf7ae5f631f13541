//! DeepSeek V2, V3 and R1 (arXiv 2405.04434, 2412.19437), and what uses their name in files, Kimi K2 and GLM 4.7 Flash among it:
//! attention over a latent, dense first layers, experts that a softmax or sigmoids choose, from a few groups in the large models,
//! and some that every token has.

use super::llama::experts::{self, Layers, Width};
use super::llama::{self, Defaults, MAX_WIDTH, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Error, ErrorKind, Gating, Latent, Layer, Mixer, Result, RopeScaling, Spec};
use gguf::Value;

/// The base of Hugging Face's `DeepseekV3Config`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// GLM 4.7 Flash's first files do not say that sigmoids choose; llama.cpp knows them by layers and vocabulary.
const N_LAYER_FLASH: [usize; 2] = [47, 48];
const N_VOCAB_FLASH: usize = 154_880;

pub(super) const USUAL: Usual = Usual {
    biases: &[Bias::Selection],
    yarn: true,
    keys: &[
        ("attention.head_count_kv", Value::U32(1)),
        ("attention.key_length", Value::U32(160)),
        ("attention.value_length", Value::U32(128)),
        ("attention.key_length_mla", Value::U32(96)),
        ("attention.value_length_mla", Value::U32(64)),
        ("attention.q_lora_rank", Value::U32(192)),
        ("attention.kv_lora_rank", Value::U32(128)),
        ("rope.dimension_count", Value::U32(32)),
        ("rope.scaling.factor", Value::F32(8.0)),
        ("rope.scaling.original_context_length", Value::U32(64)),
        ("rope.scaling.yarn_log_multiplier", Value::F32(0.0707)),
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
        ("expert_shared_count", Value::U32(1)),
        ("expert_gating_func", Value::U32(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(2.5)),
        ("expert_group_count", Value::U32(4)),
        ("expert_group_used_count", Value::U32(2)),
        ("leading_dense_block_count", Value::U32(1)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::without_factors(llama::with_experts_and_foretellers(meta, DEFAULTS)?);
    refuse_temperature(meta)?;
    let stretch = stretch(meta, &mut spec)?;
    let spec = Spec { biases: &[Bias::Selection], ..spec };
    let is_flash = N_LAYER_FLASH.contains(&spec.layers.len()) && spec.n_vocab == N_VOCAB_FLASH;
    let usual = if is_flash { Gating::Sigmoid } else { Gating::Softmax };
    let experts = experts::stated(meta, usual)?;
    let layers = Layers::behind_the_first(meta)?;
    let spec = experts::in_layers(meta, spec, experts, Width::Own, layers)?;
    let latent = latent(meta, &spec, stretch)?;
    Ok(spec.map_layers(|_, layer| Layer { mixer: Mixer::Latent(latent), ..layer }))
}

/// The widths of the attention. Files of before April 2025 hold keys' and values' matrices in one, and say nothing of them.
fn latent(meta: &Meta<'_>, spec: &Spec, stretch: f32) -> Result<Latent> {
    let width = |key: &str| meta.opt_count(key, 1..=MAX_WIDTH);
    let kv_rank = meta.count("attention.kv_lora_rank", 1..=MAX_WIDTH)?;
    let n_head = meta.count("attention.head_count", 1..=MAX_WIDTH)?;
    let both = width("attention.key_length_mla")?.zip(width("attention.value_length_mla")?);
    let Some((head_dim, head_dim_v)) = both else {
        let key = meta.key("attention.key_length_mla");
        let what = format!(
            "{key} and value_length_mla: missing, the file is of before April 2025 and holds attn_kv_b in one tensor; hint: convert the model anew"
        );
        return Err(Error::new(ErrorKind::Unsupported, what));
    };
    let n_rot = spec.ropes[0].n_rot;
    let head_dim_nope = head_dim.checked_sub(n_rot).filter(|&n| n > 0).ok_or_else(|| {
        let what = format!("{head_dim}, allowed above rope.dimension_count = {n_rot}");
        meta.bad("attention.key_length_mla", what)
    })?;
    Ok(Latent {
        n_head,
        q_rank: width("attention.q_lora_rank")?,
        kv_rank,
        head_dim_nope,
        head_dim_rope: n_rot,
        head_dim_v,
        rope: 0,
        scale: stretch * stretch * inverse_root(head_dim),
    })
}

/// The factor on scores that YaRN leaves to be made up for, whose square is meant: `mscale_all_dim` of the model's code, of
/// which files have a tenth. Where they state it, the rotary embedding has no factor of its own.
fn stretch(meta: &Meta<'_>, spec: &mut Spec) -> Result<f32> {
    let log_mul = meta.opt_factor("rope.scaling.yarn_log_multiplier")?.map_or(0.0, |by| by / 0.1);
    let rope = &mut spec.ropes[0];
    let RopeScaling::Yarn { factor, n_ctx_orig, fast, slow, .. } = rope.scaling else {
        return Ok(1.0);
    };
    let made_up = if log_mul > 0.0 { 1.0 } else { 0.0 };
    rope.scaling = RopeScaling::Yarn { factor, n_ctx_orig, fast, slow, log_mul: made_up };
    let left = rope.table().mscale as f32;
    let log = libm::log(f64::from(factor.max(1.0))) as f32;
    Ok(left * (1.0 + 0.1 * log_mul * log))
}

/// A temperature that grows with the position, as one large model has under this name.
fn refuse_temperature(meta: &Meta<'_>) -> Result<()> {
    let key = "attention.temperature_scale";
    let Some(by) = meta.opt_factor(key)? else { return Ok(()) };
    let what = format!("{}: {by}, karat runs models without a temperature only", meta.key(key));
    Err(Error::new(ErrorKind::Unsupported, what))
}
