//! Gated units, sums and scales of rows of the usual widths, for one token and for a prompt. Items are elements.
//!
//! `cargo bench -p karat-cpu --bench elementwise`

mod support;

use divan::Bencher;
use graph::{Act, Builder, ValueId};
use support::{REPEATS, Tiny};

fn main() {
    divan::main();
}

const SHAPES: [(usize, usize); 4] = [(1, 1536), (1, 14336), (64, 1536), (64, 8960)];

/// `op` of the same operand, around `mean`, and of what the one before it left.
fn chain(
    bencher: Bencher<'_, '_>,
    (tokens, cols): (usize, usize),
    mean: f32,
    op: impl Fn(&mut Builder, [ValueId; 2], String) -> ValueId,
) {
    let mut tiny = Tiny::new();
    let operand = tiny.rows(cols, mean).expect("a table");
    let mut x = tiny.rows(cols, 1.0).expect("a table");
    for _ in 0..REPEATS {
        let name = tiny.next_name();
        x = op(&mut tiny.graph, [operand, x], name);
    }
    tiny.bench(bencher, x, tokens, REPEATS * tokens * cols);
}

/// `silu(gate) · up`; silu(1.2785) is 1, so that the chain keeps its size.
#[divan::bench(args = SHAPES)]
fn glu_silu(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    chain(bencher, shape, 1.2785, |graph, [gate, up], name| {
        graph.glu(Act::Silu, gate, up, name).expect("widths agree")
    });
}

/// `gelu(gate) · up`; gelu(1.1447) is 1.
#[divan::bench(args = SHAPES)]
fn glu_gelu(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    chain(bencher, shape, 1.1447, |graph, [gate, up], name| {
        graph.glu(Act::GeluTanh, gate, up, name).expect("widths agree")
    });
}

/// `a + b`, what moving the rows costs.
#[divan::bench(args = SHAPES)]
fn add(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    chain(bencher, shape, 0.01, |graph, [a, b], name| graph.add(a, b, name).expect("widths agree"));
}

/// `x · by`.
#[divan::bench(args = SHAPES)]
fn scale(bencher: Bencher<'_, '_>, shape: (usize, usize)) {
    chain(bencher, shape, 1.0, |graph, [_, x], name| graph.scale(0.999, x, name));
}
