//! Llama 1 to 3.x, and what is shaped like it: Mistral, SmolLM2, TinyLlama (arXiv 2302.13971).
//!
//! Also the base from which the other architectures differ.

pub(super) mod experts;

use crate::meta::{self, Meta};
use crate::rope::{YARN_BETA_FAST, YARN_BETA_SLOW};
use crate::shape::{Numbers, Preset, Shape};
use crate::spec::MAX_VOCAB;
use crate::tensors::{ROPE_FREQS, ROPE_LONG, ROPE_SHORT, rope_factors};
use crate::{
    Attention, Bias, EmbdNorm, Error, ErrorKind, FeedForward, FfnNorm, GateUp, Gated, Layer, Mixer,
    NormKind, Norms, OutputNorm, Positions, QkNorm, QueryScale, Result, Rope, RopeFactors,
    RopeScaling, Spec,
};
use gguf::{Array, Value};
use graph::{Act, RopePairs};

/// llama.cpp's limit on blocks.
const MAX_LAYERS: usize = 512;
/// Positions stay below 2^30, so that no sum of two overflows an `i32`.
const MAX_CTX: usize = 1 << 30;
/// Bound on any one width; far above every model, far below where products of two overflow.
pub(super) const MAX_WIDTH: usize = 1 << 24;
/// Bound on the number of heads.
const MAX_HEADS: usize = 1 << 16;

pub(super) const PRESETS: &[Preset] = &[
    Preset {
        name: "tinyllama-1.1b",
        shape: Shape {
            n_layer: 22,
            n_embd: 2048,
            n_ff: 5632,
            n_head: 32,
            n_head_kv: 4,
            head_dim_k: 64,
            head_dim_v: 64,
            n_vocab: 32_000,
            n_ctx: 2048,
            rope_base: 10_000.0,
            eps: 1e-5,
            tied: false,
            numbers: Numbers::Ordinary,
        },
    },
    Preset {
        name: "llama3-8b",
        shape: Shape {
            n_layer: 32,
            n_embd: 4096,
            n_ff: 14_336,
            n_head: 32,
            n_head_kv: 8,
            head_dim_k: 128,
            head_dim_v: 128,
            n_vocab: 128_256,
            n_ctx: 8192,
            rope_base: 500_000.0,
            eps: 1e-5,
            tied: false,
            numbers: Numbers::Ordinary,
        },
    },
    // No two dimensions are the same, so that a swap of two shows; the vocabulary is a prime.
    Preset {
        name: "adversarial",
        shape: Shape {
            n_layer: 3,
            n_embd: 1024,
            n_ff: 1280,
            n_head: 12,
            n_head_kv: 4,
            head_dim_k: 80,
            head_dim_v: 64,
            n_vocab: 1999,
            n_ctx: 4096,
            rope_base: 50_000.0,
            eps: 1e-6,
            tied: false,
            numbers: Numbers::Adversarial,
        },
    },
];

/// What a model has where its file says nothing. Each architecture states its own, even where all agree: a default that
/// is inherited is not noticed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Defaults {
    /// Base of the rotary embedding.
    pub(super) rope_base: f32,
    /// Epsilon of the norms; `None` refuses a file without it.
    pub(super) eps: Option<f32>,
    /// Whether `attention.sliding_window` is the window of every layer. No architecture has a window where its file does
    /// not say so, as in llama.cpp.
    pub(super) window: Window,
    /// The scale of `q · k` for heads of a width.
    pub(super) scale: fn(usize) -> f32,
}

/// What `attention.sliding_window` means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Window {
    /// The window of every layer.
    All,
    /// The architecture reads it itself, or its models have none.
    Own,
}

/// `1 / √head_dim`: equation 1 of arXiv 1706.03762.
pub(super) fn inverse_root(head_dim: usize) -> f32 {
    1.0 / (head_dim as f32).sqrt()
}

/// The base of llama.cpp and of Hugging Face's `LlamaConfig` and `MistralConfig`. The norms' epsilon has no default, as in
/// llama.cpp: `LlamaConfig` says 1e-6, and Llama 2 and 3 have 1e-5. The window is that of Mistral 7B v0.1, which
/// `MistralConfig` applies to every layer and llama.cpp does not apply.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::All, scale: inverse_root };

