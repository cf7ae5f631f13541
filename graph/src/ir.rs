//! The graph as plain data: weights, values, nodes. It prints, diffs and snapshots without a device.

use crate::{Error, ErrorKind, Result};
use gguf::DType;
use std::fmt::{self, Write as _};

/// Index into [`Graph::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);
/// Index into [`Graph::values`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueId(pub usize);
/// Index into [`Graph::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeId(pub usize);

/// A tensor of the file: `n_out` rows of `n_in` elements, as ggml stores it (`ne0 = n_in`). Vectors have `n_out = 1`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weight {
    /// GGUF's name, `blk.3.attn_q.weight`.
    pub name: String,
    /// Format in the file.
    pub dtype: DType,
    /// Elements in a row.
    pub n_in: usize,
    /// Rows.
    pub n_out: usize,
}

/// How many rows a value has in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One row for each token of the step.
    Tokens,
    /// One row for each entry of [`crate::Step::outputs`].
    Outputs,
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
}

/// Activation of a gated unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// `x · σ(x)`
    Silu,
    /// The tanh form of GELU (arXiv 1606.08415).
    GeluTanh,
}

/// Which elements RoPE turns together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RopePairs {
    /// `(x[2i], x[2i+1])`: ggml's NORM.
    Adjacent,
    /// `(x[i], x[i + n/2])`: ggml's NEOX.
    Halves,
}

/// One set of rotation frequencies; layers share them.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Radians per position for each pair, after all scaling (base, `rope_freqs`, linear, YaRN).
    pub freqs: Vec<f64>,
    /// Factor on sine and cosine (YaRN's and longrope's attention factor), 1 otherwise.
    pub mscale: f64,
}

/// The cache of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayer {
    /// Heads of K and V.
    pub n_head_kv: usize,
    /// Elements of a K head.
    pub head_dim_k: usize,
    /// Elements of a V head.
    pub head_dim_v: usize,
}

/// Attention over the cache: causal, grouped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Index into [`Graph::kv_layers`].
    pub kv_layer: usize,
    /// Query heads, a multiple of the layer's `n_head_kv`.
    pub n_head: usize,
    /// Factor on `q · k`.
    pub scale: f32,
    /// A token sees positions `pos - window + 1 ..= pos`; `None` sees all up to its own.
    pub window: Option<u32>,
    /// `cap · tanh(s / cap)` on the scaled scores.
    pub softcap: Option<f32>,
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
    /// `y = x Wᵀ`.
    MatMul {
        /// `[n_out, n_in]`
        w: WeightId,
    },
    /// `a + b`, same shape.
    Add,
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
    /// Rotary position embedding of the first `2 · freqs.len()` elements of each head (arXiv 2104.09864).
    Rope {
        /// Index into [`Graph::rope_tables`].
        table: usize,
        /// Elements of one head.
        head_dim: usize,
        /// Pairing.
        pairs: RopePairs,
    },
    /// `act(gate) · up`; inputs gate, up.
    Glu {
        /// The activation.
        act: Act,
    },
    /// Stores k and v of the step's tokens; inputs k, v; no output.
    StoreKv {
        /// Index into [`Graph::kv_layers`].
        kv_layer: usize,
    },
    /// Attention; input q.
    Attention(Attention),
    /// Columns `start .. start + cols(output)` of the input.
    Columns {
        /// First column.
        start: usize,
    },
    /// The rows of [`crate::Step::outputs`].
    OutputRows,
    /// `cap · tanh(x / cap)`.
    Softcap {
        /// The cap.
        cap: f32,
    },
}

impl Op {
    /// ggml's name of the op, as it stands in traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::GetRows { .. } => "GET_ROWS",
            Self::MatMul { .. } => "MUL_MAT",
            Self::Add | Self::AddBias { .. } => "ADD",
            Self::Scale { .. } => "SCALE",
            Self::RmsNorm { .. } => "RMS_NORM",
            Self::Rope { .. } => "ROPE",
            Self::Glu { .. } => "GLU",
            Self::StoreKv { .. } => "SET_ROWS",
            Self::Attention(_) => "FLASH_ATTN_EXT",
            Self::Columns { .. } => "VIEW",
            Self::OutputRows => "OUTPUT_ROWS",
            Self::Softcap { .. } => "SOFTCAP",
        }
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

