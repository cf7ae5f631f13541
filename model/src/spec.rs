//! `Spec`: everything that the decoder builder needs to know of a model, as plain data.

use crate::Rope;
use graph::{Act, Unary};

/// Most ids that a vocabulary may have.
pub(crate) const MAX_VOCAB: usize = 1 << 22;

/// A language model as plain data. Architectures differ in the values here and in nothing else.
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
    /// What every norm computes.
    pub norm: NormKind,
    /// Added to the mean square, or to the variance, in every norm.
    pub eps: f32,
    /// Whether the file has a norm of the embeddings.
    pub embd_norm: EmbdNorm,
    /// What tells the model where a token stands, besides its attention.
    pub positions: Positions,
    /// One for each block.
    pub layers: Vec<Layer>,
    /// The rotary embeddings that the layers use.
    pub ropes: Vec<Rope>,
    /// Where the file may have biases; they are used where they are.
    pub biases: &'static [Bias],
    /// Factor on the embeddings.
    pub embd_scale: Option<f32>,
    /// Factor on what each branch adds to the residual stream.
    pub residual_scale: Option<f32>,
    /// What the file calls the norm before the feed-forward.
    pub ffn_norm: FfnNorm,
    /// What the file calls the norm before the output projection.
    pub output_norm: OutputNorm,
    /// Factor on the logits.
    pub logit_scale: Option<f32>,
    /// `cap · tanh(x / cap)` on the logits.
    pub logit_softcap: Option<f32>,
    /// Layers behind these in the file that foretell tokens beyond the next: no part of what answers.
    pub n_foretelling: usize,
    /// What is odd about the metadata but no reason to refuse it, a line each.
    pub warnings: Vec<String>,
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// RMS norm with factors (arXiv 1910.07467).
    Rms,
    /// LayerNorm with factors (arXiv 1607.06450), which are followed by a bias where the file has it ([`Bias::Norm`]).
    Layer,
    /// LayerNorm without factors: a file has no tensors of it.
    LayerPlain,
}

/// Whether the embeddings are normed before the first layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbdNorm {
    /// They are not.
    None,
    /// `token_embd_norm`
    TokenEmbd,
}

/// What tells a model where a token stands, besides rotary embeddings and biases of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Positions {
    /// Nothing.
    None,
    /// A learned row for each position of the context is added to the embedding: `position_embd`.
    Learned,
}

/// What a file calls the norm before the output projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNorm {
    /// `output_norm`
    Output,
    /// `token_embd_norm`: a slip of llama.cpp's first converter that files have kept.
    TokenEmbd,
}

/// What a file calls the norm before the feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnNorm {
    /// `ffn_norm`
    Ffn,
    /// `post_attention_norm`: the name that Hugging Face's module has.
    PostAttention,
}

/// One block: two branches that add to the residual stream, and the norms around them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Layer {
    /// Where the norms stand.
    pub norms: Norms,
    /// The branch that mixes the tokens of a sequence.
    pub mixer: Mixer,
    /// The branch that works on each token alone.
    pub feed_forward: FeedForward,
}

/// Where a layer's norms stand, and how its branches join the residual stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// An RMS norm before each branch.
    Before,
    /// An RMS norm before each branch, and one on what the branch adds.
    BeforeAndAfter,
    /// None before a branch, an RMS norm on what it adds.
    After,
    /// Both branches read the stream as it was before the layer.
    Parallel(Parallel),
}

/// A layer whose branches do not wait for one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parallel {
    /// The norms before them.
    pub norms: ParallelNorms,
    /// In which order stream and branches are added.
    pub first: FirstSum,
}

/// The norms before two branches that both read the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParallelNorms {
    /// `attn_norm` is for both.
    One,
    /// `attn_norm` is the mixer's, `ffn_norm` the feed-forward's.
    Two,
    /// `attn_norm` is the feed-forward's, `attn_norm_2` the mixer's.
    Second,
}