/// Mixtral (arXiv 2401.04088) is a llama with experts, as wide as the feed-forward that they stand for.
pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    if experts::count(meta)?.is_none() {
        return base(meta, DEFAULTS);
    }
    let n_ff = experts::Width::Whole;
    experts::in_place(meta, of_heads(meta, DEFAULTS, 1)?, experts::SOFTMAX, n_ff)
}

/// The spec with another architecture's defaults, for that architecture to change.
pub(super) fn base(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    refuse_experts(meta)?;
    of_heads(meta, defaults, 1)
}

/// The same for an architecture some of whose files call their only feed-forward an expert.
pub(super) fn base_of_one_expert(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    if meta.opt_count("expert_count", 0..=experts::MAX_EXPERTS)? == Some(1) {
        // Every token has the one that there is.
        meta.opt_count("expert_used_count", 0..=1)?;
    } else {
        refuse_experts(meta)?;
    }
    of_heads(meta, defaults, 1)
}

/// The same where layers may have no attention. Theirs has no key and value heads, and the architecture puts something
/// else in its place.
pub(super) fn hybrid(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    refuse_experts(meta)?;
    of_heads(meta, defaults, 0)
}

/// The same for an architecture whose every layer has experts; it puts them in place ([`experts::in_place`]).
pub(super) fn with_experts(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    of_heads(meta, defaults, 1)
}

/// The same for an architecture whose files may have layers behind the others that foretell tokens beyond the next. As in
/// llama.cpp they are passed over: what they foretell could be tried ahead, and no answer hangs on it.
pub(super) fn with_experts_and_foretellers(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    let n_all = meta.count("block_count", 1..=MAX_LAYERS)?;
    let n = meta.opt_count("nextn_predict_layers", 0..=n_all - 1)?.unwrap_or(0);
    let mut spec = of_all_layers(meta, defaults, 1, NormKind::Rms)?;
    spec.layers.truncate(n_all - n);
    Ok(Spec { n_foretelling: n, ..spec })
}

/// The same with LayerNorm in place of RMS norm.
pub(super) fn with_layer_norm(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    refuse_experts(meta)?;
    refuse_foretellers(meta, meta.count("block_count", 1..=MAX_LAYERS)?)?;
    let spec = of_all_layers(meta, defaults, 1, NormKind::Layer)?;
    Ok(Spec { biases: &[Bias::Norm], ..spec })
}

/// With at least `fewest` key and value heads.
fn of_heads(meta: &Meta<'_>, defaults: Defaults, fewest: usize) -> Result<Spec> {
    let n_layer = meta.count("block_count", 1..=MAX_LAYERS)?;
    refuse_foretellers(meta, n_layer)?;
    of_all_layers(meta, defaults, fewest, NormKind::Rms)
}

