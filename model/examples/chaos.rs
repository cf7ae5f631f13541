//! How far one rounding error travels: nudges the first layer's output by one part in a million and prints by how much
//! the logits change, in both arithmetics. `cargo run --release --example chaos -p karat-model -- FILE`.
//!
//! This bounds how closely two right engines can agree that do not give the same bits.
#![allow(clippy::print_stdout, reason = "an example prints")]

use graph::reference::Reference;
use graph::{Arithmetic, Backend, KvType, LoadOptions, Node, Tap, Value};
use model::{Engine, EngineOptions, Wanted, Work};
use std::error::Error;
use std::sync::Arc;
use tokenizer::{Ends, Special, Tokenizer};

const TEXT: &str = "The cat sat on the windowsill and watched the rain fall on the garden.";

/// Multiplies the first layer's output by `1 + by`.
struct Nudge {
    by: f32,
}

impl Tap for Nudge {
    fn wants(&mut self, _: &Node, value: &Value) -> bool {
        value.name == "l_out-0"
    }

    fn value(&mut self, _: &Node, _: &Value, data: &mut [f32]) {
        data.iter_mut().for_each(|x| *x *= 1.0 + self.by);
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: chaos FILE")?;
    let file = gguf::File::open(path, gguf::Access::Mmap)?;
    let ids = Tokenizer::from_gguf(&file)?.encode(TEXT, Special::AsText, Ends::Default)?;
    let options = EngineOptions { n_ctx: 64, n_batch: 64, n_seqs: 1, keep: model::Keep::All };
    let graph = Arc::new(model::graph(&model::spec(&file)?, &file)?);
    for arithmetic in [Arithmetic::Int8, Arithmetic::F32] {
        let load = LoadOptions { arithmetic, kv: KvType::F16 };
        let loaded = Reference.load(graph.clone(), &[&file], load, &mut |_| {})?;
        let mut engine = Engine::new(loaded, options)?;
        let mut logits = |by| -> Result<Vec<f32>, model::Error> {
            let seq = engine.add();
            let work = [Work { seq, tokens: &ids, wanted: Wanted::All }];
            let rows = engine.step(&work, &mut Nudge { by })?;
            engine.remove(seq)?;
            Ok(rows.concat())
        };
        let (plain, nudged) = (logits(0.0)?, logits(1e-6)?);
        let squares: f64 = plain.iter().zip(&nudged).map(|(a, b)| f64::from(a - b).powi(2)).sum();
        println!(
            "{arithmetic:?}: rms change of a logit {:.5}",
            (squares / plain.len() as f64).sqrt()
        );
    }
    Ok(())
}
