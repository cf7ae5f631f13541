//! MiniCPM (arXiv 2404.06395): Granite's factors, with defaults for files that do not say them.

use super::granite;
use super::llama::{Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Result, Spec};
use gguf::Value;

/// The base of Hugging Face's `MiniCPMConfig`. The norms' epsilon has no default, as in llama.cpp: models have 1e-5, the
/// config says 1e-6.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// `scale_emb` of all models of MiniCPM 1 and 2.
const EMBD_SCALE: f32 = 12.0;
/// `scale_depth` of the same.
const DEPTH_SCALE: f32 = 1.4;
/// `dim_model_base` of the same: logits of a wider model are divided by how much wider it is. A file
/// that says so has width / 256; without the key llama.cpp divides by 256 / width, which multiplies, unlike the model's code.
const BASE_WIDTH: f32 = 256.0;

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("embedding_scale", Value::F32(12.0)),
        ("residual_scale", Value::F32(0.221)),
        ("logit_scale", Value::F32(9.0)),
    ],
    ..Usual::TIED
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let embd = meta.opt_factor("embedding_scale")?;
    let residual = meta.opt_factor("residual_scale")?;
    let divisor = meta.opt_positive("logit_scale")?;
    let spec = granite::base(meta, DEFAULTS)?;
    let usual = DEPTH_SCALE / (spec.layers.len() as f32).sqrt();
    let divisor = divisor.unwrap_or(spec.n_embd as f32 / BASE_WIDTH);
    Ok(Spec {
        embd_scale: Some(embd.unwrap_or(EMBD_SCALE)),
        residual_scale: Some(residual.unwrap_or(usual)),
        logit_scale: Some(1.0 / divisor),
        ..spec
    })
}