/// The same with every layer that the file has.
fn of_all_layers(
    meta: &Meta<'_>,
    defaults: Defaults,
    fewest: usize,
    norm: NormKind,
) -> Result<Spec> {
    let n_layer = meta.count("block_count", 1..=MAX_LAYERS)?;
    let n_ctx_train = meta.count("context_length", 1..=MAX_CTX)?;
    let n_embd = meta.count("embedding_length", 1..=MAX_WIDTH)?;
    refuse_encoders(meta)?;
    let heads = heads(meta, n_layer, fewest)?;
    let n_ff = meta.per_layer("feed_forward_length", n_layer, 1..=MAX_WIDTH)?;
    let dim = |key| head_dim(meta, key, n_embd, heads[0].n_head);
    let (head_dim_k, head_dim_v) = (dim("attention.key_length")?, dim("attention.value_length")?);
    let rope = rope(meta, defaults, n_ctx_train, head_dim_k)?;
    let window = match defaults.window {
        // Every sequence that the model was trained on fits into a longer one.
        Window::All => meta.window(None)?.filter(|&n| (n as usize) < n_ctx_train),
        Window::Own => None,
    };
    let layer = |(&Heads { n_head, n_head_kv }, n_ff)| Layer {
        norms: Norms::Before,
        mixer: Mixer::Attention(Attention {
            n_head,
            n_head_kv,
            head_dim_k,
            head_dim_v,
            qkv_clamp: None,
            qk_norm: QkNorm::None,
            rope: Some(0),
            query_rope: None,
            window,
            scale: (defaults.scale)(head_dim_k),
            query_scale: QueryScale::Scores,
            softcap: None,
            sinks: false,
        }),
        feed_forward: FeedForward::Gated(Gated { n_ff, gate_up: GateUp::Separate, act: Act::Silu }),
    };
    Ok(Spec {
        arch: meta.arch.into(),
        n_vocab: n_vocab(meta)?,
        n_ctx_train,
        n_embd,
        norm,
        eps: eps(meta, defaults, norm)?,
        embd_norm: EmbdNorm::None,
        positions: Positions::None,
        layers: heads.iter().zip(n_ff).map(layer).collect(),
        ropes: vec![rope],
        biases: &[Bias::Qkv, Bias::AttnOut, Bias::Ffn],
        embd_scale: None,
        residual_scale: None,
        ffn_norm: FfnNorm::Ffn,
        output_norm: OutputNorm::Output,
        logit_scale: None,
        logit_softcap: None,
        n_foretelling: 0,
        warnings: Vec::new(),
    })
}

/// The key of RMS norm's epsilon.
pub(crate) const RMS_EPS: &str = "attention.layer_norm_rms_epsilon";
/// The key of LayerNorm's.
pub(crate) const LAYER_EPS: &str = "attention.layer_norm_epsilon";

fn eps(meta: &Meta<'_>, defaults: Defaults, norm: NormKind) -> Result<f32> {
    let key = match norm {
        NormKind::Rms => RMS_EPS,
        NormKind::Layer | NormKind::LayerPlain => LAYER_EPS,
    };
    meta.opt_positive(key)?.or(defaults.eps).ok_or_else(|| meta.missing(key))
}

/// karat's models see what came before, and nothing else.
fn refuse_encoders(meta: &Meta<'_>) -> Result<()> {
    let key = "attention.causal";
    match meta.opt_flag(key)? {
        Some(false) => {
            let what = format!("{}: false, karat runs causal models only", meta.key(key));
            Err(Error::new(ErrorKind::Unsupported, what))
        }
        Some(true) | None => Ok(()),
    }
}

/// Layers that foretell tokens beyond the next are no part of the model that answers, and would be counted among its own.
fn refuse_foretellers(meta: &Meta<'_>, n_layer: usize) -> Result<()> {
    let key = "nextn_predict_layers";
    match meta.opt_count(key, 0..=n_layer)? {
        None | Some(0) => Ok(()),
        Some(n) => {
            let what =
                format!("{}: {n}, karat runs models without such layers only", meta.key(key));
            Err(Error::new(ErrorKind::Unsupported, what))
        }
    }
}

/// A file that has experts must not run as if it had none.
fn refuse_experts(meta: &Meta<'_>) -> Result<()> {
    let Some(experts::Count { n_expert, .. }) = experts::count(meta)? else { return Ok(()) };
    let what = format!(
        "{}: {n_expert}, karat runs {} models without experts only",
        meta.key("expert_count"),
        meta.arch
    );
    Err(Error::new(ErrorKind::Unsupported, what))
}

/// The heads of one layer.
struct Heads {
    n_head: usize,
    n_head_kv: usize,
}

fn heads(meta: &Meta<'_>, n_layer: usize, fewest: usize) -> Result<Vec<Heads>> {
    let n_head = meta.per_layer("attention.head_count", n_layer, 1..=MAX_HEADS)?;
    let kv_key = "attention.head_count_kv";
    let n_head_kv =
        meta.opt_per_layer(kv_key, n_layer, fewest..=MAX_HEADS)?.unwrap_or_else(|| n_head.clone());
    let layers = n_head.into_iter().zip(n_head_kv).enumerate();
    let checked = layers.map(|(i, (n_head, n_head_kv))| {
        if n_head_kv > 0 && !n_head.is_multiple_of(n_head_kv) {
            let allowed = format!("allowed a divisor of head_count = {n_head}");
            return Err(meta.bad(kv_key, format!("{n_head_kv} in layer {i}, {allowed}")));
        }
        Ok(Heads { n_head, n_head_kv })
    });
    checked.collect()
}

