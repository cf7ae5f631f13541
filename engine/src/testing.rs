//! For tests of programs that use karat: a model that is made in a moment and needs no download.

use crate::error::Result;
use model::output::Existing;
use model::synth::{self, ExpertNumbers, Request};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;

/// Writes a model of 0.3 MB with random weights: two layers, a tokenizer that spells any text, a chat template. What it
/// says means nothing, but it is the same on every machine. A file of the name is replaced.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) where the file cannot be written.
pub fn write_tiny_model(path: &Path) -> Result<()> {
    let arch = synth::base();
    let shape = synth::Shape {
        n_layer: 2,
        n_embd: 64,
        n_ff: 96,
        n_head: 2,
        n_head_kv: 1,
        head_dim_k: 32,
        head_dim_v: 32,
        n_vocab: 1000,
        n_ctx: 512,
        ..synth::small(arch)?
    };
    let format = "Q8_0".parse()?;
    let threads = NonZero::<usize>::MIN;
    let (experts, existing) = (ExpertNumbers::default(), Existing::Replace);
    let request = Request { arch, shape, experts, format, seed: 1, existing, threads };
    synth::synth(&request, path, |_| ControlFlow::Continue(()))?;
    Ok(())
}
