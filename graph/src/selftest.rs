//! The ops of one model as test cases: each kind once, with the model's own widths, formats and parameters, few rows and
//! random numbers. What a backend computes together in a model stands together here.

use crate::cases::{self, Case, CaseBuilder};
use crate::{
    Act, Attention, CacheId, Graph, HeadPart, JoinedHeads, KvCache, KvHeads, LayerNorm, Mask, Node,
    Op, Result, RopePairs, RopeTable, Route, Unary, ValueId, Weight, WeightId,
};
use gguf::DType;
use std::collections::HashSet;

/// Rows of a product: whole tiles first, so that a backend may put the next product behind it.
const ROWS: [usize; 3] = [64, 32, 40];
/// A longer prompt and a single token: more than one block of the cache, and the kernels for few rows.
const PROMPTS: [usize; 2] = [70, 1];

/// Rows of products of the same activations from which on a backend may have other kernels; and a few more.
pub const MANY_ROWS: usize = 8192;
const TALL: usize = MANY_ROWS + 32;

/// Ids, and logits: the first columns of the last value.
const N_VOCAB: usize = 16;

/// A case for each kind of op of a graph, in the order of the ops.
///
/// # Errors
/// Shapes that do not fit together, which the graph itself would have had.
pub fn cases(graph: &Graph) -> Result<Vec<Case>> {
    kinds(graph).map(|(name, build)| build.case(name)).collect()
}

/// The names of the cases; nothing is built.
pub fn names(graph: &Graph) -> impl Iterator<Item = String> {
    kinds(graph).map(|(name, _)| name)
}

/// Each kind of op once.
fn kinds(graph: &Graph) -> impl Iterator<Item = (String, Build)> {
    let mut seen = HashSet::new();
    let nodes = graph.nodes.iter().enumerate();
    let kinds =
        nodes.flat_map(|(i, node)| of_node(graph, i, node).into_iter().chain(tall(graph, i, node)));
    kinds.filter(move |(name, _)| seen.insert(name.clone()))
}

/// What a case is made of.
enum Build {
    Rows(DType, usize),
    PositionRows(DType, usize),
    /// A product by the formats of all that take the same activations, by itself or behind a gated activation.
    Products(Vec<DType>, usize, Option<Act>),
    /// A product with very many rows of weights.
    Tall(DType),
    /// A norm of groups, by itself or of a sum, and the format of the product behind it.
    Norm {
        cols: usize,
        n: usize,
        eps: f32,
        of_sum: bool,
        product: Option<DType>,
    },
    /// A norm that subtracts the mean, and the elements of its factors and of what it adds.
    LayerNorm {
        cols: usize,
        norm: LayerNorm,
        w: Option<usize>,
        b: Option<usize>,
    },
    Rope(Rotation),
    /// Attention, the rotary embedding of its queries and keys, and the format of the product behind it.
    Attention {
        a: Attention,
        layer: KvCache,
        rope: Option<(RopeTable, RopePairs)>,
        product: Option<DType>,
    },
    Conv(Convolution),
    Experts(Experts),
    Join(JoinedHeads, [usize; 2]),
    Map(Map, usize),
}

/// A convolution of `d_conv` rows.
struct Convolution {
    dtype: DType,
    d_conv: usize,
    cols: usize,
}

/// Products over `slots` of `n_mats` matrices, and the routing before them.
struct Experts {
    dtype: DType,
    n_in: usize,
    n_out: usize,
    n_mats: usize,
    slots: usize,
}

/// Rotary embedding of one value or two.
struct Rotation {
    table: RopeTable,
    head_dim: usize,
    pairs: RopePairs,
    /// Of each value.
    cols: Vec<usize>,
}

/// An op that computes each element by itself, or moves elements.
#[derive(Clone, Copy)]
enum Map {
    Add,
    Mul,
    AddBias,
    Scale { by: f32 },
    Softcap { cap: f32 },
    Columns { start: usize },
    Unary(Unary),
    HeadColumns(HeadPart),
    Glu { act: Act },
}

