//! What a model will need in memory, before anything is allocated, and the largest context that fits.

use crate::{EngineOptions, Error, ErrorKind, Result};
use graph::{Graph, KV_BLOCK, LoadOptions, Rows};

/// Bytes that a loaded model takes. Sums saturate: a size that does not fit in 64 bits does not fit in memory either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The tensors, in their own formats.
    pub weights: u64,
    /// The KV cache of all sequences.
    pub kv: u64,
    /// Values between ops in the largest step, and the logits.
    pub work: u64,
}

impl Memory {
    /// The estimate for a graph.
    pub fn estimate(graph: &Graph, load: LoadOptions, engine: &EngineOptions) -> Self {
        Self {
            weights: weight_bytes(graph),
            kv: graph.kv_bytes(load.kv, &engine.blocks(graph)),
            work: work_bytes(graph, engine),
        }
    }

    /// All together.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.kv).saturating_add(self.work)
    }
}

/// The estimate, or an error with the sum and the largest context that fits where it is over `limit` bytes.
pub fn check_memory(
    graph: &Graph,
    load: LoadOptions,
    engine: &EngineOptions,
    limit: u64,
) -> Result<Memory> {
    let memory = Memory::estimate(graph, load, engine);
    if memory.total() <= limit {
        return Ok(memory);
    }
    let hint = match largest_context(graph, load, engine, limit) {
        Some(n_ctx) => format!("; hint: a context of {n_ctx} fits"),
        None => "; hint: no context fits, use a smaller model or quantisation".into(),
    };
    let what = format!(
        "model does not fit: weights {} + KV cache {} (context {}, {} sequences) + work {} = {}, {} may be used{hint}",
        Size(memory.weights),
        Size(memory.kv),
        engine.n_ctx,
        engine.n_seqs,
        Size(memory.work),
        Size(memory.total()),
        Size(limit),
    );
    Err(Error::new(ErrorKind::DoesNotFit, what))
}

/// The largest `n_ctx` up to the one of `engine` with which the model stays within `limit` bytes; `None` if not even
/// one block of positions does.
pub fn largest_context(
    graph: &Graph,
    load: LoadOptions,
    engine: &EngineOptions,
    limit: u64,
) -> Option<usize> {
    let fits = |n_ctx: usize| {
        let engine = EngineOptions { n_ctx, ..*engine };
        Memory::estimate(graph, load, &engine).total() <= limit
    };
    // In whole blocks: more positions never take less.
    let (mut fit, mut over) = (0, engine.n_ctx.div_ceil(KV_BLOCK) + 1);
    while over - fit > 1 {
        let middle = fit + (over - fit) / 2;
        if fits(middle.saturating_mul(KV_BLOCK)) { fit = middle } else { over = middle }
    }
    (fit > 0).then_some(fit.saturating_mul(KV_BLOCK).min(engine.n_ctx))
}

fn weight_bytes(graph: &Graph) -> u64 {
    graph.weights.iter().map(graph::Weight::resident_bytes).fold(0, u64::saturating_add)
}

/// The most bytes of values that are alive at one time, if each is freed after its last reader.
fn work_bytes(graph: &Graph, engine: &EngineOptions) -> u64 {
    let mut last_reader = vec![0; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        for value in node.inputs.iter().chain(&node.output) {
            last_reader[value.0] = i;
        }
    }
    let bytes = |i: usize| {
        let value = &graph.values[i];
        let rows = match value.rows {
            Rows::Tokens => engine.n_batch,
            Rows::Outputs | Rows::Sequences => engine.n_seqs,
        };
        (value.cols as u64).saturating_mul(rows as u64).saturating_mul(4)
    };
    let (mut alive, mut most) = (0u64, 0);
    for (i, node) in graph.nodes.iter().enumerate() {
        alive = alive.saturating_add(node.output.map_or(0, |value| bytes(value.0)));
        most = most.max(alive);
        let mut read: Vec<usize> =
            node.inputs.iter().chain(&node.output).map(|value| value.0).collect();
        read.sort_unstable();
        read.dedup();
        for value in read.into_iter().filter(|&value| last_reader[value] == i) {
            alive = alive.saturating_sub(bytes(value));
        }
    }
    most
}

/// Bytes for people: `1.5 GiB`.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = self.0 as f64 / (1u64 << 20) as f64;
        if mib < 1024.0 { write!(f, "{mib:.1} MiB") } else { write!(f, "{:.1} GiB", mib / 1024.0) }
    }
}
