//! Rounding of activations to 8 bits, in the three formats of ggml. Items are activations.
//!
//! Only a product rounds, so each bench is the narrowest one, and `copy` is the same with a product in f32: the
//! difference bounds the rounding from above, since it still has the product's 16 rows.
//!
//! `cargo bench -p karat-cpu --bench quantize_q8`

mod support;

use divan::Bencher;
use gguf::DType;
use support::{REPEATS, Tiny};

fn main() {
    divan::main();
}

/// Rows of the narrowest product that fills a tile.
const N_OUT: usize = 16;
const SHAPES: [(usize, usize); 4] = [(1, 1536), (1, 8960), (64, 1536), (64, 8960)];

/// Every product reads a value of its own, or it would find its input rounded.
fn products(bencher: Bencher<'_, '_>, dtype: DType, (tokens, cols): (usize, usize)) {
    let mut tiny = Tiny::new();
    let mut sum = tiny.rows(N_OUT, 1.0).expect("a table");
    for _ in 0..REPEATS {
        let x = tiny.rows(cols, 1.0).expect("a table");
        let w = tiny.matrix(dtype, cols, N_OUT);
        let (product, name) = (tiny.next_name(), tiny.next_name());
        let y = tiny.graph.mat_mul(w, x, product).expect("widths agree");
        sum = tiny.graph.add(sum, y, name).expect("widths agree");
    }
    tiny.bench(bencher, sum, tokens, REPEATS * tokens * cols);
}

/// Blocks of 32 with a scale.
#[divan::bench(args = SHAPES)]
fn q8_0(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    products(bencher, DType::Q8_0, shape);
}

/// Blocks of 32 with a scale and their sum.
#[divan::bench(args = SHAPES)]
fn q8_1(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    products(bencher, DType::Q4_1, shape);
}

/// Blocks of 256 with an f32 scale and sums of 16.
#[divan::bench(args = SHAPES)]
fn q8_k(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    products(bencher, DType::Q4_K, shape);
}

/// The rows and a product in f32, without rounding.
#[divan::bench(args = SHAPES)]
fn copy(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    products(bencher, DType::F32, shape);
}
