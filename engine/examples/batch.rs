//! Several texts in the same steps, greedily: `cargo run --release -p karat --example batch -- MODEL TEXT…`.
//! Together they take little longer than one alone, and each gets the very bits that it gets alone.
#![allow(clippy::print_stdout, reason = "an example is a program")]

use karat::{Model, Sequence, Wanted, Work};

/// Tokens for each text.
const N: usize = 16;

fn main() -> karat::Result<()> {
    let mut args = std::env::args().skip(1);
    let source = args.next().unwrap_or_else(|| "smollm2:135m".to_owned());
    let mut texts: Vec<String> = args.collect();
    if texts.is_empty() {
        texts = ["The capital of France is", "Two and two are", "Once upon a time"]
            .map(Into::into)
            .into();
    }

    let model = Model::builder(source).sequences(texts.len()).open()?;
    let sequences =
        texts.iter().map(|_| model.sequence()).collect::<karat::Result<Vec<Sequence>>>()?;
    // What each sequence reads next: first its prompt, then the token that it has just chosen.
    let mut next =
        texts.iter().map(|text| model.tokenize(text)).collect::<karat::Result<Vec<_>>>()?;
    for _ in 0..N {
        let work: Vec<Work<'_>> = sequences
            .iter()
            .zip(&next)
            .map(|(sequence, tokens)| Work { sequence, tokens, wanted: Wanted::Last })
            .collect();
        let logits = model.step(&work)?;
        next = logits.iter().map(|row| vec![karat::argmax(row)]).collect();
    }
    for sequence in &sequences {
        println!("{}\n", model.detokenize(&sequence.ids()?)?);
    }
    Ok(())
}
