//! Every op in f64, on the inputs that a side gave it, with a bound for each element: `|err| ≤ γ_k·Σ|a·b|`. It is what
//! other engines are held to, and who is asked where a side and `graph::reference` differ. Plain loops, a file for each
//! op. What an op's definition rounds (activations to 8 bits, the cache to f16) is rounded by `graph`'s rule.

mod attention;
mod elementwise;
mod experts;
mod layer_norm;
mod mat_mul;
mod rms_norm;
mod rope;
mod ssm_conv;
pub(crate) mod weights;

use crate::bound::Exact;
use crate::{Subject, Tolerance};
use graph::{CacheId, Graph, GroupId, KV_BLOCK, KvType, Node, Op, Result, Step, math};

/// Where an op stands and what it is given.
pub(crate) struct Given<'a> {
    pub(crate) node: &'a Node,
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) step: &'a Step,
    /// For attention keys and values, for a convolution all rows so far, this step's among them.
    pub(crate) cache: &'a Cache,
    /// Other engines have more freedom than an order of sums: tables, f16 on the way.
    pub(crate) tolerance: Tolerance,
}

/// What a side has stored, by cache id.
#[derive(Default)]
pub(crate) struct Cache {
    by_id: Vec<Held>,
}

/// What a side has stored in one cache.
enum Held {
    /// K and V, `[slot][n_head_kv · head_dim]`, rounded to the cache's type.
    Kv([Vec<f32>; 2]),
    /// For each block the rows of its sequence from position 0 on: not the state, which may be what is wrong.
    Rows(Vec<Vec<f32>>),
}

/// Where a step's keys or values go.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) cache: CacheId,
    pub(crate) group: GroupId,
    /// K (0) or V (1).
    pub(crate) which: usize,
}

impl Cache {
    pub(crate) fn new(graph: &Graph, blocks: usize) -> Self {
        let of = |cache: &graph::Cache| match cache {
            graph::Cache::Kv(kv) => {
                let rows = blocks * KV_BLOCK * kv.n_head_kv;
                Held::Kv([vec![0.0; rows * kv.head_dim_k], vec![0.0; rows * kv.head_dim_v]])
            }
            graph::Cache::State(_) => Held::Rows(vec![Vec::new(); blocks]),
        };
        Self { by_id: graph.caches.iter().map(of).collect() }
    }

    /// Keys and values.
    pub(crate) fn halves(&self, id: CacheId) -> &[Vec<f32>; 2] {
        match &self.by_id[id.0] {
            Held::Kv(halves) => halves,
            Held::Rows(_) => unreachable!("the builder gives attention no state: {id:?}"),
        }
    }

    /// For each block the rows of its sequence.
    pub(crate) fn rows(&self, id: CacheId) -> &[Vec<f32>] {
        match &self.by_id[id.0] {
            Held::Rows(rows) => rows,
            Held::Kv(_) => unreachable!("the builder gives a state's op no keys: {id:?}"),
        }
    }

    /// Adds a step's rows of `cols` columns to those that the op of a state has read.
    pub(crate) fn add_rows(&mut self, id: CacheId, group: GroupId, step: &Step, x: &[f32]) {
        let cols = x.len() / step.tokens.len().max(1);
        for (t, row) in x.chunks(cols.max(1)).enumerate() {
            let block = step.state_block(group, step.seqs[t]);
            if let Held::Rows(all) = &mut self.by_id[id.0] {
                all[block].truncate(step.positions[t] as usize * cols);
                all[block].extend(row);
            }
        }
    }

    /// Stores a step's rows of K (0) or V (1).
    pub(crate) fn store(&mut self, place: Place, step: &Step, kv: KvType, rows: &[f32]) {
        let Place { cache, group, which } = place;
        let width = rows.len() / step.tokens.len().max(1);
        for (t, row) in rows.chunks(width.max(1)).enumerate() {
            let at = step.slot(group, step.seqs[t], step.positions[t]) * width;
            let Held::Kv(halves) = &mut self.by_id[cache.0] else { continue };
            for (dst, &v) in halves[which][at..at + width].iter_mut().zip(row) {
                *dst = match kv {
                    KvType::F16 => math::round_f16(v),
                    KvType::F32 => v,
                };
            }
        }
    }
}

