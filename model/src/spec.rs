//! `Spec`: everything that the decoder builder needs to know of a model, as plain data.

use crate::Rope;
use graph::Act;

/// Most ids that a vocabulary may have.
pub(crate) const MAX_VOCAB: usize = 1 << 22;

/// A decoder-only transformer. Architectures differ in the values here and in nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// `general.architecture`, the prefix of the file's keys.
    pub arch: String,
    /// Token ids are below this; rows of the embedding.
    pub n_vocab: usize,
    /// Positions that the model was trained on.
    pub n_ctx_train: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Elements of a query or key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Added to the mean square in every norm.
    pub eps: f32,
    /// One for each block.
    pub layers: Vec<Layer>,
    /// The rotary embeddings that the layers use.
    pub ropes: Vec<Rope>,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Norms after attention and after the feed-forward.
    pub post_norm: PostNorm,
    /// How the feed-forward's gate and up projections are stored.
    pub gate_up: GateUp,
    /// The feed-forward's activation.
    pub act: Act,
    /// Where the file may have biases; they are used where they are.
    pub biases: &'static [Bias],
    /// Factor on the embeddings.
    pub embd_scale: Option<f32>,
    /// `1/sqrt(head_dim)` or what the architecture has instead.
    pub attn_scale: f32,
    /// Where `attn_scale` is applied: rounding differs.
    pub query_scale: QueryScale,
    /// `cap · tanh(x / cap)` on attention scores.
    pub attn_softcap: Option<f32>,
    /// `cap · tanh(x / cap)` on the logits.
    pub logit_softcap: Option<f32>,
}

/// What may differ from block to block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Query heads, a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Width of the feed-forward.
    pub n_ff: usize,
    /// Index into [`Spec::ropes`].
    pub rope: usize,
    /// Positions that a token sees, its own included; `None` for all.
    pub window: Option<u32>,
}

/// Norm of queries and keys before the rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm of each head, one weight for all heads.
    PerHead,
}

/// Norms on what attention and feed-forward add to the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostNorm {
    /// None.
    None,
    /// An RMS norm after each.
    Both,
}

/// How the gate and up projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GateUp {
    /// `ffn_gate` and `ffn_up`.
    Separate,
    /// One `ffn_up` of twice the width: first the gate, then up.
    Fused,
}

/// Where the scale on `q · k` is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryScale {
    /// On the scores.
    Scores,
    /// On the queries, before they meet the keys.
    Queries,
}

/// A place where a file may have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// `attn_q.bias`, `attn_k.bias`, `attn_v.bias`, or `attn_qkv.bias`.
    Qkv,
    /// `attn_output.bias`.
    AttnOut,
    /// `ffn_gate.bias`, `ffn_up.bias`, `ffn_down.bias`.
    Ffn,
    /// `output.bias`.
    Output,
}

/// Positions of a context where the user does not say: enough for a chat, little memory.
const DEFAULT_CTX: usize = 4096;

impl Spec {
    /// The context where the user does not say: what the model was trained on, up to 4096 positions.
    pub fn default_ctx(&self) -> usize {
        self.n_ctx_train.min(DEFAULT_CTX)
    }
}

impl Layer {
    /// Columns of queries, keys and values.
    pub(crate) fn qkv_cols(&self, spec: &Spec) -> [usize; 3] {
        [
            self.n_head * spec.head_dim_k,
            self.n_head_kv * spec.head_dim_k,
            self.n_head_kv * spec.head_dim_v,
        ]
    }
}