/// A whole model as ops over named values, in execution order. The last node's value is the logits.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Graph {
    /// Tensors of the file that the graph reads.
    pub weights: Vec<Weight>,
    /// Values, in the order in which they are made.
    pub values: Vec<Value>,
    /// Ops, in execution order.
    pub nodes: Vec<Node>,
    /// Rotation frequencies.
    pub rope_tables: Vec<RopeTable>,
    /// One cache for each layer.
    pub kv_layers: Vec<KvLayer>,
    /// Token ids are below this.
    pub n_vocab: usize,
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
                let rows = match v.rows {
                    Rows::Tokens => "tokens",
                    Rows::Outputs => "outputs",
                };
                write!(line, " [{rows}, {}]", v.cols)?;
                maker[out.0] = self.key(node);
            }
            for (i, input) in node.inputs.iter().enumerate() {
                write!(line, "{}{}", if i == 0 { " <- " } else { ", " }, maker[input.0])?;
            }
            match &node.op {
                Op::GetRows { table: w } | Op::MatMul { w } | Op::AddBias { b: w } => {
                    let w = self.weight(*w);
                    write!(line, "  {} {} [{}, {}]", w.name, w.dtype.name(), w.n_out, w.n_in)?;
                }
                Op::RmsNorm { w, eps } => write!(line, "  {} eps {eps:e}", self.weight(*w).name)?,
                Op::Rope { table, head_dim, pairs } => {
                    write!(line, "  rope#{table} head {head_dim} {pairs:?}")?
                }
                Op::Scale { by } => write!(line, "  by {by}")?,
                Op::Glu { act } => write!(line, "  {act:?}")?,
                Op::StoreKv { kv_layer } => {
                    write!(line, "  kv#{kv_layer} {:?}", self.kv_layers[*kv_layer])?
                }
                Op::Attention(a) => write!(line, "  {a:?}")?,
                Op::Columns { start } => write!(line, "  from {start}")?,
                Op::Softcap { cap } => write!(line, "  cap {cap}")?,
                Op::Input | Op::Add | Op::OutputRows => {}
            }
            writeln!(f, "{line}")?;
        }
        Ok(())
    }
}

/// Builds a graph, checking every shape as it goes; the errors name the value or the tensor.
#[derive(Default)]
pub struct Builder {
    graph: Graph,
}

fn shape(message: String) -> Error {
    Error::new(ErrorKind::Shape, message)
}

impl Builder {
    /// An empty graph over a vocabulary of `n_vocab` ids.
    pub fn new(n_vocab: usize) -> Self {
        Self { graph: Graph { n_vocab, ..Graph::default() } }
    }

    /// Declares a tensor of the file.
    pub fn weight(
        &mut self,
        name: impl Into<String>,
        dtype: DType,
        n_in: usize,
        n_out: usize,
    ) -> WeightId {
        self.graph.weights.push(Weight { name: name.into(), dtype, n_in, n_out });
        WeightId(self.graph.weights.len() - 1)
    }

    /// Declares a set of rotation frequencies.
    pub fn rope_table(&mut self, table: RopeTable) -> usize {
        self.graph.rope_tables.push(table);
        self.graph.rope_tables.len() - 1
    }

    /// Declares the cache of one layer.
    pub fn kv_layer(&mut self, layer: KvLayer) -> usize {
        self.graph.kv_layers.push(layer);
        self.graph.kv_layers.len() - 1
    }

    /// Columns of a value made so far.
    pub fn cols(&self, v: ValueId) -> usize {
        self.graph.value(v).cols
    }

