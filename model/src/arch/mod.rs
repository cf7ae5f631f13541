//! The architectures: one file and one line in [`ARCHS`] for each, a difference from llama's.

mod arcee;
mod baichuan;
mod bailingmoe;
mod bailingmoe2;
mod chatglm;
mod codeshell;
mod cohere2;
mod command_r;
mod deepseek;
mod deepseek2;
mod dots1;
mod ernie4_5;
mod ernie4_5_moe;
mod exaone;
mod exaone4;
mod falcon;
mod gemma;
mod gemma2;
mod gemma3;
mod glm4;
mod glm4moe;
mod gpt2;
mod gpt_oss;
mod gptneox;
mod granite;
mod granitemoe;
mod hunyuan_dense;
mod hunyuan_moe;
mod internlm2;
mod jais2;
mod lfm2;
mod llama;
mod maincoder;
mod minicpm;
mod minimax_m2;
mod mistral3;
mod nemotron;
mod olmo;
mod olmo2;
mod olmoe;
mod openelm;
mod orion;
mod pangu_embedded;
mod phi2;
mod phi3;
mod plamo;
mod qwen;
mod qwen2;
mod qwen2moe;
mod qwen2vl;
mod qwen3;
mod qwen3moe;
mod qwen3vl;
mod qwen3vlmoe;
mod seed_oss;
mod smollm3;
mod stablelm;
mod starcoder;
mod starcoder2;
mod xverse;

pub(crate) use llama::{LAYER_EPS, RMS_EPS};

use crate::meta::{self, Meta};
use crate::shape::{Preset, Usual};
use crate::{Error, ErrorKind, Result, Spec, TensorSpec, decoder};

/// One architecture: its name in `general.architecture`, and how its metadata becomes a spec.
pub struct Arch {
    /// The name.
    pub name: &'static str,
    spec: fn(&Meta<'_>) -> Result<Spec>,
    /// What synthetic models get.
    pub(crate) usual: Usual,
    /// Shapes of synthetic models.
    pub(crate) presets: &'static [Preset],
}

impl Arch {
    /// The tensors of a file with this spec, in the order of use. Where the spec leaves it to the file whether a tensor
    /// is there (an output projection, biases), models of the architecture usually have these.
    ///
    /// # Errors
    /// The spec's sizes contradict one another.
    pub fn tensors(&self, spec: &Spec) -> Result<Vec<TensorSpec>> {
        decoder::tensors(spec, self.usual)
    }

    /// The key of the norms' epsilon, without the architecture's prefix.
    pub fn eps_key(&self) -> &'static str {
        self.usual.eps_key
    }

    /// Keys beside the dimensions that models of the architecture have, without its prefix.
    pub fn usual_keys(&self) -> &'static [(&'static str, gguf::Value)] {
        self.usual.keys
    }
}

