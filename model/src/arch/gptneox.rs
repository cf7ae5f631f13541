//! GPT-NeoX and Pythia (arXiv 2204.06745, 2304.01373): both branches beside one another or one after the other, as the file says;
//! a part of each head is rotated.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, FirstSum, ParallelNorms, Result, Spec};
use gguf::Value;
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `GPTNeoXConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// All places of a layer.
const BIASES: &[Bias] = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn];

pub(super) const USUAL: Usual = Usual {
    biases: BIASES,
    fused_qkv: true,
    half_rotary: true,
    keys: &[("use_parallel_residual", Value::Bool(true))],
    ..Usual::LAYER_NORM
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let key = "use_parallel_residual";
    let is_parallel = meta.opt_flag(key)?.ok_or_else(|| meta.missing(key))?;
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    let spec = Spec { biases: BIASES, ..spec }.without_gates(Unary::GeluTanh);
    if !is_parallel {
        return Ok(spec);
    }
    Ok(spec.in_parallel(ParallelNorms::Two, FirstSum::FeedForward))
}
