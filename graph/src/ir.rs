//! The graph as plain data: weights, values, caches, nodes. It prints, diffs and snapshots without a device.

use crate::{
    Blocks, Cache, CacheGroup, CacheId, Error, ErrorKind, GroupId, KvCache, KvType, LayerNorm,
    Node, Op, Result, StateCache, Step, WeightUse,
};
use gguf::DType;
use std::fmt::{self, Write as _};

/// Index into [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);
/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub usize);

/// Which of the files of a model: index into the files that [`crate::Backend::load`] gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(pub usize);

impl FileId {
    /// The model itself; adapters come after it.
    pub const BASE: Self = Self(0);
}

/// A tensor of a file: `n_mats` matrices of `n_out` rows of `n_in` elements, as ggml stores it (`ne0 = n_in`, `ne1 =
/// n_out`, `ne2 = n_mats`). A vector is one matrix of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// GGUF's name, `blk.3.attn_q.weight`.
    pub name: String,
    /// The file that holds it.
    pub file: FileId,
    /// Format in the file.
    pub dtype: DType,
    /// Elements in a row.
    pub n_in: usize,
    /// Rows of a matrix.
    pub n_out: usize,
    /// Matrices: 1, or one for each expert.
    pub n_mats: usize,
}

impl Weight {
    /// Its dimensions as they are printed: `[n_in, n_out]`, and the matrices where there are several.
    pub fn shape(&self) -> Vec<usize> {
        let all = [self.n_in, self.n_out, self.n_mats];
        all[..if self.n_mats == 1 { 2 } else { 3 }].to_vec()
    }

    /// Rows of all matrices.
    pub fn rows(&self) -> usize {
        self.n_out * self.n_mats
    }

    /// Elements of all rows.
    pub fn elements(&self) -> usize {
        self.n_in * self.rows()
    }

    /// Bytes in the file. Saturates: a size that does not fit in 64 bits does not fit in memory either.
    pub fn file_bytes(&self) -> u64 {
        let blocks = (self.n_in as u64).div_ceil(self.dtype.block_len() as u64);
        let rows = (self.n_out as u64).saturating_mul(self.n_mats as u64);
        blocks.saturating_mul(rows).saturating_mul(self.dtype.block_bytes() as u64)
    }

    /// Bytes as backends keep it to multiply with: those of the file, or more where its codes are taken apart
    /// ([`crate::ints::Form::resident_bytes`]). Saturates, too.
    pub fn resident_bytes(&self) -> u64 {
        let Some(form) = crate::ints::form(self.dtype) else { return self.file_bytes() };
        let blocks = (self.n_in as u64).div_ceil(form.block_len() as u64);
        let rows = (self.n_out as u64).saturating_mul(self.n_mats as u64);
        let bytes = blocks.saturating_mul(rows).saturating_mul(form.resident_bytes() as u64);
        bytes.max(self.file_bytes())
    }
}

/// The forms in which a backend keeps a weight: both, where it is used both ways.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightForms {
    /// Rows in a block format, to multiply with or to look up.
    pub matrix: bool,
    /// All elements in f32.
    pub vector: bool,
}

/// How many rows a value has in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One row for each token of the step.
    Tokens,
    /// One row for each entry of [`crate::Step::outputs`].
    Outputs,
    /// One row for each sequence of the step.
    Sequences,
}

impl Rows {
    /// As it is printed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Outputs => "outputs",
            Self::Sequences => "sequences",
        }
    }
}

/// What the elements of a value are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueKind {
    /// Any numbers.
    F32,
    /// Whole numbers from 0, as f32: the experts that a router chose.
    Index {
        /// All are below this, which is at most 2²⁴: f32 holds every whole number up to there.
        below: u32,
    },
}

/// A named f32 matrix `[rows, cols]` that one node makes.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// llama.cpp's name, `kqv_out-3`. A name may occur at several ops in a row (`Qcur-3` before and after RoPE);
    /// name and op together are unique.
    pub name: String,
    /// Columns.
    pub cols: usize,
    /// Rows.
    pub rows: Rows,
    /// What its elements are.
    pub kind: ValueKind,
}

impl Value {
    /// Whether `data` can be this value's elements. A backend asks after a tap may have changed them: an index out of
    /// range would be read as an expert that does not exist.
    ///
    /// # Errors
    /// [`ErrorKind::Step`] with the first element that is no index.
    pub fn check(&self, data: &[f32]) -> Result<()> {
        let below = match self.kind {
            ValueKind::F32 => return Ok(()),
            ValueKind::Index { below } => below,
        };
        let allowed = |x: &f32| *x >= 0.0 && *x < below as f32 && x.fract() == 0.0;
        let Some(at) = data.iter().position(|x| !allowed(x)) else { return Ok(()) };
        let (row, col) = (at / self.cols.max(1), at % self.cols.max(1));
        let what = format!(
            "{}: [{row}, {col}] is {}, allowed are whole numbers from 0 below {below}",
            self.name, data[at]
        );
        Err(Error::new(ErrorKind::Step, what))
    }
}

