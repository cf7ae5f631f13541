//! The ops: what a node computes, and one description of each ([`Op::describe`]) that loading, planning, splitting,
//! counting and reports ask. What an op means stands in `ops/`, its shape rule in `builder.rs`.

use crate::{CacheId, ValueId, WeightId};
use std::fmt;

/// Activation of a gated unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x · σ(x)`
    Silu,
    /// The tanh form of GELU (arXiv 1606.08415).
    GeluTanh,
    /// gpt-oss's unit, which clamps and adds: `min(gate, 7) · σ(1.702 · min(gate, 7)) · (clamp(up, -7, 7) + 1)`.
    SwigluOai,
}

/// What an op of one value computes from each element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary {
    /// The tanh form of GELU (arXiv 1606.08415).
    GeluTanh,
    /// `max(x, 0)²` (arXiv 2109.08668).
    ReluSquared,
    /// The nearest number from `-limit` to `limit`.
    Clamp {
        /// The largest magnitude.
        limit: f32,
    },
}

/// Which two elements RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// `(x[2i], x[2i+1])`: ggml's NORM.
    Adjacent,
    /// `(x[i], x[i + n/2])`: ggml's NEOX.
    Halves,
}

/// Which positions of its sequence a token attends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// All up to its own.
    Causal,
    /// The last ones up to its own, as many as are given: `pos - window + 1 ..= pos`.
    Window(u32),
    /// All that the sequence has in this step, also those behind its own: an encoder, which reads a text in one step.
    None,
}

impl Mask {
    /// The first position that a token at `position` sees.
    pub fn first_visible(self, position: u32) -> u32 {
        match self {
            Self::Causal | Self::None => 0,
            Self::Window(window) => (position + 1).saturating_sub(window),
        }
    }

    /// The last position that a token at `position` sees, in a step whose last token of the sequence is at `end`.
    pub fn last_visible(self, position: u32, end: u32) -> u32 {
        match self {
            Self::Causal | Self::Window(_) => position,
            Self::None => end,
        }
    }

    /// The window, where there is one.
    pub fn window(self) -> Option<u32> {
        match self {
            Self::Causal | Self::None => None,
            Self::Window(window) => Some(window),
        }
    }
}

/// Grouped attention over the cache.
///
/// Prints as it always has, since snapshots hold it: `kv_layer` is the cache, `window` the mask's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Where keys and values are.
    pub cache: CacheId,
    /// Query heads, a multiple of the cache's `n_head_kv`.
    pub n_head: usize,
    /// Factor on `q · k`.
    pub scale: f32,
    /// What a token sees.
    pub mask: Mask,
    /// One logit for each query head that takes part in its softmax and brings no value: attention sinks
    /// (arXiv 2309.17453), `[n_head]`.
    pub sinks: Option<WeightId>,
    /// `cap · tanh(s / cap)` on the scaled scores.
    pub softcap: Option<f32>,
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cache, n_head, scale, mask, sinks, softcap } = self;
        let mut fields = f.debug_struct("Attention");
        fields.field("kv_layer", &cache.0).field("n_head", n_head).field("scale", scale);
        fields.field("window", &mask.window()).field("softcap", softcap);
        // Named only where they are: the text of the others stays as it was.
        if *mask == Mask::None {
            fields.field("mask", mask);
        }
        if let Some(sinks) = sinks {
            fields.field("sinks", &sinks.0);
        }
        fields.finish()
    }
}

/// A norm that subtracts the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNorm {
    /// Columns of a group: a whole row, or one head.
    pub group: usize,
    /// One factor for each column of a group, or of a row of several groups; `None` for 1.
    pub w: Option<WeightId>,
    /// What is added, as many; only where there are factors.
    pub b: Option<WeightId>,
    /// Added to the variance.
    pub eps: f32,
}

