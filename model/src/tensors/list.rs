//! A list of the tensors that a decoder asks for: for those who write files.

use super::{Found, Presence, Source, TensorSpec};
use crate::Result;
use crate::shape::Usual;
use gguf::DType;
use graph::FileId;

/// Has every tensor that is asked for, of the optional ones those that are usual, and remembers them in the order of
/// use.
pub(crate) struct TensorList {
    usual: Usual,
    tensors: Vec<TensorSpec>,
}

impl TensorList {
    pub(crate) fn new(usual: Usual) -> Self {
        Self { usual, tensors: Vec::new() }
    }

    pub(crate) fn into_tensors(self) -> Vec<TensorSpec> {
        self.tensors
    }
}

impl Source for TensorList {
    fn find(&mut self, wanted: &TensorSpec) -> Result<Option<Found>> {
        let is_there = match wanted.presence {
            Presence::Required => true,
            Presence::UnlessTied => !self.usual.tied,
            Presence::IfBiased(bias) => self.usual.biases.contains(&bias),
            Presence::IfQkvFused => self.usual.fused_qkv,
        };
        if !is_there {
            return Ok(None);
        }
        // Two rotary embeddings may share their factors.
        if !self.tensors.iter().any(|known| known.name == wanted.name) {
            self.tensors.push(wanted.clone());
        }
        Ok(Some(Found { file: FileId::BASE, dtype: DType::F32 }))
    }

    fn refuse_apart(&self, _: &TensorSpec, _: &str) -> Result<()> {
        Ok(())
    }
}
