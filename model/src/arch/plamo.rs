//! PLaMo 13B (Preferred Networks): Llama with both branches by one norm, and halves that are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{FirstSum, ParallelNorms, Result, Spec};

/// The base of llama.cpp. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[], ..spec }.in_parallel(ParallelNorms::One, FirstSum::Branches))
}
