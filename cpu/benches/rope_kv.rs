//! Rotary position embedding in both orders of pairs, and storing of K and V, for one token and for a prompt, heads of
//! 64. Items are elements.
//!
//! `cargo bench -p karat-cpu --bench rope_kv`

mod support;

use divan::Bencher;
use graph::{KvHeads, RopePairs, RopeTable};
use support::{REPEATS, Tiny};

const HEAD_DIM: usize = 64;

fn main() {
    divan::main();
}

fn rope(bencher: Bencher<'_, '_>, pairs: RopePairs, (tokens, cols): (usize, usize)) {
    let mut tiny = Tiny::new();
    let freqs = (0..HEAD_DIM / 2).map(|i| 0.75f64.powi(i as i32)).collect();
    let table =
        tiny.graph.rope_table(RopeTable { freqs, long: None, mscale: 1.0, temperature: None });
    let mut x = tiny.rows(cols, 1.0).expect("a table");
    for _ in 0..REPEATS {
        let name = tiny.next_name();
        x = tiny.graph.rope(table, HEAD_DIM, pairs, x, name).expect("whole heads");
    }
    tiny.bench(bencher, x, tokens, REPEATS * tokens * cols);
}

#[divan::bench(args = [(1, 576), (512, 576), (512, 4096)])]
fn rope_adjacent(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    rope(bencher, RopePairs::Adjacent, size);
}

#[divan::bench(args = [(1, 576), (512, 576), (512, 4096)])]
fn rope_halves(bencher: Bencher<'_, '_>, size: (usize, usize)) {
    rope(bencher, RopePairs::Halves, size);
}

/// K and V of some tokens, `cols` columns each, stored in the cache of a layer of their own.
#[divan::bench(args = [(1, 192), (512, 192), (512, 1024)])]
fn store_kv(bencher: Bencher<'_, '_>, (tokens, cols): (usize, usize)) {
    let mut tiny = Tiny::new();
    let x = tiny.rows(cols, 1.0).expect("a table");
    for _ in 0..REPEATS {
        let layer = tiny.graph.kv_cache(
            KvHeads { n_head_kv: cols / HEAD_DIM, head_dim_k: HEAD_DIM, head_dim_v: HEAD_DIM },
            None,
        );
        tiny.graph.store_kv(layer, x, x).expect("widths agree");
    }
    tiny.bench(bencher, x, tokens, REPEATS * tokens * 2 * cols);
}