/// The key's value, else the residual stream divided among the heads.
fn head_dim(meta: &Meta<'_>, key: &str, n_embd: usize, n_head: usize) -> Result<usize> {
    if let Some(n) = meta.opt_count(key, 1..=MAX_WIDTH)? {
        return Ok(n);
    }
    if !n_embd.is_multiple_of(n_head) {
        let what = format!(
            "{n_embd}, allowed a multiple of attention.head_count = {n_head}, or set {key}"
        );
        return Err(meta.bad("embedding_length", what));
    }
    Ok(n_embd / n_head)
}

fn rope(meta: &Meta<'_>, defaults: Defaults, n_ctx_train: usize, head_dim: usize) -> Result<Rope> {
    let n_rot = meta.opt_count("rope.dimension_count", 2..=head_dim)?.unwrap_or(head_dim);
    if !n_rot.is_multiple_of(2) {
        return Err(meta.bad("rope.dimension_count", format!("{n_rot}, allowed an even number")));
    }
    let scaling_type = meta.opt_text("rope.scaling.type")?;
    // `rope.scale_linear` is the old name; a factor of 0 says "none".
    let factor = match meta.opt_factor("rope.scaling.factor")? {
        Some(factor) => factor,
        None => meta.opt_factor("rope.scale_linear")?.unwrap_or(1.0),
    };
    let n_ctx_orig =
        meta.opt_count("rope.scaling.original_context_length", 1..=MAX_CTX)?.unwrap_or(n_ctx_train);
    let linear = if factor == 1.0 { RopeScaling::None } else { RopeScaling::Linear { factor } };
    let (scaling, factors) = match scaling_type.as_deref() {
        Some("none") => (RopeScaling::None, always(meta, n_rot)?),
        None | Some("linear") => (linear, always(meta, n_rot)?),
        Some("yarn") => {
            let (fast, slow, log_mul) = (YARN_BETA_FAST, YARN_BETA_SLOW, 0.0);
            (RopeScaling::Yarn { factor, n_ctx_orig, fast, slow, log_mul }, always(meta, n_rot)?)
        }
        Some("longrope") => (linear, by_length(meta, n_rot, n_ctx_orig)?),
        Some(other) => {
            let what = format!("\"{other}\", allowed none, linear, yarn, longrope");
            return Err(meta.bad("rope.scaling.type", what));
        }
    };
    Ok(Rope {
        n_rot,
        base: meta.opt_positive("rope.freq_base")?.unwrap_or(defaults.rope_base),
        pairs: RopePairs::Adjacent,
        scaling,
        factors,
        attn_factor: meta.opt_positive("rope.scaling.attn_factor")?.unwrap_or(1.0),
        temperature: None,
    })
}

/// Whether some layer of the file has a weight of this name, for architectures whose files say no other way what they are.
pub(super) fn has_tensor(meta: &Meta<'_>, name: &str) -> bool {
    let end = format!(".{name}.weight");
    meta.file
        .tensors()
        .iter()
        .any(|info| info.name.starts_with("blk.") && info.name.ends_with(&end))
}

/// Which layers have the window: a list of booleans, or a period whose last layer has none, by default `usual`.
pub(super) fn windowed(meta: &Meta<'_>, n_layer: usize, usual: usize) -> Result<Vec<bool>> {
    let key = "attention.sliding_window_pattern";
    if let Some(array) = meta.value(key).and_then(Value::as_array) {
        return match array {
            Array::Bool(list) if list.len() == n_layer => Ok(list.clone()),
            Array::Bool(_)
            | Array::U8(_)
            | Array::I8(_)
            | Array::U16(_)
            | Array::I16(_)
            | Array::U32(_)
            | Array::I32(_)
            | Array::F32(_)
            | Array::String(_)
            | Array::U64(_)
            | Array::I64(_)
            | Array::F64(_) => {
                let what = format!(
                    "{} with {} elements, wanted {n_layer} bool",
                    array.type_name(),
                    array.len()
                );
                Err(meta.bad(key, what))
            }
        };
    }
    let period = meta.opt_count(key, 1..=n_layer.max(usual))?.unwrap_or(usual);
    Ok((0..n_layer).map(|i| i % period < period - 1).collect())
}