/// The kind of a node by name; `None` for one that the node before it stands for.
fn of_node(graph: &Graph, i: usize, node: &Node) -> Option<(String, Build)> {
    let cols = node.output.map_or(0, |id| graph.value(id).cols);
    let kind = node.op.kind();
    Some(match &node.op {
        Op::Input | Op::OutputRows => return None,
        Op::GetRows { table } => {
            let dtype = graph.weight(*table).dtype;
            (format!("{kind} {dtype} {cols}"), Build::Rows(dtype, cols))
        }
        Op::PositionRows { table } => {
            let dtype = graph.weight(*table).dtype;
            (format!("{kind} of positions {dtype} {cols}"), Build::PositionRows(dtype, cols))
        }
        Op::MatMul { .. } => return products(graph, i, node),
        Op::Route(_)
        | Op::MatMulId { .. }
        | Op::AddId { .. }
        | Op::Weighted
        | Op::SumSlots { .. } => return experts(graph, node),
        Op::RmsNorm { w, eps } => norm(graph, i, *eps, graph.weight(*w).n_in),
        Op::LayerNorm(norm) => layer_norm(graph, norm, cols),
        Op::Rope { .. } => return rotation(graph, i, node),
        // Stands with its attention.
        Op::StoreKv { .. } => return None,
        Op::Attention(a) => attention(graph, i, a),
        Op::Add => (format!("{kind} {cols}"), Build::Map(Map::Add, cols)),
        Op::Mul => (format!("{kind} {cols}"), Build::Map(Map::Mul, cols)),
        Op::SsmConv { w, .. } => {
            let Weight { dtype, n_in: d_conv, .. } = *graph.weight(*w);
            (
                format!("{kind} {dtype} {d_conv} {cols}"),
                Build::Conv(Convolution { dtype, d_conv, cols }),
            )
        }
        Op::AddBias { b } => {
            let name = format!("{kind} bias {} {cols}", graph.weight(*b).dtype);
            (name, Build::Map(Map::AddBias, cols))
        }
        &Op::Scale { by } => {
            (format!("{kind} {cols} by {by}"), Build::Map(Map::Scale { by }, cols))
        }
        &Op::Unary(unary) => {
            (format!("{kind} {unary:?} {cols}"), Build::Map(Map::Unary(unary), cols))
        }
        &Op::Glu { act } => (format!("{kind} {act:?} {cols}"), Build::Map(Map::Glu { act }, cols)),
        &Op::Columns { start } => {
            let from = graph.value(node.inputs[0]).cols;
            (format!("{kind} {cols} of {from}"), Build::Map(Map::Columns { start }, from))
        }
        Op::HeadColumns { .. } | Op::JoinHeads { .. } => return heads(graph, node),
        &Op::Softcap { cap } => {
            (format!("{kind} {cap}"), Build::Map(Map::Softcap { cap }, cols.min(1024)))
        }
    })
}

/// A norm that subtracts the mean.
fn layer_norm(graph: &Graph, norm: &LayerNorm, cols: usize) -> (String, Build) {
    let kind = Op::LayerNorm(*norm).kind();
    let elements = |id: WeightId| graph.weight(id).elements();
    let [w, b] = [norm.w, norm.b].map(|id| id.map(elements));
    let LayerNorm { group, eps, .. } = *norm;
    let name = format!("{kind} {cols} by {group}, eps {eps:e}, {w:?} factors, {b:?} added");
    (name, Build::LayerNorm { cols, norm: *norm, w, b })
}

/// A rotary embedding, and the next node's where that is the same; `None` for the second of two.
fn rotation(graph: &Graph, i: usize, node: &Node) -> Option<(String, Build)> {
    let Op::Rope { table, head_dim, pairs } = node.op else { return None };
    let before = i.checked_sub(1).map(|i| &graph.nodes[i]);
    if before.is_some_and(|node| matches!(node.op, Op::Rope { .. })) {
        return None;
    }
    let next = graph.nodes.get(i + 1).filter(|next| next.op == node.op);
    let both = [Some(node), next].into_iter().flatten().filter_map(|node| node.output);
    let cols: Vec<usize> = both.map(|id| graph.value(id).cols).collect();
    let kind = node.op.kind();
    let name = format!("{kind} {cols:?} table {table}, heads of {head_dim}, {pairs:?}");
    let table = graph.rope_tables[table].clone();
    Some((name, Build::Rope(Rotation { table, head_dim, pairs, cols })))
}