/// All that karat knows.
pub const ARCHS: &[Arch] = &[
    Arch { name: "arcee", spec: arcee::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "baichuan", spec: baichuan::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "bailingmoe", spec: bailingmoe::spec, usual: bailingmoe::USUAL, presets: &[] },
    Arch { name: "bailingmoe2", spec: bailingmoe2::spec, usual: bailingmoe2::USUAL, presets: &[] },
    Arch { name: "chatglm", spec: chatglm::spec, usual: chatglm::USUAL, presets: &[] },
    Arch { name: "codeshell", spec: codeshell::spec, usual: codeshell::USUAL, presets: &[] },
    Arch { name: "cohere2", spec: cohere2::spec, usual: cohere2::USUAL, presets: &[] },
    Arch { name: "command-r", spec: command_r::spec, usual: command_r::USUAL, presets: &[] },
    Arch { name: "deepseek", spec: deepseek::spec, usual: deepseek::USUAL, presets: &[] },
    Arch { name: "deepseek2", spec: deepseek2::spec, usual: deepseek2::USUAL, presets: &[] },
    Arch { name: "dots1", spec: dots1::spec, usual: dots1::USUAL, presets: &[] },
    Arch { name: "ernie4_5", spec: ernie4_5::spec, usual: ernie4_5::USUAL, presets: &[] },
    Arch {
        name: "ernie4_5-moe",
        spec: ernie4_5_moe::spec,
        usual: ernie4_5_moe::USUAL,
        presets: &[],
    },
    Arch { name: "exaone", spec: exaone::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "exaone4", spec: exaone4::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "falcon", spec: falcon::spec, usual: falcon::USUAL, presets: &[] },
    Arch { name: "gemma", spec: gemma::spec, usual: Usual::TIED, presets: &[] },
    Arch { name: "gemma2", spec: gemma2::spec, usual: gemma2::USUAL, presets: &[] },
    Arch { name: "gemma3", spec: gemma3::spec, usual: gemma3::USUAL, presets: &[] },
    Arch { name: "glm4", spec: glm4::spec, usual: glm4::USUAL, presets: &[] },
    Arch { name: "glm4moe", spec: glm4moe::spec, usual: glm4moe::USUAL, presets: &[] },
    Arch { name: "gpt-oss", spec: gpt_oss::spec, usual: gpt_oss::USUAL, presets: &[] },
    Arch { name: "gpt2", spec: gpt2::spec, usual: gpt2::USUAL, presets: &[] },
    Arch { name: "gptneox", spec: gptneox::spec, usual: gptneox::USUAL, presets: &[] },
    Arch { name: "granite", spec: granite::spec, usual: granite::USUAL, presets: &[] },
    Arch { name: "granitemoe", spec: granitemoe::spec, usual: granitemoe::USUAL, presets: &[] },
    Arch { name: "hunyuan-dense", spec: hunyuan_dense::spec, usual: Usual::TIED, presets: &[] },
    Arch { name: "hunyuan-moe", spec: hunyuan_moe::spec, usual: hunyuan_moe::USUAL, presets: &[] },
    Arch { name: "internlm2", spec: internlm2::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "jais2", spec: jais2::spec, usual: jais2::USUAL, presets: &[] },
    Arch { name: "lfm2", spec: lfm2::spec, usual: lfm2::USUAL, presets: lfm2::PRESETS },
    Arch { name: "llama", spec: llama::spec, usual: Usual::PLAIN, presets: llama::PRESETS },
    Arch { name: "maincoder", spec: maincoder::spec, usual: maincoder::USUAL, presets: &[] },
    Arch { name: "minicpm", spec: minicpm::spec, usual: minicpm::USUAL, presets: &[] },
    Arch { name: "minimax-m2", spec: minimax_m2::spec, usual: minimax_m2::USUAL, presets: &[] },
    Arch { name: "mistral3", spec: mistral3::spec, usual: mistral3::USUAL, presets: &[] },
    Arch { name: "nemotron", spec: nemotron::spec, usual: nemotron::USUAL, presets: &[] },
    Arch { name: "olmo", spec: olmo::spec, usual: olmo::USUAL, presets: &[] },
    Arch { name: "olmo2", spec: olmo2::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "olmoe", spec: olmoe::spec, usual: olmoe::USUAL, presets: &[] },
    Arch { name: "openelm", spec: openelm::spec, usual: openelm::USUAL, presets: &[] },
    Arch { name: "orion", spec: orion::spec, usual: Usual::LAYER_NORM, presets: &[] },
    Arch {
        name: "pangu-embedded",
        spec: pangu_embedded::spec,
        usual: pangu_embedded::USUAL,
        presets: &[],
    },
    Arch { name: "phi2", spec: phi2::spec, usual: phi2::USUAL, presets: &[] },
    Arch { name: "phi3", spec: phi3::spec, usual: phi3::USUAL, presets: &[] },
    Arch { name: "plamo", spec: plamo::spec, usual: Usual::PLAIN, presets: &[] },
    Arch { name: "qwen", spec: qwen::spec, usual: qwen::USUAL, presets: &[] },
    Arch { name: "qwen2", spec: qwen2::spec, usual: qwen2::USUAL, presets: qwen2::PRESETS },
    Arch { name: "qwen2moe", spec: qwen2moe::spec, usual: qwen2moe::USUAL, presets: &[] },
    Arch { name: "qwen2vl", spec: qwen2vl::spec, usual: qwen2vl::USUAL, presets: &[] },
    Arch { name: "qwen3", spec: qwen3::spec, usual: Usual::TIED, presets: &[] },
    Arch { name: "qwen3moe", spec: qwen3moe::spec, usual: qwen3moe::USUAL, presets: &[] },
    Arch { name: "qwen3vl", spec: qwen3vl::spec, usual: qwen3vl::USUAL, presets: &[] },
    Arch { name: "qwen3vlmoe", spec: qwen3vlmoe::spec, usual: qwen3vlmoe::USUAL, presets: &[] },
    Arch { name: "seed_oss", spec: seed_oss::spec, usual: seed_oss::USUAL, presets: &[] },
    Arch { name: "smollm3", spec: smollm3::spec, usual: Usual::TIED, presets: &[] },
    Arch { name: "stablelm", spec: stablelm::spec, usual: stablelm::USUAL, presets: &[] },
    Arch { name: "starcoder", spec: starcoder::spec, usual: starcoder::USUAL, presets: &[] },
    Arch { name: "starcoder2", spec: starcoder2::spec, usual: starcoder2::USUAL, presets: &[] },
    Arch { name: "xverse", spec: xverse::spec, usual: Usual::PLAIN, presets: &[] },
];