/// Which two of stream and branches are added first; the third comes on top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstSum {
    /// Both branches.
    Branches,
    /// The stream and the feed-forward.
    FeedForward,
    /// The stream and the mixer.
    Mixer,
}

/// What mixes the tokens of a sequence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mixer {
    /// Attention over the positions so far.
    Attention(Attention),
    /// Attention over a latent that all heads share.
    Latent(Latent),
    /// A gated convolution of the last few rows.
    ShortConv(ShortConv),
}

/// Attention whose keys and values are products of one latent for each position (MLA, arXiv 2405.04434): that alone is kept.
/// The matrices that make keys of it are taken to the queries, those that make values to the result, so that all heads attend
/// to the latent itself. A part of each head has a position; the keys' is one for all heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Latent {
    /// Heads.
    pub n_head: usize,
    /// Width of the latent that the queries are made of; `None` where they are made of the stream itself.
    pub q_rank: Option<usize>,
    /// Width of the latent of keys and values.
    pub kv_rank: usize,
    /// Elements of a head of queries and keys without a position.
    pub head_dim_nope: usize,
    /// Elements with one.
    pub head_dim_rope: usize,
    /// Elements of a head of values.
    pub head_dim_v: usize,
    /// Index into [`Spec::ropes`].
    pub rope: usize,
    /// Factor on `q · k`.
    pub scale: f32,
}

/// A gated convolution (LFM2, arXiv 2511.23404): of a projection's three parts `b`, `c`, `x` it makes `c · conv(b · x)`,
/// each column by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortConv {
    /// Rows that a token sees, its own included.
    pub d_conv: usize,
}

/// Attention; groups of query heads share a key and value head.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads, a multiple of `n_head_kv`.
    pub n_head: usize,
    /// Key and value heads.
    pub n_head_kv: usize,
    /// Elements of a query or key head.
    pub head_dim_k: usize,
    /// Elements of a value head.
    pub head_dim_v: usize,
    /// Queries, keys and values are cut off at this magnitude.
    pub qkv_clamp: Option<f32>,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Index into [`Spec::ropes`]; `None` where queries and keys do not know their position (arXiv 2305.19466).
    pub rope: Option<usize>,
    /// The same of queries, where theirs is another one.
    pub query_rope: Option<usize>,
    /// Positions that a token sees, its own included; `None` for all.
    pub window: Option<u32>,
    /// `1/sqrt(head_dim)` or what the architecture has instead.
    pub scale: f32,
    /// Where `scale` is applied: rounding differs.
    pub query_scale: QueryScale,
    /// `cap · tanh(x / cap)` on the scores.
    pub softcap: Option<f32>,
    /// Whether each query head has a logit of its own that takes part in the softmax and brings no value: a sink
    /// (arXiv 2309.17453).
    pub sinks: bool,
}

/// What works on each token alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum FeedForward {
    /// `down(act(gate(x)) · up(x))`
    Gated(Gated),
    /// `down(act(up(x)))`
    Plain(Plain),
    /// Some of many gated feed-forwards.
    Experts(Experts),
}

/// A feed-forward without a gate (arXiv 1706.03762, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plain {
    /// Width between the projections.
    pub n_ff: usize,
    /// The activation.
    pub act: Unary,
}

/// A feed-forward of experts (arXiv 1701.06538): a router chooses a few for each token, whose results are added by its
/// weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Experts {
    /// All experts.
    pub n_expert: usize,
    /// Those that each token has.
    pub n_used: usize,
    /// Width between the projections of one expert.
    pub n_ff: usize,
    /// The key of the file that says it, without the architecture's prefix.
    pub n_ff_key: &'static str,
    /// The gates' activation.
    pub act: Act,
    /// How the router's numbers become weights.
    pub gating: Gating,
    /// Whether the weights of the chosen are divided by their sum.
    pub normalise: bool,
    /// Factor on the weights.
    pub scale: Option<f32>,
    /// Groups of experts of which each token may choose from a few; `None` where it may from all.
    pub groups: Option<ExpertGroups>,
    /// An expert that every token has.
    pub shared: Option<SharedExpert>,
}