/// Parts of heads, or heads side by side.
fn heads(graph: &Graph, node: &Node) -> Option<(String, Build)> {
    let cols = |id: ValueId| graph.value(id).cols;
    let (kind, a, to) = (node.op.kind(), cols(node.inputs[0]), cols(node.output?));
    if let Op::HeadColumns { head_dim, start } = node.op {
        let n = to / (a / head_dim);
        let name = format!("{kind} {n} from {start} of heads of {head_dim}");
        return Some((name, Build::Map(Map::HeadColumns(HeadPart { head_dim, start, n }), a)));
    }
    let Op::JoinHeads { n_head, n_head_b } = node.op else { return None };
    let b = cols(node.inputs[1]);
    let name = format!("{kind} {a} {b} {n_head} / {n_head_b} heads");
    Some((name, Build::Join(JoinedHeads { n_head, n_head_b }, [a, b])))
}

/// A norm over groups of `n` columns, of a sum where that stands before it.
fn norm(graph: &Graph, i: usize, eps: f32, n: usize) -> (String, Build) {
    let node = &graph.nodes[i];
    let cols = node.output.map_or(0, |id| graph.value(id).cols);
    let before = i.checked_sub(1).map(|i| &graph.nodes[i]);
    let reads = |id: Option<ValueId>| id.is_some() && node.inputs.first() == id.as_ref();
    let of_sum = before.is_some_and(|node| node.op == Op::Add && reads(node.output));
    let with = if of_sum { "ADD + " } else { "" };
    let product = product_behind(graph, i);
    let before = product.map_or(String::new(), |dtype| format!(", before {dtype}"));
    let name = format!("{with}{} {cols} by {n}, eps {eps:e}{before}", node.op.kind());
    (name, Build::Norm { cols, n, eps, of_sum, product })
}

/// A layer of experts as a whole, told by its first product; its other ops stand with it.
fn experts(graph: &Graph, node: &Node) -> Option<(String, Build)> {
    let Op::MatMulId { w } = node.op else { return None };
    let Weight { dtype, n_in, n_out, n_mats, .. } = *graph.weight(w);
    let slots = graph.value(node.inputs[1]).cols;
    let name = format!("{} {dtype} {n_in} {slots} of {n_mats}", node.op.kind());
    let n_out = n_out.min(ROWS[2]);
    Some((name, Build::Experts(Experts { dtype, n_in, n_out, n_mats, slots })))
}

/// The weights of a product and of those of the same activations that follow it; `None` behind the first of them.
fn group<'a>(graph: &'a Graph, i: usize, node: &Node) -> Option<Vec<&'a Weight>> {
    let is_product = |node: &Node| matches!(node.op, Op::MatMul { .. });
    let earlier = graph.nodes[..i].iter().rev().take(7);
    if earlier.filter(|other| is_product(other)).any(|other| other.inputs == node.inputs) {
        return None;
    }
    let weight = |node: &Node| {
        let Op::MatMul { w } = node.op else { return None };
        Some(graph.weight(w))
    };
    let near = graph.nodes[i..].iter().take(8);
    let group = near.filter(|other| other.inputs == node.inputs).filter_map(weight);
    Some(group.take(ROWS.len()).collect())
}

/// A product of many rows, where a model has one in a block format.
fn tall(graph: &Graph, i: usize, node: &Node) -> Option<(String, Build)> {
    let Op::MatMul { w } = node.op else { return None };
    let dtype = graph.weight(w).dtype;
    let rows: usize = group(graph, i, node)?.iter().map(|w| w.n_out).sum();
    (rows >= MANY_ROWS && dtype.block_len() > 1)
        .then(|| (format!("{} {dtype} of many rows", node.op.kind()), Build::Tall(dtype)))
}

/// Products of the same activations.
fn products(graph: &Graph, i: usize, node: &Node) -> Option<(String, Build)> {
    let group = group(graph, i, node)?;
    let before = i.checked_sub(1).map(|i| &graph.nodes[i]);
    let glu = before.filter(|before| before.output == node.inputs.first().copied());
    let glu = glu.and_then(|before| {
        let Op::Glu { act } = before.op else { return None };
        Some(act)
    });
    let dtypes: Vec<DType> = group.iter().map(|w| w.dtype).collect();
    let formats: Vec<&str> = dtypes.iter().map(|dtype| dtype.name()).collect();
    let with = glu.map_or(String::new(), |act| format!("GLU {act:?} + "));
    let n_in = group[0].n_in;
    let name = format!("{with}{} {} {n_in}", node.op.kind(), formats.join(" "));
    Some((name, Build::Products(dtypes, n_in, glu)))
}

