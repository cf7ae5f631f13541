//! Gemma 3 (arXiv 2503.19786): five layers with a sliding window to one without, each sort with its own rope base;
//! scaled embeddings, norms on queries and keys, norms after attention and feed-forward.

use super::llama;
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{
    Bias, Layer, PostNorm, QkNorm, QueryScale, Result, Rope, RopeFactors, RopeScaling, Spec,
};
use gguf::{Array, Value};
use graph::{Act, RopePairs};

/// Every sixth layer sees all positions, where the file does not say otherwise.
const DEFAULT_PATTERN: usize = 6;
/// The 27B model divides the residual stream among its heads for the attention scale, unlike its siblings; its number
/// of layers is how llama.cpp tells it from them.
const N_LAYER_27B: usize = 62;
const LOCAL: usize = 1;

pub(super) const USUAL: Usual = Usual { keys: &[("attention.sliding_window", 512)], ..Usual::TIED };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::spec(meta)?;
    let n_layer = spec.layers.len();
    let global =
        Rope { pairs: RopePairs::Halves, factors: RopeFactors::None, ..spec.ropes.swap_remove(0) };
    let local_base = meta.opt_positive("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // The context is stretched for the layers that see all of it, not for those with a window.
    let local = Rope { base: local_base, scaling: RopeScaling::None, ..global.clone() };
    if let Some(window) = meta.opt_count("attention.sliding_window", 1..=u32::MAX as usize)? {
        for (layer, is_local) in spec.layers.iter_mut().zip(local_layers(meta, n_layer)?) {
            if is_local {
                *layer = Layer { rope: LOCAL, window: u32::try_from(window).ok(), ..*layer };
            }
        }
    }
    let head_width =
        if n_layer == N_LAYER_27B { spec.n_embd / spec.layers[0].n_head } else { spec.head_dim_k };
    Ok(Spec {
        ropes: vec![global, local],
        qk_norm: QkNorm::PerHead,
        post_norm: PostNorm::Both,
        act: Act::GeluTanh,
        biases: &[Bias::Qkv],
        embd_scale: Some((spec.n_embd as f32).sqrt()),
        attn_scale: 1.0 / (head_width as f32).sqrt(),
        query_scale: QueryScale::Queries,
        logit_softcap: meta.opt_factor("final_logit_softcapping")?,
        ..spec
    })
}

/// Which layers have the window: a list of booleans, or a period whose last layer has none.
fn local_layers(meta: &Meta<'_>, n_layer: usize) -> Result<Vec<bool>> {
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
    let period = meta.opt_count(key, 1..=n_layer.max(DEFAULT_PATTERN))?.unwrap_or(DEFAULT_PATTERN);
    Ok((0..n_layer).map(|i| i % period < period - 1).collect())
}
