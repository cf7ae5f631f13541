//! The architectures: one file and one line in [`ARCHS`] for each, a difference from llama's.

mod gemma3;
mod llama;
mod phi3;
mod qwen2;
mod qwen3;

use crate::meta::{self, Meta};
use crate::{Error, ErrorKind, Result, Spec};

/// One architecture: its name in `general.architecture`, and how its metadata becomes a spec.
pub struct Arch {
    /// The name.
    pub name: &'static str,
    spec: fn(&Meta<'_>) -> Result<Spec>,
}

/// All that karat knows.
pub const ARCHS: &[Arch] = &[
    Arch { name: "gemma3", spec: gemma3::spec },
    Arch { name: "llama", spec: llama::spec },
    Arch { name: "phi3", spec: phi3::spec },
    Arch { name: "qwen2", spec: qwen2::spec },
    Arch { name: "qwen3", spec: qwen3::spec },
];

/// The spec of a file's model. Reads metadata and rope factors, no weights.
///
/// Errors name the key or the tensor: unknown architecture, missing keys, wrong types, hyper-parameters out of range
/// or in contradiction.
pub fn spec(file: &gguf::File) -> Result<Spec> {
    let name = meta::architecture(file)?;
    let Some(arch) = ARCHS.iter().find(|arch| arch.name == name) else {
        let known: Vec<_> = ARCHS.iter().map(|arch| arch.name).collect();
        let what =
            format!("general.architecture: \"{name}\" is unknown, karat runs {}", known.join(", "));
        return Err(Error::new(ErrorKind::UnknownArchitecture, what));
    };
    (arch.spec)(&Meta { file, arch: arch.name })
}
