//! The shapes of synthetic models as plain data: what an architecture says of its models, and what `synth` is asked for.

use crate::Bias;
use gguf::Value;

/// The dimensions of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Layers.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key and value heads, a divisor of `n_head`.
    pub n_head_kv: usize,
    /// Width of a query or key head.
    pub head_dim_k: usize,
    /// Width of a value head.
    pub head_dim_v: usize,
    /// Tokens.
    pub n_vocab: usize,
    /// Positions that it claims to be trained on.
    pub n_ctx: usize,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Epsilon of the norms.
    pub eps: f32,
    /// Whether the embedding is the output projection, too.
    pub tied: bool,
    /// What the weights are like.
    pub numbers: Numbers,
}

/// What the weights of a synthetic model are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Activations of size 1 throughout.
    Ordinary,
    /// Channels of 1e4, scales of zero, of the smallest and of the largest f16; still no overflow to infinity.
    Adversarial,
}

/// A named shape of an architecture.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// The name.
    pub name: &'static str,
    /// The shape.
    pub shape: Shape,
}

/// What models of an architecture usually have where its spec leaves the choice to the file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    /// The embedding is the output projection, too.
    pub(crate) tied: bool,
    /// Biases.
    pub(crate) biases: &'static [Bias],
    /// Queries, keys and values are one tensor.
    pub(crate) fused_qkv: bool,
    /// Every layer of this number has attention; the others have no key and value heads.
    pub(crate) attention_every: usize,
    /// The file says the sections of an M-RoPE.
    pub(crate) text_sections: bool,
    /// The rotary embedding is stretched by YaRN.
    pub(crate) yarn: bool,
    /// Half of each head is rotated, and not all of it.
    pub(crate) half_rotary: bool,
    /// The key of the norms' epsilon.
    pub(crate) eps_key: &'static str,
    /// Keys beside the dimensions, without the architecture's prefix.
    pub(crate) keys: &'static [(&'static str, Value)],
}

impl Usual {
    /// An output projection of its own, no biases, queries, keys and values apart, no further keys.
    pub(crate) const PLAIN: Self = Self {
        tied: false,
        biases: &[],
        fused_qkv: false,
        attention_every: 1,
        text_sections: false,
        yarn: false,
        half_rotary: false,
        eps_key: crate::arch::RMS_EPS,
        keys: &[],
    };
    /// The embedding is the output projection.
    pub(crate) const TIED: Self = Self { tied: true, ..Self::PLAIN };
    /// LayerNorm with biases.
    pub(crate) const LAYER_NORM: Self =
        Self { biases: &[Bias::Norm], eps_key: crate::arch::LAYER_EPS, ..Self::PLAIN };
}
