//! Continues a text on the slow reference backend: `cargo run --example say -p karat-model -- FILE TEXT [TOKENS]`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use graph::reference::Reference;
use graph::{Backend, LoadOptions};
use model::{Engine, EngineOptions, Request, Sampler, SamplerParams, StopRules};
use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokenizer::{Ends, Show, Special, Tokenizer};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, text, rest @ ..] = args.as_slice() else {
        return Err("usage: say FILE TEXT [TOKENS]".into());
    };
    let max_tokens = Some(rest.first().map_or(Ok(12), |n| n.parse())?);
    let file = gguf::File::open(path, gguf::Access::Mmap)?;
    let tokenizer = Tokenizer::from_gguf(&file)?;
    let options = EngineOptions { n_ctx: 512, n_batch: 64, n_seqs: 1, keep: model::Keep::All };
    let graph = Arc::new(model::graph(&model::spec(&file)?, &file)?);
    let loaded = Reference.load(graph, &[&file], LoadOptions::default(), &mut |_| {})?;
    let mut engine = Engine::new(loaded, options)?;
    let prompt = tokenizer.encode(text, Special::AsText, Ends::Default)?;
    let stop = StopRules { end_ids: tokenizer.eog_ids().collect(), max_tokens };
    let request = Request { seq: engine.add(), prompt: &prompt, stop: &stop };
    let mut sampler = Sampler::new(SamplerParams::greedy())?;
    let said =
        model::generate(&mut engine, request, &mut sampler, &mut |_| ControlFlow::Continue(()))?;
    println!("{prompt:?} → {:?} ({:?})", said.ids, said.finish);
    println!("{text}{}", tokenizer.decode(&said.ids, Show::Text)?);
    Ok(())
}
