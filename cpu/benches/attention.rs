//! Attention of a prompt (items: multiplications), of one token and of sixteen sequences (bytes: the cache read), with
//! the heads of SmolLM2-135M (9 over 3, of 64 elements). Each layer has a cache of its own, as in a model.
//!
//! `cargo bench -p karat-cpu --bench attention`

mod support;

use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use graph::{Attention, BlockTable, KV_BLOCK, KvHeads, Mask, Step, ValueId};
use support::Tiny;

const HEADS: usize = 9;
const HEADS_KV: usize = 3;
const HEAD_DIM: usize = 64;

fn main() {
    divan::main();
}

fn layers(n: usize) -> (Tiny, ValueId) {
    let mut tiny = Tiny::new();
    let kv = tiny.rows(HEADS_KV * HEAD_DIM, 0.1).expect("a table");
    let mut x = tiny.rows(HEADS * HEAD_DIM, 0.1).expect("a table");
    for _ in 0..n {
        let heads = KvHeads { n_head_kv: HEADS_KV, head_dim_k: HEAD_DIM, head_dim_v: HEAD_DIM };
        let cache = tiny.graph.kv_cache(heads, None);
        tiny.graph.store_kv(cache, kv, kv).expect("widths agree");
        let attention = Attention {
            cache,
            n_head: HEADS,
            scale: 0.125,
            mask: Mask::Causal,
            sinks: None,
            softcap: None,
        };
        let name = tiny.next_name();
        x = tiny.graph.attention(attention, x, name).expect("widths agree");
    }
    (tiny, x)
}

/// Attention of `tokens` tokens of a prompt behind `depth` earlier ones.
#[divan::bench(args = [(512, 0), (512, 3584)], sample_count = 20, sample_size = 1)]
fn prompt(bencher: Bencher<'_, '_>, (tokens, depth): (usize, usize)) {
    const LAYERS: usize = 2;
    let (tiny, x) = layers(LAYERS);
    let step = Step::single(&vec![1; tokens], depth as u32);
    let seen: usize = (depth + 1..=depth + tokens).sum();
    let items = ItemsCount::new(LAYERS * seen * HEADS * 2 * HEAD_DIM);
    tiny.bench_step(bencher, x, (&step, (depth + tokens).div_ceil(KV_BLOCK)), items);
}

/// One token behind `depth` earlier ones, in each of the sequences.
#[divan::bench(args = [(1, 0), (1, 2048), (1, 8192), (16, 128), (16, 512)], sample_count = 50)]
fn decode(bencher: Bencher<'_, '_>, (sequences, depth): (usize, usize)) {
    const LAYERS: usize = 30;
    let (tiny, x) = layers(LAYERS);
    let mut step = Step::single(&vec![1; sequences], depth as u32);
    let blocks = depth / KV_BLOCK + 1;
    step.positions.fill(depth as u32);
    step.seqs = (0..sequences as u32).collect();
    step.tables = (0..sequences)
        .map(|s| BlockTable::Same((s * blocks..(s + 1) * blocks).map(|b| b as u32).collect()))
        .collect();
    let bytes = LAYERS * sequences * (depth + 1) * HEADS_KV * 2 * HEAD_DIM * size_of::<u16>();
    tiny.bench_step(bencher, x, (&step, sequences * blocks), BytesCount::new(bytes));
}
