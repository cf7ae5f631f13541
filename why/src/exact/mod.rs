//! Every op in f64, on the inputs that a side gave it, with a bound for each element: `|err| ≤ γ_k·Σ|a·b|`. It is what
//! other engines are held to, and who is asked where a side and `graph::reference` differ. Plain loops, a file for each
//! op. What an op's definition rounds (activations to 8 bits, the cache to f16) is rounded by `graph`'s rule.

mod attention;
mod elementwise;
mod mat_mul;
mod rms_norm;
mod rope;
pub(crate) mod weights;

use crate::bound::Exact;
use crate::{Subject, Tolerance};
use graph::{CacheId, Graph, GroupId, KV_BLOCK, KvType, Node, Op, Result, Step, math};

/// Where an op stands and what it is given.
pub(crate) struct Given<'a> {
    pub(crate) node: &'a Node,
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) step: &'a Step,
    /// For attention: keys and values.
    pub(crate) cache: &'a Cache,
    /// Other engines have more freedom than an order of sums: tables, f16 on the way.
    pub(crate) tolerance: Tolerance,
}

/// The keys and values that a side has stored: for each cache K and V, `[slot][n_head_kv · head_dim]`, rounded to the
/// cache's type.
#[derive(Default)]
pub(crate) struct Cache {
    pub(crate) by_id: Vec<[Vec<f32>; 2]>,
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
        let of = |cache: &graph::Cache| {
            let graph::Cache::Kv(kv) = cache;
            let rows = blocks * KV_BLOCK * kv.n_head_kv;
            [vec![0.0; rows * kv.head_dim_k], vec![0.0; rows * kv.head_dim_v]]
        };
        Self { by_id: graph.caches.iter().map(of).collect() }
    }

    /// Stores a step's rows of K (0) or V (1).
    pub(crate) fn store(&mut self, place: Place, step: &Step, kv: KvType, rows: &[f32]) {
        let Place { cache, group, which } = place;
        let width = rows.len() / step.tokens.len().max(1);
        for (t, row) in rows.chunks(width.max(1)).enumerate() {
            let at = step.slot(group, step.seqs[t], step.positions[t]) * width;
            for (dst, &v) in self.by_id[cache.0][which][at..at + width].iter_mut().zip(row) {
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
    let vector = |w| Ok::<_, graph::Error>(weights::rows(graph.weight(w), &bytes(w)?, &[0]).value);
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
        Op::Columns { start } => {
            let from = graph.value(node.inputs[0]).cols;
            let rows = input(0).chunks(from).flat_map(|row| row[*start..*start + cols].to_vec());
            moved(&rows.collect::<Vec<f32>>())
        }
        Op::GetRows { table } => weights::rows(graph.weight(*table), &bytes(*table)?, &step.tokens),
        Op::Scale { by } => elementwise::scale(input(0), *by),
        Op::Add => elementwise::add(input(0), input(1)),
        Op::AddBias { b } => elementwise::add_bias(input(0), &vector(*b)?),
        Op::Glu { act } => elementwise::glu(*act, input(0), input(1), tolerance),
        Op::Softcap { cap } => elementwise::softcap(input(0), *cap),
        Op::RmsNorm { w, eps } => rms_norm::rms_norm(input(0), &vector(*w)?, *eps),
        Op::Rope { table, head_dim, pairs } => {
            let table = &graph.rope_tables[*table];
            let rotation = rope::Rotation { table, head_dim: *head_dim, pairs: *pairs, cols };
            rope::rope(input(0), rotation, &step.positions, tolerance)
        }
        Op::MatMul { w } => {
            let tensor = weights::Tensor { weight: graph.weight(*w), bytes: &bytes(*w)? };
            mat_mul::mat_mul(options.arithmetic, tensor, input(0), tolerance)
        }
        Op::Attention(a) => {
            let f16 = tolerance == Tolerance::Rounding && options.kv == KvType::F16;
            let sinks = a.sinks.map(vector).transpose()?;
            let memory = attention::Memory {
                spec: graph.kv(a.cache),
                kv: &given.cache.by_id[a.cache.0],
                sinks: sinks.as_deref(),
            };
            attention::attention(a, &memory, step, input(0), f16)
        }
        Op::StoreKv { .. } => Exact::default(),
    })
}
