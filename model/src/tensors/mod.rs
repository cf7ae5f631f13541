//! What the decoder asks for where it uses a tensor: its name, its shape, its role. A file answers with what it holds
//! (`file.rs`); a list of all that is asked (`list.rs`) serves synthetic models and tests. No other place names tensors.

mod file;
mod list;

pub(crate) use file::{FileTensors, missing, rope_factors};
pub(crate) use list::TensorList;

use crate::{Bias, Norms, Result, Spec};
use gguf::DType;
use graph::FileId;

/// Tensor of the factors of `RopeFactors::Always`.
pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
/// Tensor of the factors of `RopeFactors::ByLength` for long contexts.
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";
/// Tensor of the factors of `RopeFactors::ByLength` for short contexts.
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// A tensor that a model needs or may have.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSpec {
    /// The name in the file, `blk.3.attn_q.weight`.
    pub name: String,
    /// Its dimensions as GGUF orders them: the elements of a row, the rows of a matrix, the matrices. A vector has one
    /// dimension, a matrix two.
    pub shape: Vec<Dim>,
    /// How it is used.
    pub role: Role,
    /// Whether a file must have it.
    pub presence: Presence,
}

/// A dimension and the hyper-parameters that say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dim {
    /// Elements.
    pub n: usize,
    /// `llama.embedding_length = 96`.
    pub from: String,
}

/// How a tensor is used. Synthetic models draw their weights by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A table of embeddings, one row for each token. It may be the output projection, too.
    Table,
    /// A table of one row for each position.
    Positions,
    /// A matrix whose outputs stay inside the mixer or the feed-forward: they are multiplied with one another or cached.
    Inner,
    /// The last matrix of a branch: its outputs are added to the residual stream.
    Branch {
        /// Which branch of the layer.
        branch: Branch,
        /// The layer's norms: one may stand between this matrix and the sum.
        norms: Norms,
    },
    /// A matrix whose outputs are the logits.
    Output,
    /// The weights of a norm.
    Norm(NormPlace),
    /// The weights of a convolution of each column by itself.
    Conv,
    /// Numbers that are added to the outputs of a matrix.
    Bias,
    /// A logit for each head that takes part in its softmax.
    Sinks,
    /// Divisors of a rotary embedding's frequencies.
    RopeFactors,
}

/// A branch of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Branch {
    /// What mixes the tokens of a sequence, such as attention.
    Mixer,
    /// What works on each token alone.
    FeedForward,
}

/// Where a norm stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormPlace {
    /// Before a branch.
    BeforeBranch,
    /// After a branch, before its outputs are added to the residual stream.
    AfterBranch,
    /// On each head of queries or keys.
    Heads,
    /// On the embeddings.
    Embedding,
    /// Before the output projection.
    BeforeOutput,
}

/// Whether a file must have a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It must.
    Required,
    /// It may: without it the embedding is the output projection.
    UnlessTied,
    /// It may: an absent bias is 0.
    IfBiased(Bias),
    /// It may: without it queries, keys and values have a tensor each.
    IfQkvFused,
}

/// Where a graph's tensors come from.
pub(crate) trait Source {
    /// The tensor, or `None` where the source does not have it.
    fn find(&mut self, wanted: &TensorSpec) -> Result<Option<Found>>;

    /// An error where the source has a tensor for each expert instead of `wanted`, of which `first` is the first.
    fn refuse_apart(&self, wanted: &TensorSpec, first: &str) -> Result<()>;
}

/// A tensor that a source has, of the shape that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    /// Which of the model's files holds it.
    pub(crate) file: FileId,
    /// Its format there.
    pub(crate) dtype: DType,
}

impl Role {
    /// Whether the elements are added or multiplied one by one, unlike those of a matrix.
    pub(crate) fn is_elementwise(self) -> bool {
        match self {
            Self::Norm(_) | Self::Conv | Self::Bias | Self::Sinks | Self::RopeFactors => true,
            Self::Table | Self::Positions | Self::Inner | Self::Branch { .. } | Self::Output => {
                false
            }
        }
    }
}

impl TensorSpec {
    /// A tensor that must be there.
    pub(crate) fn new(
        name: impl Into<String>,
        shape: impl IntoIterator<Item = Dim>,
        role: Role,
    ) -> Self {
        let shape = shape.into_iter().collect();
        Self { name: name.into(), shape, role, presence: Presence::Required }
    }

    /// The same tensor where the file may have it.
    #[must_use]
    pub(crate) fn optional(self, presence: Presence) -> Self {
        Self { presence, ..self }
    }

    /// The sizes alone.
    pub fn sizes(&self) -> Vec<usize> {
        self.shape.iter().map(|dim| dim.n).collect()
    }
}

impl Dim {
    /// Dimensions side by side in one tensor.
    pub(crate) fn sum(parts: &[&Self]) -> Self {
        let from: Vec<_> = parts.iter().map(|dim| dim.from.as_str()).collect();
        Self { n: parts.iter().map(|dim| dim.n).sum(), from: from.join(" + ") }
    }

    /// Two of a dimension in one tensor.
    pub(crate) fn twice(&self) -> Self {
        Self { n: 2 * self.n, from: format!("2 × {}", self.from) }
    }
}

/// Heads of one width: the number of columns of queries, keys or values, and the keys that say both factors.
pub(crate) struct HeadDims<'a> {
    pub(crate) n_head: usize,
    /// `attention.head_count`
    pub(crate) n_key: &'a str,
    pub(crate) head_dim: usize,
    /// `key_length`
    pub(crate) dim_key: &'a str,
}

/// Dimensions that the decoder asks for.
impl Spec {
    pub(crate) fn dim(&self, n: usize, key: &str) -> Dim {
        Dim { n, from: format!("{}.{key} = {n}", self.arch) }
    }

    pub(crate) fn embd_dim(&self) -> Dim {
        self.dim(self.n_embd, "embedding_length")
    }

    pub(crate) fn vocab_dim(&self) -> Dim {
        let n = self.n_vocab;
        Dim { n, from: format!("tokenizer.ggml.tokens = {n} entries") }
    }

    pub(crate) fn heads_dim(&self, heads: &HeadDims<'_>) -> Dim {
        let HeadDims { n_head, n_key, head_dim, dim_key } = heads;
        let from = format!("{}.{n_key} = {n_head} × {dim_key} {head_dim}", self.arch);
        Dim { n: n_head * head_dim, from }
    }

    pub(crate) fn rope_factors_dim(&self, n: usize) -> Dim {
        Dim { n, from: format!("half of {}.rope.dimension_count", self.arch) }
    }
}
