//! Records every value of a run and has it judged, op by op: `cargo run --release -p karat --example why -- [MODEL]`.
//! Traces of other engines are judged the same way; docs/traces.md tells how to record them.
#![allow(clippy::print_stdout, reason = "an example is a program")]

use karat::why::{Tolerance, Verdict};
use karat::{Config, Options, Parts};

fn main() -> karat::Result<()> {
    let source = std::env::args_os().nth(1);
    let options = Options::default();
    let parts = Parts::open(source.as_deref(), &options, &Config::from_env(), &|_| {})?;
    let ids = parts.tokenizer.encode(
        "The capital of France is",
        karat::tokenizer::Special::AsText,
        karat::tokenizer::Ends::Default,
    )?;

    // A run of karat's own, in a file. Another engine's would be held to `Tolerance::Rounding`.
    let trace = std::env::temp_dir().join("karat-example.safetensors");
    let mut file = karat::output::create(&trace, karat::Existing::Replace)?;
    parts.record(&options, &ids, 2, &|_| {})?.write(&parts, &mut file)?;
    file.keep()?;
    let recording = parts.read_trace(&trace)?;
    let rows = parts.judge(&recording, Tolerance::Bits, &|_| {})?;

    println!("{} ops of {} steps judged", rows.len(), recording.steps.len());
    for row in rows.iter().filter(|row| row.verdict != Verdict::Right) {
        println!("step {}  {}: {}", row.step, row.name, row.verdict.name());
    }
    Ok(())
}
