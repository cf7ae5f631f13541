//! Baichuan 1 and 2 of 7B (arXiv 2309.10305): Llama without biases. The models of 13B have ALiBi in place of a rotary
//! embedding, and are refused.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Error, ErrorKind, Result, Spec};

/// The epsilon of Hugging Face's `BaichuanConfig`, which all models have, and the base of its code.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };
/// The number of layers is how llama.cpp tells a 13B from a 7B.
const N_LAYER_13B: usize = 40;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    if spec.layers.len() == N_LAYER_13B {
        let key = meta.key("block_count");
        let what = format!("{key}: {N_LAYER_13B}, a 13B with ALiBi; karat runs the 7B only");
        return Err(Error::new(ErrorKind::Unsupported, what));
    }
    Ok(Spec { biases: &[], ..spec })
}