/// What becomes of a router's numbers, row by row: the way from its logits to the weights of the chosen experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Route {
    /// `e^x / Σ e^x` over a row.
    Softmax,
    /// `1 / (1 + e⁻ˣ)` of each element.
    Sigmoid,
    /// Elements of the best groups as they are, -∞ for those of the others. A group is worth the sum of its two largest
    /// elements; of equal groups the first is better.
    TopGroups {
        /// Groups of a row, all of one size.
        groups: usize,
        /// Those that are kept.
        used: usize,
    },
    /// The columns of the largest elements, the largest first: indices.
    TopK,
    /// The columns in their order: indices. Every slot has a matrix of its own.
    Each,
    /// The elements in the chosen columns; inputs numbers, indices.
    Pick,
    /// `x / Σ x` over a row.
    Normalise {
        /// A smaller sum is taken for this.
        at_least: f32,
    },
}

/// What a node computes. Sizes that the inputs give are not repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Op {
    /// The rows of [`crate::Step::inputs`]: where another backend's part of a graph ended ([`crate::split`]). No input
    /// value.
    Input,
    /// Row `token` of the table, in f32. No input value.
    GetRows {
        /// `[n_vocab, n_embd]`
        table: WeightId,
    },
    /// Row `position` of the table, in f32: learned positions. No input value.
    PositionRows {
        /// `[n_positions, n_embd]`; a step's positions are below `n_positions`.
        table: WeightId,
    },
    /// `y = x Wᵀ`.
    MatMul {
        /// `[n_out, n_in]`
        w: WeightId,
    },
    /// `a + b`, same shape.
    Add,
    /// `a · b`, same shape.
    Mul,
    /// `x + bias` on every row.
    AddBias {
        /// `[cols]`
        b: WeightId,
    },
    /// `x · by`.
    Scale {
        /// The factor.
        by: f32,
    },
    /// `x / sqrt(mean(x²) + eps) · w` over each group of `w.n_in` columns (arXiv 1910.07467). The group is a
    /// whole row, or one head for QK norms.
    RmsNorm {
        /// `[group]`
        w: WeightId,
        /// Added to the mean.
        eps: f32,
    },
    /// `(x - mean(x)) / sqrt(variance(x) + eps) · w + b` over each group of columns (arXiv 1607.06450).
    LayerNorm(LayerNorm),
    /// Rotary position embedding of the first `2 · freqs.len()` elements of each head (arXiv 2104.09864).
    Rope {
        /// Index into [`crate::Graph::rope_tables`].
        table: usize,
        /// Elements of one head.
        head_dim: usize,
        /// Pairing.
        pairs: RopePairs,
    },
    /// A function of each element.
    Unary(Unary),
    /// `act(gate) · up`; inputs gate, up.
    Glu {
        /// The activation.
        act: Act,
    },
    /// A step of a router.
    Route(Route),
    /// For each slot `y = x Wᵀ` with the matrix that was chosen; inputs x, indices. x has a row of `n_in` for all slots, or
    /// one for each.
    MatMulId {
        /// `[n_in, n_out, experts]`
        w: WeightId,
    },
    /// `x + bias` in each slot, the bias of the chosen expert; inputs x, indices.
    AddId {
        /// `[cols, experts]`
        b: WeightId,
    },
    /// Each slot times its weight; inputs x, weights. One slot is a gate on a whole row.
    Weighted,
    /// The sum of a row's slots.
    SumSlots {
        /// How many there are.
        slots: usize,
    },
    /// Stores k and v of the step's tokens; inputs k, v; no output.
    StoreKv {
        /// Where to.
        cache: CacheId,
    },
    /// Attention; input q.
    Attention(Attention),
    /// Each column by itself: the sum of its last `d_conv` rows in the sequence, each times a weight; a causal convolution
    /// of few rows. Rows of earlier steps are the cache's state, in which this step's last rows are left.
    SsmConv {
        /// `[cols, d_conv]`, the newest row's weight last.
        w: WeightId,
        /// The state: the last `d_conv - 1` rows, the newest last.
        cache: CacheId,
    },
    /// Columns `start .. start + cols(output)` of the input.
    Columns {
        /// First column.
        start: usize,
    },
    /// Of each head the columns from `start` on, as many as the output has for a head.
    HeadColumns {
        /// Columns of a head of the input.
        head_dim: usize,
        /// First column.
        start: usize,
    },
    /// Two values side by side, head by head; inputs a, b.
    JoinHeads {
        /// Heads of `a`.
        n_head: usize,
        /// Heads of `b`: as many, or one that goes to all.
        n_head_b: usize,
    },
    /// The rows of [`crate::Step::outputs`].
    OutputRows,
    /// `cap · tanh(x / cap)`.
    Softcap {
        /// The cap.
        cap: f32,
    },
}

