//! Tiny graphs in which one op is repeated until nothing else counts.

use cpu::Cpu;
use divan::Bencher;
use divan::counter::{IntoCounter, ItemsCount};
use gguf::{DType, File};
use graph::{Backend, Builder, LoadOptions, NoTap, Result, Step, ValueId, WeightId};
use std::sync::Arc;

/// How often the op stands in the graph.
#[allow(dead_code, reason = "each benchmark uses a part")]
pub(crate) const REPEATS: usize = 32;
/// Rows of the embedding, and logits.
const VOCAB: usize = 32;

/// A graph and its weights, side by side.
pub(crate) struct Tiny {
    pub(crate) graph: Builder,
    file: gguf::Builder,
    n_names: usize,
}

impl Tiny {
    pub(crate) fn new() -> Self {
        Self { graph: Builder::new(VOCAB), file: gguf::Builder::new(), n_names: 0 }
    }

    /// Values around `mean`, a hundredth apart at most, so that a long chain neither vanishes nor overflows.
    pub(crate) fn floats(&mut self, n_in: usize, n_out: usize, mean: f32) -> WeightId {
        let name = self.next_name();
        let values: Vec<f32> =
            (0..n_in * n_out).map(|i| mean * (1.0 + 0.005 * (i as f32).sin())).collect();
        self.file =
            std::mem::take(&mut self.file).f32(&name, &[n_in as u64, n_out as u64], &values);
        self.graph.weight(name, DType::F32, n_in, n_out)
    }

    /// A matrix whose bytes are all 0x11: what it holds does not matter to the time.
    #[allow(dead_code, reason = "each benchmark uses a part")]
    pub(crate) fn matrix(&mut self, dtype: DType, n_in: usize, n_out: usize) -> WeightId {
        let name = self.next_name();
        let data = vec![0x11; dtype.row_bytes(n_in) * n_out];
        let dims = [n_in as u64, n_out as u64];
        self.file = std::mem::take(&mut self.file).tensor(&name, dtype, &dims, &data);
        self.graph.weight(name, dtype, n_in, n_out)
    }

    /// A name that no other weight or value has.
    pub(crate) fn next_name(&mut self) -> String {
        self.n_names += 1;
        format!("x{}", self.n_names)
    }

    /// The rows of the tokens, `[tokens, cols]`.
    pub(crate) fn rows(&mut self, cols: usize, mean: f32) -> Result<ValueId> {
        let table = self.floats(cols, VOCAB, mean);
        let name = self.next_name();
        self.graph.get_rows(table, name)
    }

    /// Runs the graph over `tokens` rows, logits of `x` for the last; `items` elements go through the op.
    #[allow(dead_code, reason = "each benchmark uses a part")]
    pub(crate) fn bench(self, bencher: Bencher<'_, '_>, x: ValueId, tokens: usize, items: usize) {
        let blocks = tokens.div_ceil(graph::KV_BLOCK);
        let step = Step::single(&vec![1; tokens], 0);
        self.bench_step(bencher, x, (&step, blocks), ItemsCount::new(items));
    }

    /// Runs the graph over a step, after one that has stored something in each place of all `blocks` of the cache.
    pub(crate) fn bench_step(
        mut self,
        bencher: Bencher<'_, '_>,
        x: ValueId,
        (step, blocks): (&Step, usize),
        per_run: impl IntoCounter,
    ) {
        let last = self.graph.output_rows(x, "last").expect("a value of tokens");
        // Logits must be of something, and cost nothing: of the first columns.
        let cols = self.graph.cols(x).min(32);
        let first = self.graph.columns(0, cols, last, "first").expect("it has as many");
        let head = self.floats(cols, VOCAB, 1.0);
        self.graph.mat_mul(head, first, "logits").expect("widths agree");
        let graph = Arc::new(self.graph.finish().expect("a whole graph"));
        let file = File::from_bytes(self.file.build().expect("whole tensors")).expect("a file");
        let mut loaded = Cpu::new(1)
            .load(graph, &[&file], LoadOptions::default(), &mut |_| {})
            .expect("the weights load");
        let mut kv = loaded.new_kv(&graph::Blocks::Each(blocks)).expect("an empty cache");
        // Each block as a short sequence of its own, so that a deep cache is not paid for with its attention. Without
        // it, reading the cache would read the system's one page of zeros.
        for block in 0..blocks as u32 {
            let mut fill = Step::single(&[1; graph::KV_BLOCK], 0);
            fill.tables = vec![vec![block].into()];
            loaded.run(&fill, &mut kv, &mut NoTap).expect("runs");
        }
        bencher
            .counter(per_run)
            .bench_local(|| loaded.run(step, &mut kv, &mut NoTap).expect("runs"));
    }
}
