//! Ministral 3 and Devstral 2 dense (arXiv 2601.08584): Llama stretched by YaRN with limits of its own, and a
//! temperature of attention that grows with the position.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Error, ErrorKind, Result, Rope, RopeScaling, Spec};
use gguf::Value;
use graph::Temperature;

/// The base of Hugging Face's `Ministral3Config`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 1e6, eps: None, window: Window::Own, scale: inverse_root };
/// Index of the queries' rotary embedding, where they have a temperature.
const QUERIES: usize = 1;

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("attention.temperature_scale", Value::F32(0.1)),
        ("rope.scaling.original_context_length", Value::U32(5)),
        ("rope.scaling.factor", Value::F32(16.0)),
        ("rope.scaling.yarn_log_multiplier", Value::F32(1.0)),
    ],
    yarn: true,
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::base(meta, DEFAULTS)?;
    let scaling = scaling(meta, spec.ropes[0].scaling)?;
    spec.ropes[0].scaling = scaling;
    let Some(scale) = meta.opt_factor("attention.temperature_scale")? else { return Ok(spec) };
    let length = meta.opt_count("rope.scaling.original_context_length", 1..=u32::MAX as usize)?;
    let length = u32::try_from(length.unwrap_or(spec.n_ctx_train)).unwrap_or(u32::MAX);
    let temperature = Some(Temperature { scale: f64::from(scale), length });
    let queries = Rope { temperature, ..spec.ropes[0].clone() };
    for layer in &spec.layers {
        let crate::Mixer::Attention(attention) = layer.mixer else { continue };
        if queries.n_rot != attention.head_dim_k {
            let key = meta.key("rope.dimension_count");
            let (n, wanted) = (queries.n_rot, attention.head_dim_k);
            let what = format!("{key}: {n}, with a temperature {wanted} is allowed");
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
    }
    spec.ropes.push(queries);
    Ok(spec.map_attention(|_, attention| Attention { query_rope: Some(QUERIES), ..attention }))
}

/// YaRN with the limits and the factor that the file says.
pub(super) fn scaling(meta: &Meta<'_>, scaling: RopeScaling) -> Result<RopeScaling> {
    let own_fast = meta.opt_positive("rope.scaling.yarn_beta_fast")?;
    let own_slow = meta.opt_positive("rope.scaling.yarn_beta_slow")?;
    let own_log_mul = meta.opt_factor("rope.scaling.yarn_log_multiplier")?;
    Ok(match scaling {
        RopeScaling::Yarn { factor, n_ctx_orig, fast, slow, log_mul } => RopeScaling::Yarn {
            factor,
            n_ctx_orig,
            fast: own_fast.unwrap_or(fast),
            slow: own_slow.unwrap_or(slow),
            log_mul: own_log_mul.unwrap_or(log_mul),
        },
        RopeScaling::None | RopeScaling::Linear { .. } => scaling,
    })
}