/// The one that the others differ from.
pub(crate) const BASE: &str = "llama";

/// The architecture called `name`.
pub(crate) fn find(name: &str) -> Result<&'static Arch> {
    ARCHS.iter().find(|arch| arch.name == name).ok_or_else(|| {
        let known: Vec<_> = ARCHS.iter().map(|arch| arch.name).collect();
        let nearest =
            nearest(name).map_or(String::new(), |near| format!("; the nearest is {near}"));
        let what = format!(
            "general.architecture: \"{name}\" is unknown, karat runs {}{nearest}",
            known.join(", ")
        );
        Error::new(ErrorKind::UnknownArchitecture, what)
    })
}

/// The known name that begins most like `name`: a newer generation of a family is called like the one before it.
fn nearest(name: &str) -> Option<&'static str> {
    let alike = |known: &str| name.bytes().zip(known.bytes()).take_while(|(a, b)| a == b).count();
    let best = ARCHS.iter().map(|arch| arch.name).max_by_key(|known| alike(known))?;
    (alike(best) >= 3).then_some(best)
}

/// The spec of a file's model. Reads metadata and rope factors, no weights. A key of the architecture that karat has no use
/// for is named in [`Spec::warnings`].
///
/// Errors name the key or the tensor: unknown architecture, missing keys, wrong types, hyper-parameters out of range
/// or in contradiction.
pub fn spec(file: &gguf::File) -> Result<Spec> {
    let name = meta::architecture(file)?;
    let arch = find(&name)?;
    let meta = Meta::new(file, arch.name);
    let spec = (arch.spec)(&meta)?;
    Ok(Spec { warnings: meta.unused().into_iter().collect(), ..spec })
}

/// Whether llama-quantize takes a model for a 70B, of which it gives the value projections more bits: they are small
/// there beside the queries. It goes by architecture and layers, also for architectures that karat does not run.
pub(crate) fn is_70b(arch: &str, n_layer: u64, grouped_heads: bool) -> bool {
    match arch {
        "llama" => n_layer == 80 && grouped_heads,
        "deci" | "olmo" | "qwen2" => n_layer == 80,
        "jais2" => n_layer == 68,
        _ => false,
    }
}

/// Whether matrices of attention lie one behind the other in a third dimension, as those of experts do.
pub(crate) fn has_deep_attention(arch: &str) -> bool {
    arch == "bailingmoe3"
}