/// Experts in groups of one size, of which each token chooses from the best (arXiv 2412.19437).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// All groups.
    pub n_group: usize,
    /// Those that a token may choose from.
    pub n_used: usize,
}

/// How a router's numbers become weights, before some are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gating {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function of each.
    Sigmoid,
    /// The numbers themselves choose; then softmax over the chosen alone.
    Chosen,
}

/// An expert that every token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedExpert {
    /// Width between its projections.
    pub n_ff: usize,
    /// Whether each token has a gate on it (arXiv 2407.10671).
    pub gated: bool,
}

/// A gated feed-forward (arXiv 2002.05202).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gated {
    /// Width between the projections.
    pub n_ff: usize,
    /// How the gate and up projections are stored.
    pub gate_up: GateUp,
    /// The gate's activation.
    pub act: Act,
}

/// Norm of queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// RMS norm of each head before the rotary embedding, one weight for all heads.
    PerHead,
    /// The same behind the rotary embedding.
    PerTurnedHead,
    /// The norm of all heads together before the rotary embedding.
    PerRow,
    /// The norm of each head before the rotary embedding, each head with factors of its own.
    EachHead,
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
    /// `attn_norm.bias`, `ffn_norm.bias`, `output_norm.bias`: all norms but those of queries and keys.
    Norm,
    /// `ffn_gate_inp.bias`.
    Router,
    /// `exp_probs_b.bias`: added to the router's numbers to choose by, and no part of the weights.
    Selection,
    /// `ffn_gate_exps.bias`, `ffn_up_exps.bias`, `ffn_down_exps.bias`: a row for each expert.
    Experts,
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

/// For architectures that are a difference from another.
impl Spec {
    /// The same with every attention changed; `change` also gets the number of the layer.
    #[must_use]
    pub(crate) fn map_attention(self, change: impl Fn(usize, Attention) -> Attention) -> Self {
        self.map_layers(|i, layer| match layer.mixer {
            Mixer::Attention(attention) => {
                Layer { mixer: Mixer::Attention(change(i, attention)), ..layer }
            }
            Mixer::Latent(_) | Mixer::ShortConv(_) => layer,
        })
    }

    /// The same with every gated feed-forward changed.
    #[must_use]
    pub(crate) fn map_gated(self, change: impl Fn(Gated) -> Gated) -> Self {
        self.map_layers(|_, layer| match layer.feed_forward {
            FeedForward::Gated(gated) => {
                Layer { feed_forward: FeedForward::Gated(change(gated)), ..layer }
            }
            FeedForward::Plain(_) | FeedForward::Experts(_) => layer,
        })
    }

    /// The same with a feed-forward without a gate, of the same width, in place of every gated one.
    #[must_use]
    pub(crate) fn without_gates(self, act: Unary) -> Self {
        self.map_layers(|_, layer| match layer.feed_forward {
            FeedForward::Gated(Gated { n_ff, .. }) => {
                Layer { feed_forward: FeedForward::Plain(Plain { n_ff, act }), ..layer }
            }
            FeedForward::Plain(_) | FeedForward::Experts(_) => layer,
        })
    }

    /// The same without rotary embeddings.
    #[must_use]
    pub(crate) fn without_rope(self) -> Self {
        self.map_attention(|_, attention| Attention { rope: None, ..attention })
    }

    /// The same with both branches of every layer reading the stream.
    #[must_use]
    pub(crate) fn in_parallel(self, norms: ParallelNorms, first: FirstSum) -> Self {
        let norms = Norms::Parallel(Parallel { norms, first });
        self.map_layers(|_, layer| Layer { norms, ..layer })
    }

    /// The same with every layer changed; `change` also gets the number of the layer.
    #[must_use]
    pub(crate) fn map_layers(mut self, change: impl Fn(usize, Layer) -> Layer) -> Self {
        for (i, layer) in self.layers.iter_mut().enumerate() {
            *layer = change(i, *layer);
        }
        self
    }
}
