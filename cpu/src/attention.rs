//! Attention of a step on all threads: the step's tokens are divided into items, and where these are few, over long
//! contexts, the threads share the chunks of an item. The kernels are `kernels::attention`.

use crate::kernels::attention::{Chunk, ITEM_ROWS, Merge, Queries, Whole, row_len, with_scratch};
use crate::kv::{Elem, Layer};
use crate::pool::{Matrix, Workers};
use graph::{Attention, KvCache, Step};

/// From this many chunks of 64 positions on, the threads share the chunks of a few rows' attention, and not only the rows.
const SPLIT_CHUNKS: usize = 8;

/// Divides a step's tokens into items: consecutive tokens of one sequence, few enough that every thread gets items. Item i
/// is the tokens from `bounds[i]` to `bounds[i + 1]`.
pub(crate) fn divide(
    step: &Step,
    attention: &Attention,
    kv: KvCache,
    threads: usize,
    bounds: &mut Vec<usize>,
) {
    let n = step.tokens.len();
    let rows = (n * attention.n_head / (threads * 4)).clamp(ITEM_ROWS.start, ITEM_ROWS.end);
    let most = (rows / (attention.n_head / kv.n_head_kv)).max(1);
    bounds.clear();
    bounds.push(0);
    let mut first = 0;
    for t in 1..=n {
        let same = t < n
            && step.seqs[t] == step.seqs[first]
            && step.positions[t] == step.positions[t - 1] + 1;
        if !same || t - first == most {
            bounds.push(t);
            first = t;
        }
    }
}

/// The attention of a step, divided into items.
#[derive(Clone, Copy)]
pub(crate) struct Items<'a> {
    pub(crate) attention: &'a Attention,
    pub(crate) kv: KvCache,
    pub(crate) step: &'a Step,
    /// `[tokens, n_head · head_dim_k]`
    pub(crate) q: &'a [f32],
    pub(crate) sinks: Option<&'a [f32]>,
    /// By [`divide`].
    pub(crate) bounds: &'a [usize],
}

impl<'a> Items<'a> {
    fn len(&self) -> usize {
        self.bounds.len().saturating_sub(1)
    }

    /// The queries of an item that meet one K/V head.
    fn queries(&self, item: usize, head_kv: usize) -> Queries<'a> {
        let Self { attention, kv, step, q, sinks, bounds } = *self;
        let (token, tokens) = (bounds[item], bounds[item + 1] - bounds[item]);
        Queries {
            attention,
            q,
            token,
            tokens,
            position: step.positions[token],
            end: step.end_for(attention.mask, token),
            sinks,
            table: step.tables[step.seqs[token] as usize].of(kv.group),
            head_kv,
            heads_per_kv: attention.n_head / kv.n_head_kv,
        }
    }

    /// The outputs, of which the heads of one K/V head are computed together.
    fn matrix<'o>(&self, out: &'o mut [f32]) -> Matrix<'o> {
        let cols = self.attention.n_head * self.kv.head_dim_v;
        Matrix { out, cols, step: cols / self.kv.n_head_kv }
    }

    /// Computes all, into `out`.
    pub(crate) fn run<E: Elem>(
        &self,
        layer: &Layer<E>,
        workers: Workers<'_>,
        partials: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let n = self.len() * self.kv.n_head_kv;
        let longest = (0..self.len()).map(|item| self.queries(item, 0).chunks().len()).max();
        if n >= workers.pool.threads() * 2 || longest.unwrap_or(0) < SPLIT_CHUNKS {
            return self.whole(layer, workers, out);
        }
        for item in 0..self.len() {
            let workers = Workers { level: workers.level, pool: &mut *workers.pool };
            self.chunk_by_chunk(item, layer, workers, partials, out);
        }
    }

    /// Each item by one thread.
    fn whole<E: Elem>(&self, layer: &Layer<E>, workers: Workers<'_>, out: &mut [f32]) {
        let Workers { level, pool } = workers;
        let matrix = self.matrix(out);
        let step = matrix.step;
        pool.bands(matrix, self.bounds, |item, out| {
            let queries = self.queries(item, out.range().start / step);
            with_scratch(|scratch| level.run(Whole { queries, layer, out, scratch }));
        });
    }

    /// Few rows over a long context: the threads take its chunks, and merge them in order afterwards.
    fn chunk_by_chunk<E: Elem>(
        &self,
        item: usize,
        layer: &Layer<E>,
        workers: Workers<'_>,
        partials: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let Workers { level, pool } = workers;
        let (one, head_dim_v) = (self.queries(item, 0), self.kv.head_dim_v);
        let (chunks, record) = (one.chunks(), one.rows() * row_len(head_dim_v));
        partials.resize(self.kv.n_head_kv * chunks.len() * record, 0.0);
        pool.rows(partials, record, |first, records| {
            for (i, partial) in records.chunks_exact_mut(record).enumerate() {
                let (head_kv, chunk) = ((first + i) / chunks.len(), (first + i) % chunks.len());
                let (queries, chunk) = (self.queries(item, head_kv), chunks.start + chunk);
                with_scratch(|scratch| {
                    level.run(Chunk { queries, layer, chunk, partial, scratch });
                });
            }
        });
        let matrix = self.matrix(out);
        let step = matrix.step;
        pool.bands(matrix, &self.bounds[item..item + 2], |_, out| {
            let head_kv = out.range().start / step;
            let (queries, len) = (self.queries(item, head_kv), chunks.len() * record);
            let partials = &partials[head_kv * len..][..len];
            with_scratch(|scratch| {
                level.run(Merge { queries, head_dim_v, partials, out, scratch });
            });
        });
    }
}