/// One set of rotation frequencies; layers share them.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position for each pair, after all scaling (base, `rope_freqs`, linear, YaRN).
    pub freqs: Vec<f64>,
    /// Those of long sequences, where they differ (longrope).
    pub long: Option<LongFreqs>,
    /// Factor on sine and cosine (YaRN's and longrope's attention factor), 1 otherwise.
    pub mscale: f64,
    /// What the factor grows by with the position; only where all elements of a head are rotated.
    pub temperature: Option<Temperature>,
}

/// A temperature of attention that grows with a query's position: queries are multiplied with
/// `1 + scale · ln(1 + ⌊position / length⌋)` (Llama 4, Ministral 3).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Temperature {
    /// How much it grows.
    pub scale: f64,
    /// Positions that have the same; not 0.
    pub length: u32,
}

/// The frequencies of a sequence of more than `above` positions: of all its positions.
#[derive(Clone, Debug, PartialEq)]
pub struct LongFreqs {
    /// As many as [`RopeTable::freqs`].
    pub freqs: Vec<f64>,
    /// The longest sequence that has the other frequencies.
    pub above: usize,
}

impl RopeTable {
    /// The factor on sine and cosine at a position.
    pub fn mscale_at(&self, position: u32) -> f64 {
        let Some(Temperature { scale, length }) = self.temperature else { return self.mscale };
        self.mscale * (1.0 + scale * libm::log(f64::from(position / length) + 1.0))
    }

    /// The frequencies of a token of a step.
    pub fn freqs_of(&self, step: &Step, token: usize) -> &[f64] {
        match &self.long {
            Some(long) if step.is_long(token) => &long.freqs,
            Some(_) | None => &self.freqs,
        }
    }
}

/// What a graph's last value is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// A logit for each id of the vocabulary, `[outputs, n_vocab]`.
    #[default]
    Logits,
    /// A vector for each output or sequence.
    Embedding,
}

/// A whole model as ops over named values, in execution order. The last node's value is the result.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// Tensors of the files that the graph reads.
    pub weights: Vec<Weight>,
    /// Values, in the order in which they are made.
    pub values: Vec<Value>,
    /// Ops, in execution order.
    pub nodes: Vec<Node>,
    /// Rotation frequencies.
    pub rope_tables: Vec<RopeTable>,
    /// What is kept from step to step.
    pub caches: Vec<Cache>,
    /// Caches that share their block tables.
    pub groups: Vec<CacheGroup>,
    /// The residual stream: what goes into the first layer, and what comes out of each. A split between two backends goes
    /// through one of these.
    pub stream: Vec<ValueId>,
    /// Token ids are below this.
    pub n_vocab: usize,
    /// What the last value is.
    pub output: Output,
}

impl Graph {
    /// The weight with this id.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0]
    }

    /// The value with this id.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0]
    }

    /// For each weight in which forms its uses want it.
    pub fn weight_forms(&self) -> Vec<WeightForms> {
        let mut forms = vec![WeightForms::default(); self.weights.len()];
        for (id, usage) in self.nodes.iter().flat_map(|node| node.op.weights()) {
            match usage {
                WeightUse::Table | WeightUse::Matrix | WeightUse::Experts => {
                    forms[id.0].matrix = true
                }
                WeightUse::Vector => forms[id.0].vector = true,
            }
        }
        forms
    }

    /// The keys and values that the cache of an attention or a store holds.
    pub fn kv(&self, id: CacheId) -> KvCache {
        match self.caches[id.0] {
            Cache::Kv(kv) => kv,
            Cache::State(_) => unreachable!("the builder gives attention no state: {id:?}"),
        }
    }

    /// The state that the cache of an op with [`crate::CacheUse::Updates`] holds.
    pub fn state(&self, id: CacheId) -> StateCache {
        match self.caches[id.0] {
            Cache::State(state) => state,
            Cache::Kv(_) => unreachable!("the builder gives a state's op no keys: {id:?}"),
        }
    }

    /// Whether some layer keeps a state: then no sequence can go back to an earlier position.
    pub fn has_states(&self) -> bool {
        self.groups.contains(&CacheGroup::States)
    }

    /// The block tables that this cache uses.
    pub fn group(&self, id: GroupId) -> &CacheGroup {
        &self.groups[id.0]
    }

    /// The longest sequence that has the short frequencies of its rotary embeddings; `None` where all sequences have the
    /// same.
    pub fn longest_short(&self) -> Option<usize> {
        self.rope_tables.iter().filter_map(|table| Some(table.long.as_ref()?.above)).min()
    }

    /// Whether sequences of `n_positions` have the long frequencies of their rotary embeddings.
    pub fn is_long(&self, n_positions: usize) -> bool {
        self.longest_short().is_some_and(|longest| n_positions > longest)
    }

    /// Layers of the model; the output is none.
    pub fn n_layers(&self) -> usize {
        self.stream.len().saturating_sub(1)
    }

    /// Bytes of all caches with this number of blocks. Saturates: such a size fits in no memory.
    pub fn kv_bytes(&self, kv: KvType, blocks: &Blocks) -> u64 {
        let bytes =
            |cache: &Cache| cache.block_bytes(kv).saturating_mul(blocks.of(cache.group()) as u64);
        self.caches.iter().map(bytes).fold(0, u64::saturating_add)
    }

    /// Columns of a row of the result.
    pub fn result_cols(&self) -> usize {
        self.values.last().map_or(0, |value| value.cols)
    }

    /// Positions are below this, where the model has a learned row for each: the fewest rows of such a table.
    pub fn n_positions(&self) -> Option<(usize, &Weight)> {
        let table = |node: &Node| {
            let Op::PositionRows { table } = node.op else { return None };
            Some((self.weight(table).n_out, self.weight(table)))
        };
        self.nodes.iter().filter_map(table).min_by_key(|(n, _)| *n)
    }

    fn write_layer_norm(&self, line: &mut String, norm: &LayerNorm) -> fmt::Result {
        let &LayerNorm { group, w, b, eps } = norm;
        for w in w.into_iter().chain(b) {
            write!(line, "  {}", self.weight(w).name)?;
        }
        write!(line, "  of {group} eps {eps:e}")
    }

    /// `name:OP`, unique in the graph; the key of dumps and comparisons.
    pub fn key(&self, node: &Node) -> String {
        let name = node.output.map_or("kv", |v| self.value(v).name.as_str());
        format!("{name}:{}", node.op.kind())
    }
}