/// The format of the product that reads what a node gives, if it is the next node.
fn product_behind(graph: &Graph, i: usize) -> Option<DType> {
    let (node, next) = (&graph.nodes[i], graph.nodes.get(i + 1)?);
    let reads = node.output.is_some() && next.inputs.first() == node.output.as_ref();
    let Op::MatMul { w } = next.op else { return None };
    reads.then(|| graph.weight(w).dtype)
}

/// Attention with its cache.
fn attention(graph: &Graph, i: usize, a: &Attention) -> (String, Build) {
    let layer = graph.kv(a.cache);
    let kind = Op::Attention(*a).kind();
    let mut name =
        format!("{kind} {} / {} heads of {}", a.n_head, layer.n_head_kv, layer.head_dim_k);
    if layer.head_dim_v != layer.head_dim_k {
        name += &format!(", values of {}", layer.head_dim_v);
    }
    match a.mask {
        Mask::Causal => {}
        Mask::Window(window) => name += &format!(", window {window}"),
        Mask::None => name += ", no mask",
    }
    if layer.v_in_k {
        name += " in keys";
    }
    if a.sinks.is_some() {
        name += ", sinks";
    }
    if let Some(cap) = a.softcap {
        name += &format!(", cap {cap}");
    }
    // Queries and keys that are rotated just before the keys are stored.
    let rope = match &graph.nodes[i.saturating_sub(3)..i] {
        [q, k, store] if q.op == k.op && matches!(store.op, Op::StoreKv { .. }) => {
            if let Op::Rope { table, pairs, .. } = q.op {
                Some((graph.rope_tables[table].clone(), pairs))
            } else {
                None
            }
        }
        _ => None,
    };
    if rope.is_some() {
        name += ", behind RoPE";
    }
    let product = product_behind(graph, i);
    if let Some(dtype) = product {
        name += &format!(", before {dtype}");
    }
    (name, Build::Attention { a: *a, layer, rope, product })
}

impl Build {
    fn case(self, name: String) -> Result<Case> {
        let mut c = CaseBuilder::new(name.len() as u64, N_VOCAB);
        let input = |c: &mut CaseBuilder, cols: usize, name: &str| {
            let table = c.weight(DType::F32, cols, N_VOCAB, 1.0);
            c.builder.get_rows(table, name)
        };
        // Many rows are many sums, and a single token is what has kernels of its own.
        let prompts = if matches!(self, Self::Tall(_)) { &PROMPTS[1..] } else { &PROMPTS };
        let last = self.last(&mut c, &input)?;
        let rows = c.builder.output_rows(last, "rows")?;
        if c.builder.cols(rows) >= N_VOCAB {
            c.builder.columns(0, N_VOCAB, rows, "result_output")?;
        } else {
            c.product(DType::F32, rows, N_VOCAB, "result_output")?;
        }
        c.finish(name, prompts, 0)
    }