/// The sections of a rotary embedding with several positions for each token (M-RoPE, arXiv 2409.12191): those of a text
/// are all the same, and the embedding is the plain one, with or without this key. `false` where the file has none. A
/// fourth section would stand still in a text, and is refused.
pub(super) fn text_sections(meta: &Meta<'_>) -> Result<bool> {
    let key = "rope.dimension_sections";
    let Some(value) = meta.value(key) else { return Ok(false) };
    let sizes: Option<Vec<_>> = value
        .as_array()
        .map(|array| (0..array.len()).filter_map(|i| array.get(i)?.as_int()).collect());
    match sizes.as_deref() {
        Some([_, _, _] | [_, _, _, 0]) => Ok(true),
        Some(_) | None => Err(meta.bad(key, "allowed 3 sections, and a fourth of 0")),
    }
}

/// The rotary embeddings with pairs of the halves of a head, and without factors from the file: one that brings some is
/// refused for its unknown tensor.
pub(super) fn halves(spec: Spec) -> Spec {
    let halves = |rope| Rope { pairs: RopePairs::Halves, factors: RopeFactors::None, ..rope };
    Spec { ropes: spec.ropes.into_iter().map(halves).collect(), ..spec }
}

/// The same without the factors of the rotary embedding that a file may bring.
pub(super) fn without_factors(spec: Spec) -> Spec {
    let plain = |rope| Rope { factors: RopeFactors::None, ..rope };
    Spec { ropes: spec.ropes.into_iter().map(plain).collect(), ..spec }
}

/// `rope_freqs.weight`, where the file has it.
fn always(meta: &Meta<'_>, n_rot: usize) -> Result<RopeFactors> {
    Ok(rope_factors(meta, ROPE_FREQS, n_rot / 2)?.map_or(RopeFactors::None, RopeFactors::Always))
}

/// The two tensors of longrope, where the file has them; one without the other is refused.
pub(super) fn by_length(meta: &Meta<'_>, n_rot: usize, n_ctx_orig: usize) -> Result<RopeFactors> {
    let factors = |name| rope_factors(meta, name, n_rot / 2);
    match (factors(ROPE_SHORT)?, factors(ROPE_LONG)?) {
        (Some(short), Some(long)) => Ok(RopeFactors::ByLength { short, long, n_ctx_orig }),
        (None, None) => Ok(RopeFactors::None),
        (Some(_), None) => Err(one_of_two(ROPE_LONG, ROPE_SHORT)),
        (None, Some(_)) => Err(one_of_two(ROPE_SHORT, ROPE_LONG)),
    }
}

fn one_of_two(missing: &str, there: &str) -> Error {
    Error::new(
        ErrorKind::BadTensor,
        format!("tensor \"{missing}\": missing, the file has \"{there}\""),
    )
}

/// Entries of the token list; the embedding's rows are checked against it with the other tensors.
fn n_vocab(meta: &Meta<'_>) -> Result<usize> {
    let stated = meta.opt_count("vocab_size", 1..=MAX_VOCAB)?;
    let tokens = meta::n_tokens(meta.file)?;
    match (tokens, stated) {
        (Some(n), Some(stated)) if n != stated => {
            Err(meta.bad("vocab_size", format!("{stated}, tokenizer.ggml.tokens has {n} entries")))
        }
        (Some(n), Some(_) | None) if (1..=MAX_VOCAB).contains(&n) => Ok(n),
        (Some(n), Some(_) | None) => {
            let what = format!("tokenizer.ggml.tokens: {n} entries, allowed 1..={MAX_VOCAB}");
            Err(Error::new(ErrorKind::BadHyperParameter, what))
        }
        (None, Some(stated)) => Ok(stated),
        (None, None) => {
            Err(Error::new(ErrorKind::MissingKey, "missing key \"tokenizer.ggml.tokens\""))
        }
    }
}
