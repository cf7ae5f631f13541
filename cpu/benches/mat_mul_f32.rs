//! The f32 product by format, number of tokens and shape. Items are multiply-adds: compare with 16 per cycle and core for
//! AVX-512's fma at full width once a cycle. For one token bytes count: what a weight reads from memory.
//!
//! `cargo bench -p karat-cpu --bench mat_mul_f32 [FILTER]`; `KARAT_BENCH_THREADS` sets the threads (1).

use cpu::Cpu;
use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use gguf::DType;
use graph::cases::{Case, product};
use graph::{Arithmetic, Backend, LoadOptions, Loaded, NoTap, Step};
use std::sync::Arc;

fn main() {
    divan::main();
}

/// One product of `[tokens, n_in]` with `[n_in, n_out]`, all rows wanted.
fn bench(bencher: Bencher<'_, '_>, dtype: DType, tokens: usize, [n_in, n_out]: [usize; 2]) {
    #[allow(clippy::disallowed_methods, reason = "a benchmark has no karat::Config")]
    let threads =
        std::env::var("KARAT_BENCH_THREADS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let case: Case = product(dtype, n_in, n_out).expect("shapes are whole blocks");
    let options = LoadOptions { arithmetic: Arithmetic::F32, ..LoadOptions::default() };
    let mut loaded: Box<dyn Loaded> = Cpu::new(threads)
        .load(Arc::clone(&case.graph), &[&case.file], options, &mut |_| {})
        .expect("a random weight loads");
    let mut kv = loaded.new_kv(&graph::Blocks::Each(tokens.div_ceil(64))).expect("an empty cache");
    let mut step = Step::single(&vec![1; tokens], 0);
    step.outputs = (0..tokens as u32).collect();
    bencher
        .counter(ItemsCount::new(tokens * n_in * n_out))
        .counter(BytesCount::new(dtype.row_bytes(n_in) * n_out))
        .bench_local(|| loaded.run(&step, &mut kv, &mut NoTap).expect("runs"));
}

/// Many tokens.
#[divan::bench(args = DType::ALL, sample_count = 10)]
fn prompt(bencher: Bencher<'_, '_>, dtype: &DType) {
    bench(bencher, *dtype, 192, [1536, 576]);
}

/// Shapes of SmolLM2 135M and Qwen2.5 1.5B.
#[divan::bench(args = [[576, 1536], [1536, 576], [1536, 8960], [8960, 1536]], sample_count = 10)]
fn shapes(bencher: Bencher<'_, '_>, shape: [usize; 2]) {
    bench(bencher, DType::F16, 192, shape);
}

/// One token.
#[divan::bench(args = DType::ALL, sample_count = 10)]
fn one(bencher: Bencher<'_, '_>, dtype: &DType) {
    bench(bencher, *dtype, 1, [2048, 16384]);
}

/// Some tokens, from sequences decoded together.
#[divan::bench(args = [2, 3, 4, 6, 8, 16], sample_count = 10)]
fn few(bencher: Bencher<'_, '_>, tokens: usize) {
    bench(bencher, DType::F16, tokens, [2048, 8192]);
}