    /// Builds the ops; the last value is theirs.
    fn last(
        self,
        c: &mut CaseBuilder,
        input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
    ) -> Result<ValueId> {
        Ok(match self {
            Self::Rows(dtype, cols) => {
                let table = c.weight(dtype, cols, N_VOCAB, 1.0);
                c.builder.get_rows(table, "embd")?
            }
            Self::PositionRows(dtype, cols) => {
                let table = c.weight(dtype, cols, PROMPTS[0], 1.0);
                c.builder.position_rows(table, "pos_embd")
            }
            Self::LayerNorm { cols, norm, w, b } => {
                let x = input(c, cols, "x")?;
                let mut vector = |n: Option<usize>| n.map(|n| c.weight(DType::F32, n, 1, 1.0));
                let norm = LayerNorm { w: vector(w), b: vector(b), ..norm };
                c.builder.layer_norm(norm, x, "norm")?
            }
            Self::Products(dtypes, n_in, glu) => {
                let mut x = input(c, n_in, "x")?;
                if let Some(act) = glu {
                    let up = input(c, n_in, "up")?;
                    x = c.builder.glu(act, x, up, "glu")?;
                }
                side_by_side(c, x, dtypes)?
            }
            Self::Tall(dtype) => {
                let x = input(c, 3 * dtype.block_len(), "x")?;
                c.product(dtype, x, TALL, "out")?
            }
            Self::Norm { cols, n, eps, of_sum, product } => {
                let mut x = input(c, cols, "x")?;
                if of_sum {
                    let other = input(c, cols, "other")?;
                    x = c.builder.add(x, other, "sum")?;
                }
                let w = c.weight(DType::F32, n, 1, 1.0);
                let x = c.builder.rms_norm(w, eps, x, "norm")?;
                behind(c, x, product)?
            }
            Self::Rope(rotation) => rotated(c, rotation, input)?,
            Self::Attention { a, layer, rope, product } => {
                let x = attended(c, Attended { a, layer, rope }, input)?;
                behind(c, x, product)?
            }
            Self::Conv(conv) => convolved(c, &conv, input)?,
            Self::Experts(experts) => chosen(c, &experts, input)?,
            Self::Join(heads, cols) => joined(c, heads, cols, input)?,
            Self::Map(of, cols) => {
                let x = input(c, cols, "x")?;
                map(c, of, x, input)?
            }
        })
    }
}

/// Attention, its cache, and the rotary embedding before it.
struct Attended {
    a: Attention,
    layer: KvCache,
    rope: Option<(RopeTable, RopePairs)>,
}

/// Attention of values that are stored by itself.
fn attended(
    c: &mut CaseBuilder,
    attended: Attended,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let Attended { a, layer, rope } = attended;
    let KvCache { n_head_kv, head_dim_k, head_dim_v, .. } = layer;
    let heads = KvHeads { n_head_kv, head_dim_k, head_dim_v };
    let cache = cache(c, heads, layer, a.mask)?;
    let sinks = a.sinks.map(|_| c.weight(DType::F32, a.n_head, 1, 1.0));
    let a = Attention { cache, sinks, ..a };
    let mut q = input(c, a.n_head * layer.head_dim_k, "q")?;
    let mut k = input(c, layer.n_head_kv * layer.head_dim_k, "k")?;
    let v = values(c, layer, k, input)?;
    if let Some((table, pairs)) = rope {
        let table = c.builder.rope_table(table);
        q = c.builder.rope(table, layer.head_dim_k, pairs, q, "q_rotated")?;
        k = c.builder.rope(table, layer.head_dim_k, pairs, k, "k_rotated")?;
    }
    c.builder.store_kv(cache, k, v)?;
    c.builder.attention(a, q, "kqv_out")
}

/// A cache like the layer's.
fn cache(c: &mut CaseBuilder, heads: KvHeads, layer: KvCache, mask: Mask) -> Result<CacheId> {
    if layer.v_in_k {
        return c.builder.latent_cache(heads);
    }
    Ok(c.builder.kv_cache(heads, mask.window()))
}

/// The values: of their own, or the first columns of each head of `k`.
fn values(
    c: &mut CaseBuilder,
    layer: KvCache,
    k: ValueId,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    if !layer.v_in_k {
        return input(c, layer.n_head_kv * layer.head_dim_v, "v");
    }
    let part = HeadPart { head_dim: layer.head_dim_k, start: 0, n: layer.head_dim_v };
    c.builder.head_columns(part, k, "v")
}

/// Two values side by side, head by head.
fn joined(
    c: &mut CaseBuilder,
    heads: JoinedHeads,
    [a, b]: [usize; 2],
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let (a, b) = (input(c, a, "a")?, input(c, b, "b")?);
    c.builder.join_heads(heads, [a, b], "joined")
}

/// A value, convolved over a state of its own.
fn convolved(
    c: &mut CaseBuilder,
    conv: &Convolution,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let &Convolution { dtype, d_conv, cols } = conv;
    let x = input(c, cols, "x")?;
    let w = c.weight(dtype, d_conv, cols, 1.0);
    let cache = c.builder.state_cache((d_conv - 1) * cols);
    c.builder.ssm_conv(w, cache, x, "conv")
}