/// How an op reads a weight: it decides in which form a backend keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WeightUse {
    /// Single rows are looked up.
    Table,
    /// Activations are multiplied with all rows.
    Matrix,
    /// Activations are multiplied with all rows of the matrices that were chosen for them.
    Experts,
    /// All of it in f32, element by element: a norm's weight, a bias.
    Vector,
}

/// A weight of an op.
#[derive(Debug)]
pub struct OpWeight<'op> {
    /// Which.
    pub id: &'op mut WeightId,
    /// What for.
    pub usage: WeightUse,
}

/// What an op does with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CacheUse {
    /// Reads what this step and earlier ones stored.
    Reads,
    /// Stores what this step computes.
    Writes,
    /// Reads what earlier steps left, and leaves what later ones read: a state.
    Updates,
}

/// The cache of an op.
#[derive(Debug)]
pub struct OpCache<'op> {
    /// Which.
    pub id: &'op mut CacheId,
    /// What for.
    pub usage: CacheUse,
}

/// Everything about an op that is no arithmetic. Ids are lent, so that a part of a graph can number them anew.
#[derive(Debug)]
pub struct Description<'op> {
    /// ggml's name of the op.
    pub kind: &'static str,
    /// The names under which other engines' traces hold its value, the likeliest first.
    pub traced_as: &'static [&'static str],
    /// The weights that it reads.
    pub weights: Vec<OpWeight<'op>>,
    /// The cache that it reads or writes.
    pub cache: Option<OpCache<'op>>,
    /// Which of its inputs are indices ([`crate::ValueKind::Index`]); all others are numbers.
    pub index_inputs: &'static [usize],
}

