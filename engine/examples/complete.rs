//! Goes on with a text, greedily: `cargo run --release -p karat --example complete -- MODEL TEXT`.
#![allow(clippy::print_stdout, reason = "an example is a program")]

use karat::{Model, SamplerParams};

fn main() -> karat::Result<()> {
    let mut args = std::env::args().skip(1);
    let source = args.next().unwrap_or_else(|| "smollm2:135m".to_owned());
    let text = args.next().unwrap_or_else(|| "The capital of France is".to_owned());

    let model = Model::open(source)?;
    let mut session = model.session()?.with_sampling(SamplerParams::greedy())?.with_max_tokens(20);
    let answer = session.complete(&text)?.answer()?;
    println!("{text}{}", answer.text);
    println!("({:?}; {})", answer.finish, answer.timings());
    Ok(())
}