/// Products over chosen matrices, weighted and added.
fn chosen(
    c: &mut CaseBuilder,
    experts: &Experts,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let &Experts { dtype, n_in, n_out, n_mats, slots } = experts;
    let x = input(c, n_in, "x")?;
    let logits = c.product(DType::F32, x, n_mats, "logits")?;
    let probs = c.builder.route(Route::Softmax, logits, "probs")?;
    let chosen = c.builder.top_k(slots, probs, "chosen")?;
    let weights = c.builder.pick(probs, chosen, "weights")?;
    let weights = c.builder.route(Route::Normalise { at_least: 1e-4 }, weights, "normal")?;
    let w = c.matrices(&cases::several(dtype, n_in, n_out, n_mats), 1.0);
    let y = c.builder.mat_mul_id(w, x, chosen, "products")?;
    let y = c.builder.weighted(y, weights, "weighted")?;
    c.builder.sum_slots(slots, y, "sum")
}

/// Products of a value; the first of them.
fn side_by_side(c: &mut CaseBuilder, x: ValueId, dtypes: Vec<DType>) -> Result<ValueId> {
    let mut first = None;
    for (i, (dtype, rows)) in dtypes.into_iter().zip(ROWS).enumerate() {
        let y = c.product(dtype, x, rows, &format!("out_{i}"))?;
        first.get_or_insert(y);
    }
    Ok(first.unwrap_or(x))
}

/// Values that are rotated alike; the last of them.
fn rotated(
    c: &mut CaseBuilder,
    rotation: Rotation,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let Rotation { table, head_dim, pairs, cols } = rotation;
    let table = c.builder.rope_table(table);
    let inputs = cols.iter().enumerate().map(|(i, &cols)| input(c, cols, &format!("x{i}")));
    let inputs: Vec<ValueId> = inputs.collect::<Result<_>>()?;
    let mut last = inputs[0];
    for (i, x) in inputs.into_iter().enumerate() {
        last = c.builder.rope(table, head_dim, pairs, x, format!("rope{i}"))?;
    }
    Ok(last)
}

/// A value, or a product of it where it stands before one.
fn behind(c: &mut CaseBuilder, x: ValueId, product: Option<DType>) -> Result<ValueId> {
    product.map_or(Ok(x), |dtype| c.product(dtype, x, ROWS[0], "out"))
}

/// Its op on a value.
fn map(
    c: &mut CaseBuilder,
    map: Map,
    x: ValueId,
    input: &impl Fn(&mut CaseBuilder, usize, &str) -> Result<ValueId>,
) -> Result<ValueId> {
    let cols = c.builder.cols(x);
    match map {
        Map::Add => {
            let other = input(c, cols, "y")?;
            c.builder.add(x, other, "out")
        }
        Map::Mul => {
            let other = input(c, cols, "y")?;
            c.builder.mul(x, other, "out")
        }
        Map::AddBias => {
            let bias = c.weight(DType::F32, cols, 1, 1.0);
            c.builder.add_bias(bias, x, "out")
        }
        Map::Scale { by } => Ok(c.builder.scale(by, x, "out")),
        Map::Softcap { cap } => Ok(c.builder.softcap(cap, x, "out")),
        Map::Columns { start } => {
            c.builder.columns(start, (cols - start).min(cols.div_ceil(2)), x, "out")
        }
        Map::Unary(unary) => Ok(c.builder.unary(unary, x, "out")),
        Map::HeadColumns(part) => c.builder.head_columns(part, x, "out"),
        Map::Glu { act } => {
            let up = input(c, cols, "up")?;
            c.builder.glu(act, x, up, "out")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_with_many_rows_of_weights_has_a_case_for_them() {
        let is_tall = |name: &String| name.ends_with("of many rows");
        for (dtype, rows, expected) in [
            (DType::Q8_0, MANY_ROWS, 1),
            (DType::Q8_0, MANY_ROWS - 32, 0),
            (DType::F32, MANY_ROWS, 0),
        ] {
            let graph = crate::cases::product(dtype, 96, rows).unwrap().graph;
            assert_eq!(names(&graph).filter(is_tall).count(), expected, "{dtype} {rows}");
            let case = cases(&graph).unwrap().into_iter().find(|case| is_tall(&case.name));
            let most = case.map(|case| case.graph.weights.iter().map(|w| w.n_out).max());
            assert_eq!(most, (expected > 0).then_some(Some(TALL)), "{dtype} {rows}");
        }
    }
}