/// The evaluation of a node's value.
///
/// # Errors
/// Where the file's weights cannot be read.
pub(crate) fn evaluate(subject: Subject<'_>, given: &Given<'_>) -> Result<Exact> {
    let Subject { graph, files, options } = subject;
    let Given { node, inputs, step, tolerance, .. } = *given;
    let input = |i: usize| inputs.get(i).copied().unwrap_or_default();
    let cols = node.output.map_or(1, |v| graph.value(v).cols.max(1));
    let bytes = |w: graph::WeightId| graph::backend::read_weight(files, graph.weight(w));
    let vector = |w| Ok::<_, graph::Error>(weights::all(graph.weight(w), &bytes(w)?));
    let moved = |values: &[f32]| Exact {
        value: values.iter().map(|&v| f64::from(v)).collect(),
        bound: vec![0.0; values.len()],
    };
    Ok(match &node.op {
        Op::Input => moved(&step.inputs),
        Op::OutputRows => {
            let row = |&row: &u32| input(0)[row as usize * cols..][..cols].to_vec();
            moved(&step.outputs.iter().flat_map(row).collect::<Vec<f32>>())
        }
        Op::Columns { .. } | Op::HeadColumns { .. } | Op::JoinHeads { .. } => {
            moved(&put(graph, given))
        }
        Op::GetRows { table } => weights::rows(graph.weight(*table), &bytes(*table)?, &step.tokens),
        Op::PositionRows { table } => {
            weights::rows(graph.weight(*table), &bytes(*table)?, &step.positions)
        }
        Op::Scale { by } => elementwise::scale(input(0), *by),
        Op::Add => elementwise::add(input(0), input(1)),
        Op::Mul => elementwise::mul(input(0), input(1)),
        Op::AddBias { b } => elementwise::add_bias(input(0), &vector(*b)?),
        Op::Unary(unary) => elementwise::unary(*unary, input(0), tolerance),
        Op::Glu { act } => elementwise::glu(*act, input(0), input(1), tolerance),
        Op::Softcap { cap } => elementwise::softcap(input(0), *cap),
        Op::RmsNorm { w, eps } => rms_norm::rms_norm(input(0), &vector(*w)?, *eps),
        Op::LayerNorm(norm) => normed(subject, norm, input(0))?,
        Op::Rope { table, head_dim, pairs } => {
            let table = &graph.rope_tables[*table];
            let rotation = rope::Rotation { table, head_dim: *head_dim, pairs: *pairs, cols };
            rope::rope(input(0), rotation, step, tolerance)
        }
        Op::MatMul { w } => {
            let tensor = weights::Tensor { weight: graph.weight(*w), bytes: &bytes(*w)? };
            mat_mul::mat_mul(options.arithmetic, tensor, input(0), tolerance)
        }
        Op::Attention(a) => attended(subject, given, a)?,
        Op::SsmConv { w, cache } => {
            let (rows, group) = (given.cache.rows(*cache), graph.state(*cache).group);
            ssm_conv::ssm_conv(&vector(*w)?, ssm_conv::Seen { rows, group, step, cols })
        }
        Op::Route(route) => {
            let (x, chosen, from) = (input(0), input(1), graph.value(node.inputs[0]).cols);
            experts::route(&experts::Router { route: *route, x, cols: from, chosen, out: cols })
        }
        Op::MatMulId { w } => chosen(subject, given, *w)?,
        Op::AddId { b } => experts::add_id(input(0), &vector(*b)?, graph.weight(*b).n_in, input(1)),
        Op::Weighted => experts::weighted(input(0), input(1)),
        Op::SumSlots { slots } => experts::sum_slots(input(0), cols, *slots),
        Op::StoreKv { .. } => Exact::default(),
    })
}

/// A norm that subtracts the mean.
fn normed(subject: Subject<'_>, norm: &graph::LayerNorm, x: &[f32]) -> Result<Exact> {
    let bytes = |w| graph::backend::read_weight(subject.files, subject.graph.weight(w));
    let vector = |w| Ok::<_, graph::Error>(weights::all(subject.graph.weight(w), &bytes(w)?));
    let [w, b] = [norm.w.map(vector).transpose()?, norm.b.map(vector).transpose()?];
    let affine = layer_norm::Affine { w: w.as_deref(), b: b.as_deref() };
    Ok(layer_norm::layer_norm(x, &affine, norm.group, norm.eps))
}

/// Columns of each row or of each head, or heads side by side.
fn put(graph: &Graph, given: &Given<'_>) -> Vec<f32> {
    let Given { node, inputs, .. } = *given;
    let width = |i: usize| graph.value(node.inputs[i]).cols;
    let (rows, to) = (inputs[0].len() / width(0), node.output.map_or(0, |v| graph.value(v).cols));
    let mut out = vec![0.0; rows * to];
    if let Op::Columns { start } = node.op {
        graph::ops::heads::columns(inputs[0], width(0), start, to, &mut out);
    } else if let Op::HeadColumns { head_dim, start } = node.op {
        let n = to / (width(0) / head_dim);
        graph::ops::heads::columns(inputs[0], head_dim, start, n, &mut out);
    } else if let Op::JoinHeads { n_head, n_head_b } = node.op {
        let both = inputs[0].chunks(width(0)).zip(inputs[1].chunks(width(1)));
        for ((a, b), out) in both.zip(out.chunks_mut(to.max(1))) {
            graph::ops::heads::join(a, b, n_head, n_head_b, out);
        }
    }
    out
}

/// Products with the chosen matrices.
fn chosen(subject: Subject<'_>, given: &Given<'_>, w: graph::WeightId) -> Result<Exact> {
    let weight = subject.graph.weight(w);
    let bytes = graph::backend::read_weight(subject.files, weight)?;
    let tensor = weights::Tensor { weight, bytes: &bytes };
    let slots = subject.graph.value(given.node.inputs[1]).cols;
    let chosen =
        graph::ops::experts::Chosen { x: given.inputs[0], experts: given.inputs[1], slots };
    Ok(experts::mat_mul_id(subject.options.arithmetic, tensor, chosen, given.tolerance))
}

/// Attention over what the side has stored.
fn attended(subject: Subject<'_>, given: &Given<'_>, a: &graph::Attention) -> Result<Exact> {
    let Subject { graph, files, options } = subject;
    let Given { inputs, step, tolerance, .. } = *given;
    let input = |i: usize| inputs.get(i).copied().unwrap_or_default();
    let bytes = |w: graph::WeightId| graph::backend::read_weight(files, graph.weight(w));
    let vector = |w| Ok::<_, graph::Error>(weights::all(graph.weight(w), &bytes(w)?));
    let f16 = tolerance == Tolerance::Rounding && options.kv == KvType::F16;
    let sinks = a.sinks.map(vector).transpose()?;
    let memory = attention::Memory {
        spec: graph.kv(a.cache),
        kv: given.cache.halves(a.cache),
        sinks: sinks.as_deref(),
    };
    Ok(attention::attention(a, &memory, step, input(0), f16))
}