impl<'op> Description<'op> {
    fn new(kind: &'static str, traced_as: &'static [&'static str]) -> Self {
        Self { kind, traced_as, weights: Vec::new(), cache: None, index_inputs: &[] }
    }

    fn indices(self, index_inputs: &'static [usize]) -> Self {
        Self { index_inputs, ..self }
    }

    fn weight(mut self, id: &'op mut WeightId, usage: WeightUse) -> Self {
        self.weights.push(OpWeight { id, usage });
        self
    }

    fn cache(mut self, id: &'op mut CacheId, usage: CacheUse) -> Self {
        self.cache = Some(OpCache { id, usage });
        self
    }
}

impl Op {
    /// What the op is called and what it touches besides its input values.
    ///
    /// A norm of ours has its weight inside, which is a MUL in ggml; what comes out of ggml's attention is taken at the
    /// reshape behind it.
    pub fn describe(&mut self) -> Description<'_> {
        use {CacheUse::*, WeightUse::*};
        let new = Description::new;
        match self {
            Self::Input => new("INPUT", &["INPUT"]),
            Self::GetRows { table } => new("GET_ROWS", &["GET_ROWS"]).weight(table, Table),
            Self::PositionRows { table } => new("GET_ROWS", &["GET_ROWS"]).weight(table, Table),
            Self::MatMul { w } => new("MUL_MAT", &["MUL_MAT"]).weight(w, Matrix),
            Self::Add => new("ADD", &["ADD"]),
            Self::Mul => new("MUL", &["MUL"]),
            Self::AddBias { b } => new("ADD", &["ADD"]).weight(b, Vector),
            Self::Scale { .. } => new("SCALE", &["SCALE"]),
            Self::RmsNorm { w, .. } => new("RMS_NORM", &["MUL", "RMS_NORM"]).weight(w, Vector),
            // What is added and multiplied inside it is an op of its own in ggml.
            Self::LayerNorm(LayerNorm { w, b, .. }) => {
                let both = w.iter_mut().chain(b);
                both.fold(new("NORM", &["ADD", "MUL", "NORM"]), |all, w| all.weight(w, Vector))
            }
            // A product where a temperature is behind it.
            Self::Rope { .. } => new("ROPE", &["ROPE", "MUL"]),
            // The square of a ReLU is an op of its own in ggml.
            Self::Unary(Unary::GeluTanh | Unary::ReluSquared) => new("UNARY", &["UNARY", "SQR"]),
            Self::Unary(Unary::Clamp { .. }) => new("CLAMP", &["CLAMP"]),
            Self::Glu { .. } => new("GLU", &["GLU", "MUL"]),
            Self::Route(Route::Softmax) => new("SOFT_MAX", &["SOFT_MAX"]),
            // A quotient where llama.cpp makes it of SiLU.
            Self::Route(Route::Sigmoid) => new("UNARY", &["UNARY", "DIV"]),
            // ggml cuts the row into groups and puts it together again.
            Self::Route(Route::TopGroups { .. }) => new("SET_ROWS", &["RESHAPE", "SET_ROWS"]),
            // ggml sorts all and takes a view of the first.
            Self::Route(Route::TopK) => new("TOP_K", &["VIEW", "TOP_K"]),
            Self::Route(Route::Each) => new("ARANGE", &["ARANGE"]),
            Self::Route(Route::Pick) => new("GET_ROWS", &["GET_ROWS"]).indices(&[1]),
            Self::Route(Route::Normalise { .. }) => new("DIV", &["DIV"]),
            Self::MatMulId { w } => {
                // With a matrix for each head it is a product of several matrices there, of which a view is taken.
                new("MUL_MAT_ID", &["MUL_MAT_ID", "PERMUTE", "CONT"])
                    .weight(w, Experts)
                    .indices(&[1])
            }
            Self::AddId { b } => new("ADD_ID", &["ADD_ID"]).weight(b, Vector).indices(&[1]),
            Self::Weighted => new("MUL", &["MUL"]),
            // A copy where there is one slot.
            Self::SumSlots { .. } => new("ADD", &["ADD", "CONT"]),
            Self::StoreKv { cache } => new("SET_ROWS", &["SET_ROWS"]).cache(cache, Writes),
            Self::Attention(a) => {
                // A product where another one stands before the heads are put together.
                let traced_as = &["FLASH_ATTN_EXT", "CONT", "RESHAPE", "MUL_MAT"];
                let all = new("FLASH_ATTN_EXT", traced_as).cache(&mut a.cache, Reads);
                a.sinks.iter_mut().fold(all, |all, sinks| all.weight(sinks, Vector))
            }
            Self::SsmConv { w, cache } => {
                new("SSM_CONV", &["SSM_CONV"]).weight(w, Vector).cache(cache, Updates)
            }
            Self::Columns { .. } | Self::HeadColumns { .. } => new("VIEW", &["VIEW"]),
            Self::JoinHeads { .. } => new("CONCAT", &["CONCAT"]),
            Self::OutputRows => new("OUTPUT_ROWS", &["OUTPUT_ROWS", "GET_ROWS"]),
            // ggml computes it in three steps, the last of which is a product with the cap.
            Self::Softcap { .. } => new("SOFTCAP", &["SOFTCAP", "SCALE"]),
        }
    }

    /// ggml's name of the op, as it stands in traces.
    pub fn kind(&self) -> &'static str {
        { *self }.describe().kind
    }

    /// The names under which other engines' traces hold its value, the likeliest first.
    pub fn traced_as(&self) -> &'static [&'static str] {
        { *self }.describe().traced_as
    }

    /// Which of its inputs are indices; all others are numbers.
    pub fn index_inputs(&self) -> &'static [usize] {
        { *self }.describe().index_inputs
    }

    /// The weights that the op reads, and what for.
    pub fn weights(&self) -> Vec<(WeightId, WeightUse)> {
        { *self }.describe().weights.into_iter().map(|w| (*w.id, w.usage)).collect()
    }

    /// The cache that the op reads or writes.
    pub fn cache(&self) -> Option<(CacheId, CacheUse)> {
        { *self }.describe().cache.map(|cache| (*cache.id, cache.usage))
    }
}

/// One op with its inputs and the value it makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The op.
    pub op: Op,
    /// Values read, in the op's order.
    pub inputs: Vec<ValueId>,
    /// Value made; only `StoreKv` makes none.
    pub output: Option<ValueId>,
}