/// One line for each node: `Qcur-0:ROPE [tokens, 576] <- Qcur-0:MUL_MAT  rope#0 head 64 Adjacent`.
impl fmt::Display for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut maker: Vec<String> = vec![String::new(); self.values.len()];
        for node in &self.nodes {
            let mut line = self.key(node);
            if let Some(out) = node.output {
                let v = self.value(out);
                write!(line, " [{}, {}]", v.rows.name(), v.cols)?;
                maker[out.0] = self.key(node);
            }
            for (i, input) in node.inputs.iter().enumerate() {
                write!(line, "{}{}", if i == 0 { " <- " } else { ", " }, maker[input.0])?;
            }
            match &node.op {
                Op::GetRows { table: w }
                | Op::PositionRows { table: w }
                | Op::MatMul { w }
                | Op::AddBias { b: w } => {
                    let w = self.weight(*w);
                    write!(line, "  {} {} [{}, {}]", w.name, w.dtype.name(), w.n_out, w.n_in)?;
                }
                Op::RmsNorm { w, eps } => write!(line, "  {} eps {eps:e}", self.weight(*w).name)?,
                Op::LayerNorm(norm) => self.write_layer_norm(&mut line, norm)?,
                Op::Rope { table, head_dim, pairs } => {
                    write!(line, "  rope#{table} head {head_dim} {pairs:?}")?
                }
                Op::Scale { by } => write!(line, "  by {by}")?,
                Op::Unary(unary) => write!(line, "  {unary:?}")?,
                Op::Glu { act } => write!(line, "  {act:?}")?,
                Op::MatMulId { w } | Op::AddId { b: w } => {
                    let Weight { name, dtype, n_in, n_out, n_mats, .. } = self.weight(*w);
                    write!(line, "  {name} {} [{n_mats}, {n_out}, {n_in}]", dtype.name())?;
                }
                Op::Route(route) => write!(line, "  {route:?}")?,
                Op::SumSlots { slots } => write!(line, "  of {slots}")?,
                Op::StoreKv { cache } => {
                    let KvCache { n_head_kv, head_dim_k, head_dim_v, v_in_k, .. } = self.kv(*cache);
                    let shared = if v_in_k { ", v_in_k" } else { "" };
                    write!(
                        line,
                        "  kv#{} KvLayer {{ n_head_kv: {n_head_kv}, head_dim_k: {head_dim_k}, head_dim_v: {head_dim_v}{shared} }}",
                        cache.0
                    )?;
                }
                Op::Attention(a) => write!(line, "  {a}")?,
                Op::SsmConv { w, cache } => {
                    let (w, len) = (self.weight(*w), self.state(*cache).len);
                    write!(line, "  {} {} rows state#{} {len}", w.name, w.n_in, cache.0)?;
                }
                Op::Columns { start } => write!(line, "  from {start}")?,
                Op::HeadColumns { head_dim, start } => {
                    write!(line, "  from {start} of heads of {head_dim}")?
                }
                Op::JoinHeads { n_head: a, n_head_b: b } => write!(line, "  {a} and {b} heads")?,
                Op::Softcap { cap } => write!(line, "  cap {cap}")?,
                Op::Input | Op::Add | Op::Mul | Op::Weighted | Op::OutputRows => {}
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}
