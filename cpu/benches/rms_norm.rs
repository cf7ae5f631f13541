//! RMS norm of rows of the usual widths, for one token and for a prompt. Items are elements.
//!
//! `cargo bench -p karat-cpu --bench rms_norm`

mod support;

use divan::Bencher;
use support::{REPEATS, Tiny};

fn main() {
    divan::main();
}

/// One norm after the other.
#[divan::bench(args = [(1, 576), (1, 4096), (64, 576), (64, 4096)])]
fn rms_norm(bencher: Bencher<'_, '_>, (tokens, cols): (usize, usize)) {
    let mut tiny = Tiny::new();
    let mut x = tiny.rows(cols, 1.0).expect("a table");
    for _ in 0..REPEATS {
        let w = tiny.floats(cols, 1, 1.0);
        let name = tiny.next_name();
        x = tiny.graph.rms_norm(w, 1e-5, x, name).expect("widths agree");
    }
    tiny.bench(bencher, x, tokens, REPEATS * tokens * cols);
}