    fn push(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        name: impl Into<String>,
        cols: usize,
        rows: Rows,
    ) -> ValueId {
        let output = ValueId(self.graph.values.len());
        self.graph.values.push(Value { name: name.into(), cols, rows });
        self.graph.nodes.push(Node { op, inputs: inputs.to_vec(), output: Some(output) });
        output
    }

    fn same(&mut self, op: Op, x: ValueId, name: impl Into<String>) -> ValueId {
        let Value { cols, rows, .. } = *self.graph.value(x);
        self.push(op, &[x], name, cols, rows)
    }

    /// Rows of `table` for the step's tokens: `[tokens, n_embd]`.
    pub fn get_rows(&mut self, table: WeightId, name: impl Into<String>) -> Result<ValueId> {
        let w = self.graph.weight(table);
        if w.n_out != self.graph.n_vocab {
            return Err(shape(format!(
                "{}: {} rows, the vocabulary has {}",
                w.name, w.n_out, self.graph.n_vocab
            )));
        }
        let cols = w.n_in;
        Ok(self.push(Op::GetRows { table }, &[], name, cols, Rows::Tokens))
    }

    /// `x Wᵀ`: `[rows, n_out]`.
    pub fn mat_mul(&mut self, w: WeightId, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(w), self.graph.value(x));
        if weight.n_in != value.cols {
            return Err(shape(format!(
                "{}: takes {} columns, {} has {}",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        let (cols, rows) = (weight.n_out, value.rows);
        Ok(self.push(Op::MatMul { w }, &[x], name, cols, rows))
    }

    /// `a + b`.
    pub fn add(&mut self, a: ValueId, b: ValueId, name: impl Into<String>) -> Result<ValueId> {
        self.check_same(a, b)?;
        let Value { cols, rows, .. } = *self.graph.value(a);
        Ok(self.push(Op::Add, &[a, b], name, cols, rows))
    }

    fn check_same(&self, a: ValueId, b: ValueId) -> Result<()> {
        let (va, vb) = (self.graph.value(a), self.graph.value(b));
        if va.cols != vb.cols || va.rows != vb.rows {
            return Err(shape(format!(
                "{} [{:?}, {}] and {} [{:?}, {}] differ in shape",
                va.name, va.rows, va.cols, vb.name, vb.rows, vb.cols
            )));
        }
        Ok(())
    }

    /// `x + b` on every row.
    pub fn add_bias(
        &mut self,
        b: WeightId,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(b), self.graph.value(x));
        if weight.n_in != value.cols || weight.n_out != 1 {
            return Err(shape(format!(
                "{}: {} elements, {} has {} columns",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        Ok(self.same(Op::AddBias { b }, x, name))
    }

    /// `x · by`.
    pub fn scale(&mut self, by: f32, x: ValueId, name: impl Into<String>) -> ValueId {
        self.same(Op::Scale { by }, x, name)
    }

    /// RMS norm over groups of `w.n_in` columns.
    pub fn rms_norm(
        &mut self,
        w: WeightId,
        eps: f32,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let (weight, value) = (self.graph.weight(w), self.graph.value(x));
        if weight.n_out != 1 || weight.n_in == 0 || !value.cols.is_multiple_of(weight.n_in) {
            return Err(shape(format!(
                "{}: {} elements, {} has {} columns",
                weight.name, weight.n_in, value.name, value.cols
            )));
        }
        Ok(self.same(Op::RmsNorm { w, eps }, x, name))
    }

    /// RoPE over heads of `head_dim` columns.
    pub fn rope(
        &mut self,
        table: usize,
        head_dim: usize,
        pairs: RopePairs,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let n_rot = 2 * self.graph.rope_tables[table].freqs.len();
        let value = self.graph.value(x);
        if head_dim == 0
            || n_rot > head_dim
            || !value.cols.is_multiple_of(head_dim)
            || value.rows != Rows::Tokens
        {
            return Err(shape(format!(
                "rope on {}: {n_rot} rotated of head {head_dim} in {} columns",
                value.name, value.cols
            )));
        }
        Ok(self.same(Op::Rope { table, head_dim, pairs }, x, name))
    }

    /// `act(gate) · up`.
    pub fn glu(
        &mut self,
        act: Act,
        gate: ValueId,
        up: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        self.check_same(gate, up)?;
        let Value { cols, rows, .. } = *self.graph.value(gate);
        Ok(self.push(Op::Glu { act }, &[gate, up], name, cols, rows))
    }

    /// Stores `k` and `v` of the step's tokens in the cache of `kv_layer`.
    pub fn store_kv(&mut self, kv_layer: usize, k: ValueId, v: ValueId) -> Result<()> {
        let kv = self.graph.kv_layers[kv_layer];
        for (x, width) in [(k, kv.head_dim_k), (v, kv.head_dim_v)] {
            let value = self.graph.value(x);
            if value.cols != kv.n_head_kv * width || value.rows != Rows::Tokens {
                return Err(shape(format!(
                    "{}: {} columns, cache {kv_layer} takes {kv:?}",
                    value.name, value.cols
                )));
            }
        }
        self.graph.nodes.push(Node {
            op: Op::StoreKv { kv_layer },
            inputs: vec![k, v],
            output: None,
        });
        Ok(())
    }

    /// Attention of `q` over the cache: `[tokens, n_head · head_dim_v]`.
    pub fn attention(
        &mut self,
        attention: Attention,
        q: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let kv = self.graph.kv_layers[attention.kv_layer];
        let value = self.graph.value(q);
        let heads_fit = kv.n_head_kv > 0 && attention.n_head.is_multiple_of(kv.n_head_kv);
        if !heads_fit
            || value.cols != attention.n_head * kv.head_dim_k
            || value.rows != Rows::Tokens
        {
            return Err(shape(format!(
                "{}: {} columns for {attention:?} over {kv:?}",
                value.name, value.cols
            )));
        }
        Ok(self.push(
            Op::Attention(attention),
            &[q],
            name,
            attention.n_head * kv.head_dim_v,
            Rows::Tokens,
        ))
    }

    /// Columns `start .. start + cols`.
    pub fn columns(
        &mut self,
        start: usize,
        cols: usize,
        x: ValueId,
        name: impl Into<String>,
    ) -> Result<ValueId> {
        let value = self.graph.value(x);
        if start.checked_add(cols).is_none_or(|end| end > value.cols) {
            return Err(shape(format!("{}: columns {start}+{cols} of {}", value.name, value.cols)));
        }
        let rows = value.rows;
        Ok(self.push(Op::Columns { start }, &[x], name, cols, rows))
    }

    /// The rows whose logits are wanted.
    pub fn output_rows(&mut self, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let value = self.graph.value(x);
        if value.rows != Rows::Tokens {
            return Err(shape(format!("{}: already reduced to output rows", value.name)));
        }
        let cols = value.cols;
        Ok(self.push(Op::OutputRows, &[x], name, cols, Rows::Outputs))
    }

    /// `cap · tanh(x / cap)`.
    pub fn softcap(&mut self, cap: f32, x: ValueId, name: impl Into<String>) -> ValueId {
        self.same(Op::Softcap { cap }, x, name)
    }

    /// The finished graph. Its last value must be `[outputs, n_vocab]`.
    pub fn finish(self) -> Result<Graph> {
        match self.graph.nodes.last().and_then(|n| n.output).map(|v| self.graph.value(v)) {
            Some(v) if v.rows == Rows::Outputs && v.cols == self.graph.n_vocab => {}
            Some(v) => {
                return Err(shape(format!(
                    "{}: [{:?}, {}] is no row of logits",
                    v.name, v.rows, v.cols
                )));
            }
            None => return Err(shape("graph: no node makes logits".into())),
        }
        let mut seen = std::collections::HashSet::new();
        for node in self.graph.nodes.iter().filter(|n| n.output.is_some()) {
            let key = self.graph.key(node);
            if !seen.insert(key.clone()) {
                return Err(shape(format!("graph: two values are called {key}")));
            }
        }
        Ok(self.graph)
    }
}
